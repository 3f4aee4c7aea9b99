"""Metrics of reward models: pair accuracy, calibration, length bias."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from r1jax.evals import estimators

# Upper ends of the buckets of answer lengths in tokens; above is one more.
LENGTHS = (16, 32, 64, 128, 256, 512, 1024, 2048)
BINS = 10  # of the reliability curve


def pairs(chosen: Sequence[float], rejected: Sequence[float],
          lengths: Sequence[tuple[int, int]], sources: Sequence[str]
          ) -> dict[str, Any]:
  """Metrics of a pairwise reward model.

  Args:
    chosen, rejected: scores of the preferred and of the other answers.
    lengths: (tokens of the preferred answer, of the other) of each pair.
    sources: the data set of each pair.

  Returns:
    JSON-ready: `accuracy` (share in the right order; ties count half),
    `accuracy_low` and `accuracy_high` (95 %), `count`; `by_source` and
    `by_length` (of the longer answer), each name -> {"accuracy", "count"};
    `length_correlation` of scores and answers' lengths; `prefers_longer`, the
    share of pairs of unequal length whose longer answer scores higher;
    `longer_is_chosen`, the share of those whose longer answer is preferred.
  """
  chosen, rejected = (np.asarray(x, np.float64) for x in (chosen, rejected))
  right = (chosen > rejected) + 0.5 * (chosen == rejected)
  size = np.asarray(lengths, np.int64).reshape(-1, 2)
  low, high = interval(float(right.sum()), len(right))
  longer = size[:, 0] - size[:, 1]
  unequal = longer != 0
  higher = (chosen > rejected) == (longer > 0)
  return {
      "accuracy": _mean(right), "accuracy_low": low, "accuracy_high": high,
      "count": len(right), "by_source": _grouped(right, sources),
      "by_length": _grouped(right, buckets(size.max(1, initial=0))),
      "length_correlation": correlation(
          np.concatenate([chosen, rejected]), size.T.reshape(-1)),
      "prefers_longer": _mean(higher[unequal]),
      "longer_is_chosen": _mean(longer[unequal] > 0)}


def answers(scores: Sequence[float], labels: Sequence[float],
            lengths: Sequence[int], sources: Sequence[str]) -> dict[str, Any]:
  """Metrics of a pointwise reward model.

  Args:
    scores: log-odds that each answer is good.
    labels: from 0 to 1; above 0.5 is good.
    lengths: tokens of the answers.
    sources: the data set of each answer.

  Returns:
    JSON-ready: the entries of `pairs` that apply, with `accuracy` at the
    threshold 0; `auroc`; `ece`; `reliability`, see the function; `positives`,
    the share of good answers.
  """
  scores = np.asarray(scores, np.float64)
  good = np.asarray(labels, np.float64) > 0.5
  right = (scores > 0) == good
  probabilities = 1 / (1 + np.exp(-np.clip(scores, -700, 700)))
  low, high = interval(float(right.sum()), len(right))
  curve = reliability(probabilities, good)
  return {
      "accuracy": _mean(right), "accuracy_low": low, "accuracy_high": high,
      "count": len(right), "by_source": _grouped(right, sources),
      "by_length": _grouped(right, buckets(lengths)),
      "length_correlation": correlation(scores, lengths),
      "auroc": auroc(scores, good), "positives": _mean(good),
      "ece": expected_error(curve), "reliability": curve}


def auroc(scores: np.ndarray, good: np.ndarray) -> float | None:
  """The probability that a good answer scores above a bad one; ties count half.

  None where all answers are good or all are bad.
  """
  scores, good = np.asarray(scores, np.float64), np.asarray(good, bool)
  n, m = int(good.sum()), int((~good).sum())
  if not n or not m:
    return None
  # Mann-Whitney: mean ranks, so that ties are shared.
  _, where, counts = np.unique(scores, return_inverse=True, return_counts=True)
  last = np.cumsum(counts)
  ranks = (last - (counts - 1) / 2)[where]
  return float((ranks[good].sum() - n * (n + 1) / 2) / (n * m))


def reliability(probabilities: np.ndarray, good: np.ndarray, bins: int = BINS
                ) -> list[dict[str, float]]:
  """The reliability curve: rows {"said", "found", "count"} of non-empty bins.

  `said` is the mean probability in the bin, `found` the share of good answers.
  """
  probabilities, good = np.asarray(probabilities), np.asarray(good)
  at = np.minimum((probabilities * bins).astype(int), bins - 1)
  return [{"said": float(probabilities[at == b].mean()),
           "found": float(good[at == b].mean()),
           "count": int((at == b).sum())}
          for b in range(bins) if np.any(at == b)]


def expected_error(curve: Sequence[dict[str, float]]) -> float | None:
  """ECE: mean |said - found| over all answers (Guo et al., arXiv:1706.04599).

  None without answers.
  """
  count = sum(row["count"] for row in curve)
  if not count:
    return None
  return float(sum(row["count"] * abs(row["said"] - row["found"])
                   for row in curve) / count)


def correlation(x: Sequence[float], y: Sequence[float]) -> float | None:
  """Pearson's correlation; None where either side is constant."""
  x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
  if len(x) < 2 or not x.std() or not y.std():
    return None
  return float(np.corrcoef(x, y)[0, 1])


def blank(bad: Sequence[float]) -> float:
  """The score to give to an empty answer.

  One standard deviation below the first percentile of bad answers' scores, so
  that saying nothing does not pay. It depends on the model because the offset
  of a pairwise model's scores is arbitrary.

  Args:
    bad: validation scores of rejected or bad answers, at least one.
  """
  bad = np.asarray(bad, np.float64)
  # A minimum distance, for answers that all score alike.
  return float(np.percentile(bad, 1) - max(bad.std(), 1e-3))


def interval(right: float, count: int) -> tuple[float | None, float | None]:
  """Wilson's 95 % interval of a share."""
  if not count:
    return None, None
  low, high = estimators.wilson(right / count, count)
  return float(low), float(high)


def buckets(lengths: Sequence[int]) -> list[str]:
  """The name of each length's bucket, such as `17-32`."""
  edges = (0, *LENGTHS)
  names = [f"{a + 1}-{b}" for a, b in zip(edges, edges[1:])]
  names.append(f"{edges[-1] + 1}-")
  return [names[i] for i in np.searchsorted(LENGTHS, lengths)]


def _grouped(right: np.ndarray, names: Sequence[str]) -> dict[str, Any]:
  groups: dict[str, list[float]] = {}
  for name, value in zip(names, right, strict=True):
    groups.setdefault(name or "unnamed", []).append(float(value))
  order = sorted(groups, key=lambda name: (
      int(name.partition("-")[0]) if name[:1].isdigit()
      and name.partition("-")[0].isdigit() else 0, name))
  return {name: {"accuracy": _mean(groups[name]), "count": len(groups[name])}
          for name in order}


def _mean(values: Sequence[float]) -> float | None:
  return float(np.mean(values)) if len(values) else None
