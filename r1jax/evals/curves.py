"""What the evaluations during a run measured, step by step."""

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

  A measure that no question of a step has is absent from its row.

  Args:
    workdir: of the run; where nothing is stored there are no rows.
    measures: names in `measures.MEASURES`.

  Raises:
    ValueError: a file is damaged, or older than what it must tell.
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
