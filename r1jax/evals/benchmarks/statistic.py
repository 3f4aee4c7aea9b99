"""The figures of a benchmark, computed from its samples.

A row is one problem with lists over its samples, as `evals.runner` makes them;
where a model judges, "parts"/"accuracy" holds its verdicts. `mean` computes
every share that is reported and its interval: an estimate over problems, each a
cluster of samples.
"""

from __future__ import annotations

import collections
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from r1jax.evals import estimators

Row = Mapping[str, Any]


class Number(NamedTuple):
  """One figure of a benchmark.

  Attributes:
    name: such as "pass@1".
    value: None where nothing was measured; `note` says why.
    low, high: ends of the 95 % interval, or None.
    count: number of problems.
    share: whether it is a share in [0, 1], which is shown in percent.
    note: a remark to show beside it.
  """

  name: str
  value: float | None
  low: float | None = None
  high: float | None = None
  count: int = 0
  share: bool = True
  note: str = ""


# From a benchmark's rows to its figures; the first one is shown in tables.
Numbers = Callable[[Sequence[Row]], list[Number]]


def mean(name: str, values_QG: Sequence[Sequence[float]],
         counted_QG: Sequence[Sequence[bool]] | None = None) -> Number:
  """The mean over samples, then over problems, with its interval.

  Args:
    name: the figure's name.
    values_QG: in [0, 1], one row a problem; rows may differ in length.
    counted_QG: which values count; by default all. Problems without any are
      left out, and the figure's note says how many.
  """
  kept = []
  for number, values in enumerate(values_QG):
    row = [float(value) for g, value in enumerate(values)
           if counted_QG is None or counted_QG[number][g]]
    if row:
      kept.append(float(np.mean(row)))
  left_out = len(values_QG) - len(kept)
  note = f"{left_out} problems without any verdict" if left_out else ""
  if not kept:
    return Number(name, None, note=note or "no problems")
  # One mean per problem, because its samples are one cluster.
  found = estimators.clustered(np.array(kept))
  return Number(name, found.mean, found.low, found.high, len(kept), note=note)


def weighted(name: str, values_Q: Sequence[float], weights_Q: Sequence[float]
             ) -> Number:
  """sum w v / sum w over problems, with its interval.

  The interval linearises the ratio: one residual w (v - mean) per problem
  (Cochran, Sampling Techniques).
  """
  v_Q, w_Q = (np.asarray(x, np.float64) for x in (values_Q, weights_Q))
  if not len(v_Q) or not w_Q.sum():
    return Number(name, None, note="no problems")
  value = float((w_Q * v_Q).sum() / w_Q.sum())
  if len(v_Q) == 1:
    return Number(name, value, 0.0, 1.0, 1)
  found = estimators.clustered(
      value + w_Q * (v_Q - value) / w_Q.mean(), share=False)
  return Number(name, value, max(0.0, found.low), min(1.0, found.high),
                len(v_Q))


def accuracy(rows: Sequence[Row]) -> list[Number]:
  """pass@1, cons@k where answers can vote, and pass@1 by level."""
  return [_pass1(rows), *consensus(rows), *by_level(rows, _pass1)]


def judged(rows: Sequence[Row]) -> list[Number]:
  """The share that a judge calls correct, also by level; missing verdicts.

  Samples without a verdict do not count as wrong; their share is reported.
  """
  return [_judged(rows), *by_level(rows, _judged), missing(rows)]


def consensus(rows: Sequence[Row]) -> list[Number]:
  """cons@k over all k samples; [] where k is 1 or no answer can vote."""
  answers = [row["answers"] for row in rows]
  k = len(answers[0]) if answers else 0
  if k < 2 or not any(a is not None for row in answers for a in row):
    return []
  values_Q = [[estimators.maj_at_k([row["answers"]], np.array([correct(row)]))]
              for row in rows]
  return [mean(f"cons@{k}", values_Q)]


def by_level(rows: Sequence[Row], figure: Callable[[Sequence[Row]], Number]
             ) -> list[Number]:
  """The figure of each level; [] if there are fewer than two levels."""
  groups = collections.defaultdict(list)
  for row in rows:
    if row.get("level") is not None:
      groups[row["level"]].append(row)
  if len(groups) < 2:
    return []
  return [figure(groups[level])._replace(name=f"  {level}")
          for level in sorted(groups, key=_order)]


def measure(name: str, rows: Sequence[Row], key: str) -> Number:
  """The mean of a rule's measure accuracy/`key`; an absent one counts as 0."""
  return mean(name, [
      [sample.get(f"accuracy/{key}", 0.0) for sample in row["measures"]]
      for row in rows])


def reasons(name: str, rows: Sequence[Row], reason: str) -> Number:
  """The share of verdicts with this reason."""
  return mean(name, [
      [said.get("accuracy") == reason for said in row["reasons"]]
      for row in rows], [row["valid"] for row in rows])


def missing(rows: Sequence[Row]) -> Number:
  """The share of samples without a verdict."""
  return mean("no verdict", [[not v for v in row["valid"]] for row in rows])


def correct(row: Row) -> list[float]:
  """The accuracy of a problem's samples, in [0, 1]; 0 without a verdict."""
  return [value * valid for value, valid in zip(
      row["parts"]["accuracy"], row["valid"], strict=True)]


def _pass1(rows: Sequence[Row]) -> Number:
  return mean("pass@1", [correct(row) for row in rows])


def _judged(rows: Sequence[Row]) -> Number:
  return mean("correct", [row["parts"]["accuracy"] for row in rows],
              [row["valid"] for row in rows])


def _order(level: Any) -> tuple[int, float, str]:
  """Sort key: easy, medium, hard; then levels with numbers; then by name."""
  text = str(level)
  if text in _EASE:
    return 0, _EASE.index(text), text
  digits = text.rpartition(" ")[2]
  return (1, float(digits), text) if digits.isdigit() else (2, 0.0, text)


_EASE = ("easy", "medium", "hard")
