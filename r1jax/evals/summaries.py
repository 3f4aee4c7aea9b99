"""All statistics of an evaluation, for result.json and for reports.

Every mean is over problems with a cluster-robust 95 % interval
(`estimators.clustered`), for the whole evaluation and for its parts, such as
levels.
"""

from __future__ import annotations

import collections
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from r1jax.evals import estimators
from r1jax.evals.estimators import Estimate
from r1jax.evals.intervals import Values

# Keys of a row by which an evaluation is split.
PARTS = ("domain", "source", "language", "level", "topic")
# Names of the topic in the metadata of data sets.
_TOPICS = ("topic", "subject", "category", "type")


def topic(metadata: Mapping[str, Any]) -> str | None:
  """A question's topic, whatever its data set calls it; None if it has none."""
  for name in _TOPICS:
    if isinstance(metadata.get(name), str) and metadata[name]:
      return metadata[name]
  return None


class Problems(NamedTuple):
  """The problems of one data set with their samples' verdicts.

  Attributes:
    rows: one a problem, with "question", "reference", "answers" and the keys
      in `PARTS`.
    correct_QG: in [0, 1], 0 without a verdict.
    lengths_QG: tokens of each completion.
    texts: the completions of each problem.
    counted_QG: bool, the samples that count; None: all. Those on which a judge
      model gave no verdict do not.
  """

  rows: list[dict[str, Any]]
  correct_QG: np.ndarray
  lengths_QG: np.ndarray
  texts: list[list[str]]
  counted_QG: np.ndarray | None = None

  @property
  def samples(self) -> int:
    """G, the number of samples per problem."""
    return self.correct_QG.shape[1]

  def values(self, numbers_Q: np.ndarray | None = None) -> Values:
    """One number per problem, keyed so that two models can be compared.

    The key is (question, number of its earlier occurrences).

    Args:
      numbers_Q: the numbers; None: pass@1, without the problems of which no
        sample counts.
    """
    if numbers_Q is None:
      numbers_Q = _pass_1(self.correct_QG, self.counted_QG)
    seen: collections.Counter[str] = collections.Counter()
    values = {}
    for row, number in zip(self.rows, numbers_Q, strict=True):
      if not np.isnan(number):
        values[row["question"], seen[row["question"]]] = float(number)
      seen[row["question"]] += 1
    return values

  def majority(self, k: int) -> Values:
    """Correctness of the majority of k samples, see `cons_values`."""
    answers = [row["answers"] for row in self.rows]
    return self.values(estimators.cons_values(answers, self.correct_QG, k))


def by_source(rows: Iterable[Mapping[str, Any]]) -> dict[str, Problems]:
  """The samples that `evals.runner` stored, by data set and problem.

  Raises:
    ValueError: problems of one data set have different numbers of samples.
  """
  sets: dict[str, dict[Any, list[Mapping[str, Any]]]] = {}
  for row in rows:
    sets.setdefault(row["source"], {}).setdefault(row["id"], []).append(row)
  found = {}
  for source, problems in sets.items():
    counts = sorted({len(samples) for samples in problems.values()})
    if len(counts) > 1:
      raise ValueError(f"problems of {source} have {counts} samples; evaluate"
                       " them again with the same number")
    groups = list(problems.values())
    judged = any(row.get("judged") for group in groups for row in group)
    found[source] = Problems(
        [{key: group[0].get(key) for key in (*PARTS, "question", "reference")}
         | {"answers": [row["answer"] for row in group]} for group in groups],
        np.array([[row["parts"]["accuracy"] * row["valid"] for row in group]
                  for group in groups], np.float64),
        np.array([[row["length"] for row in group] for group in groups]),
        [[row["completion"] for row in group] for group in groups],
        np.array([[row["valid"] for row in group] for group in groups], bool)
        if judged else None)
  return found


def of_rows(rows: Sequence[Mapping[str, Any]], correct_QG: np.ndarray,
            counted_QG: np.ndarray | None = None) -> dict[str, Any]:
  """JSON-ready statistics of problems with the same number of samples each.

  Args:
    rows: one a problem, with "answers" (None abstains) and the keys in `PARTS`.
    correct_QG: in [0, 1], 0 without a verdict.
    counted_QG: bool, the samples that count, by default all. Estimates for k
      use only the problems with at least k samples that count.

  Returns:
    {"problems", "samples", "pass_1", "pass_k": {k: ...}, "cons_k": {k: ...},
    "cons_error", "by": {part: {value: ...}}, "not_counted"}. An estimate is
    {"mean", "error", "low", "high", "count"}; with a count of 0 problems the
    others are None. "cons_error" is the standard error of the majority vote
    over all samples, see `estimators.cons_error`. "by" has pass@1 by the values
    of each part that has two or more.
  """
  problems, samples = correct_QG.shape
  if counted_QG is None:
    counted_QG = np.ones_like(correct_QG, bool)
  answers = [[answer for answer, counts in zip(row["answers"], counted_G)
              if counts] for row, counted_G in zip(rows, counted_QG)]
  pass_1_Q = _pass_1(correct_QG, counted_QG)
  # Problems with equal numbers of counted samples form one array.
  groups = [([answers[q] for q in of], np.stack(
      [correct_QG[q][counted_QG[q]] for q in of]))
            for n in np.unique(counted_QG.sum(1)) if n
            for of in [np.flatnonzero(counted_QG.sum(1) == n)]]

  def of_k(k: int, values: Callable[..., np.ndarray]) -> dict[str, Any]:
    return _told(np.concatenate([np.zeros(0), *(
        values(said, right, k) for said, right in groups
        if right.shape[1] >= k)]))

  ks = estimators.powers(samples)
  return {
      "problems": problems, "samples": samples,
      "not_counted": int((~counted_QG).sum()), "pass_1": _told(pass_1_Q),
      "pass_k": {str(k): of_k(k, lambda said, right, k: (
          estimators.pass_values(right, k))) for k in ks},
      "cons_k": {str(k): of_k(k, estimators.cons_values) for k in ks},
      # Groups are independent: variances of their sums add up.
      "cons_error": float(np.sqrt(sum(
          (len(said) * estimators.cons_error(said, right)) ** 2
          for said, right in groups))) / max(
              1, sum(len(said) for said, _ in groups)),
      "by": {part: {name: _told(pass_1_Q[of]) for name, of in found.items()}
             for part in PARTS
             if len(found := parts(rows, lambda row, part=part: row.get(part)
                                   )) > 1}}


def _pass_1(correct_QG: np.ndarray, counted_QG: np.ndarray | None
            ) -> np.ndarray:
  """Each problem's mean over the samples that count, [Q]; NaN if none does."""
  if counted_QG is None or counted_QG.all():
    return correct_QG.mean(1)
  count_Q = counted_QG.sum(1)
  return np.where(count_Q > 0, (correct_QG * counted_QG).sum(1) / np.maximum(
      count_Q, 1), np.nan)


def _told(values_Q: np.ndarray) -> dict[str, Any]:
  """The estimate from the values that are not NaN."""
  values_Q = values_Q[~np.isnan(values_Q)]
  if not len(values_Q):
    return dict.fromkeys(Estimate._fields) | {"count": 0}
  return estimators.clustered(values_Q)._asdict() | {"count": len(values_Q)}


def parts(rows: Sequence[Mapping[str, Any]],
          value: Callable[[Mapping[str, Any]], Any]) -> dict[str, list[int]]:
  """The indices of the rows by `value(row)`; rows of value None are left out.
  """
  groups: dict[str, list[int]] = collections.defaultdict(list)
  for number, row in enumerate(rows):
    if (name := value(row)) is not None:
      groups[str(name)].append(number)
  return dict(sorted(groups.items()))
