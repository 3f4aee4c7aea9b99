"""All statistics of an evaluation, for result.json and for reports.

Every mean is over problems with a cluster-robust 95 % interval
(`estimators.clustered`); parts of an evaluation, such as its levels, have
theirs.
"""

from __future__ import annotations

import collections
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from r1jax.evals import estimators
from r1jax.evals.estimators import Estimate
from r1jax.evals.intervals import Values

# By what an evaluation is taken apart, and where a row has it.
PARTS = ("domain", "source", "language", "level", "topic")
# What data sets call a question's topic.
_TOPICS = ("topic", "subject", "category", "type")


def topic(metadata: Mapping[str, Any]) -> str | None:
  """What a question is about, under whichever name its data set has it."""
  for name in _TOPICS:
    if isinstance(metadata.get(name), str) and metadata[name]:
      return metadata[name]
  return None


class Problems(NamedTuple):
  """The problems of one data set with their samples' verdicts.

  Attributes:
    rows: a problem's "question", "reference", "answers" and what `PARTS` names.
    correct_QG: in [0, 1], 0 without a verdict.
    lengths_QG: tokens of each answer.
    texts: the answers of each problem.
  """

  rows: list[dict[str, Any]]
  correct_QG: np.ndarray
  lengths_QG: np.ndarray
  texts: list[list[str]]

  @property
  def samples(self) -> int:
    """G, of each problem."""
    return self.correct_QG.shape[1]

  def values(self, numbers_Q: np.ndarray | None = None) -> Values:
    """One number a problem, to compare with another model's: pass@1 if None.

    A problem is known by its question, and a question that is there several
    times also by which of them it is.
    """
    if numbers_Q is None:
      numbers_Q = self.correct_QG.mean(1)
    seen: collections.Counter[str] = collections.Counter()
    values = {}
    for row, number in zip(self.rows, numbers_Q, strict=True):
      values[row["question"], seen[row["question"]]] = float(number)
      seen[row["question"]] += 1
    return values

  def majority(self, k: int) -> Values:
    """Whether the majority of k samples is right, see `cons_at_k`."""
    answers = [row["answers"] for row in self.rows]
    return self.values(estimators.cons_values(answers, self.correct_QG, k))


def by_source(rows: Iterable[Mapping[str, Any]]) -> dict[str, Problems]:
  """The samples that `evals.runner` stored, by data set and problem.

  Raises:
    ValueError: problems of one data set have unlike numbers of samples.
  """
  sets: dict[str, dict[Any, list[Mapping[str, Any]]]] = {}
  for row in rows:
    sets.setdefault(row["source"], {}).setdefault(row["id"], []).append(row)
  found = {}
  for source, problems in sets.items():
    counts = sorted({len(samples) for samples in problems.values()})
    if len(counts) > 1:
      raise ValueError(f"problems of {source} have {counts} samples; evaluate"
                       " them again with one number")
    groups = list(problems.values())
    found[source] = Problems(
        [{key: group[0].get(key) for key in (*PARTS, "question", "reference")}
         | {"answers": [row["answer"] for row in group]} for group in groups],
        np.array([[row["parts"]["accuracy"] * row["valid"] for row in group]
                  for group in groups], np.float64),
        np.array([[row["length"] for row in group] for group in groups]),
        [[row["completion"] for row in group] for group in groups])
  return found


def of_rows(rows: Sequence[Mapping[str, Any]], correct_QG: np.ndarray
            ) -> dict[str, Any]:
  """JSON-ready statistics of problems with as many samples each.

  Args:
    rows: a problem's "answers" (None abstains) and what `PARTS` names.
    correct_QG: in [0, 1], 0 without a verdict.

  Returns:
    {"problems", "samples", "pass_1", "pass_k": {k: ...}, "cons_k": {k: ...},
    "cons_error", "by": {part: {value: ...}}}. An estimate is {"mean", "error",
    "low", "high", "count"}; "cons_error" is the standard error of the majority
    of all samples by bootstrap over them, the problems as they are; "by" has
    pass@1 of the problems of one level, and so on, where there are several.
  """
  answers = [row["answers"] for row in rows]
  problems, samples = correct_QG.shape
  ks = estimators.powers(samples)

  def told(estimate: Estimate, count: int = problems) -> dict[str, Any]:
    return estimate._asdict() | {"count": count}

  return {
      "problems": problems, "samples": samples,
      "pass_1": told(estimators.pass_at_1(correct_QG)),
      "pass_k": {str(k): told(estimators.mean_pass_at_k(correct_QG, k))
                 for k in ks},
      "cons_k": {str(k): told(estimators.cons_at_k(answers, correct_QG, k))
                 for k in ks},
      "cons_error": estimators.cons_error(answers, correct_QG),
      "by": {part: {
          name: told(estimators.pass_at_1(correct_QG[of]), len(of))
          for name, of in groups.items()}
             for part in PARTS
             if len(groups := parts(rows, lambda row, part=part: row.get(part)
                                    )) > 1}}


def parts(rows: Sequence[Mapping[str, Any]],
          value: Callable[[Mapping[str, Any]], Any]) -> dict[str, list[int]]:
  """The numbers of the rows by their value, those without one left out."""
  groups: dict[str, list[int]] = collections.defaultdict(list)
  for number, row in enumerate(rows):
    if (name := value(row)) is not None:
      groups[str(name)].append(number)
  return dict(sorted(groups.items()))
