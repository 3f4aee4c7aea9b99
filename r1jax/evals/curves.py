"""Learning curves from the evaluations that a training run stored."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Any

from r1jax.evals import intervals
from r1jax.evals import samples as samples_lib
from r1jax.evals.measures import MEASURES
from r1jax.report import rollouts


def of_run(workdir: str | os.PathLike, measures: Iterable[str]
           ) -> list[dict[str, Any]]:
  """Rows {"step", NAME, NAME_low, NAME_high} of a run's stored evaluations.

  A measure that applies to no question of a step is absent from that row.

  Args:
    workdir: the run's folder; without stored evaluations there are no rows.
    measures: names in `measures.MEASURES`.

  Raises:
    ValueError: a file is damaged, or was written by a version that did not
      store the questions' sources.
  """
  names, rows = list(measures), []
  for step in rollouts.steps(workdir, rollouts.EVALUATIONS):
    samples = samples_lib.grouped(
        rollouts.read(workdir, step, rollouts.EVALUATIONS))
    row: dict[str, Any] = {"step": step}
    for name in names:
      measure = MEASURES[name]
      if found := intervals.mean(
          measure.values(samples), binary=measure.binary,
          share=measure.share):
        row |= {name: found.value, f"{name}_low": found.low,
                f"{name}_high": found.high}
    rows.append(row)
  return rows
