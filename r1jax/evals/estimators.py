"""Estimates from k samples per problem; k is read from the data, never set.

Dividing by a configured number of samples instead of the number present is how
reported accuracies come to depend on batch settings.
"""

from __future__ import annotations

import collections
import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

Z95 = 1.959963984540054  # two-sided 95 % quantile of the normal distribution


class Estimate(NamedTuple):
  """A mean in [0, 1], its standard error and 95 % interval (clipped)."""

  mean: float
  error: float
  low: float
  high: float


def pass_at_1(correct_QG: np.ndarray) -> Estimate:
  """Mean over samples, then over problems; the error clusters by problem.

  With p_q the mean of problem q: mean = (1/Q) sum p_q and
  error = sqrt(sum (p_q - mean)^2 / (Q - 1) / Q). Samples of one problem are
  not independent, so Q counts and Q*G does not. One problem says nothing of
  the next: its error is 0.5, the largest possible.

  Args:
    correct_QG: bool or float in [0, 1], not empty.

  Raises:
    ValueError: an array that is empty or not [Q, G].
  """
  correct_QG = np.asarray(correct_QG, np.float64)
  if correct_QG.ndim != 2 or not correct_QG.size:
    raise ValueError(
        f"correct has shape {correct_QG.shape}: give [problems, samples],"
        " at least one of each")
  means_Q = correct_QG.mean(1)
  mean = float(means_Q.mean())
  if len(means_Q) == 1:
    return Estimate(mean, 0.5, 0.0, 1.0)
  error = float(means_Q.std(ddof=1) / math.sqrt(len(means_Q)))
  return Estimate(mean, error, max(0.0, mean - Z95 * error),
                  min(1.0, mean + Z95 * error))


def pass_at_k(n: int, c: int, k: int) -> float:
  """Unbiased chance that k of n samples, c of them correct, hold a correct one.

  1 - C(n-c, k) / C(n, k) (Chen et al., arXiv:2107.03374, Eq. 1), exact.

  Raises:
    ValueError: unless 1 <= k <= n and 0 <= c <= n.
  """
  if not (1 <= k <= n and 0 <= c <= n):
    raise ValueError(
        f"n={n}, c={c}, k={k}: 1 <= k <= n and 0 <= c <= n are needed; draw"
        " more samples or ask for a smaller k")
  return 1.0 - math.comb(n - c, k) / math.comb(n, k)


def maj_at_k(answers: Sequence[Sequence[str | None]],
             correct_QG: np.ndarray) -> float:
  """Share of problems whose most frequent answer is correct; k = G.

  Votes go to answers spelt alike (normalise them first); None abstains. Tied
  answers each count with the same probability, so nothing depends on order. A
  winner's correctness is the mean over the samples that gave it (they differ
  only where the judge does). All G samples vote: a maj@k for k < G would be an
  average over subsets, which is not offered; take k columns.

  Args:
    answers: Q problems of G answers.
    correct_QG: bool or float in [0, 1].

  Raises:
    ValueError: no problems, or shapes that differ.
  """
  correct_QG = np.asarray(correct_QG, np.float64)
  shape = (len(answers), len(answers[0]) if answers else 0)
  if not answers or correct_QG.shape != shape:
    raise ValueError(
        f"answers are {shape}, correct is {correct_QG.shape}: give one verdict"
        " per answer and at least one problem")
  return float(np.mean([
      _winner(row, correct_G) for row, correct_G in zip(answers, correct_QG)]))


def _winner(answers: Sequence[str | None], correct_G: np.ndarray) -> float:
  groups = collections.defaultdict(list)
  for answer, correct in zip(answers, correct_G, strict=True):
    if answer is not None:
      groups[answer].append(float(correct))
  most = max(map(len, groups.values()), default=0)
  winners = [sum(g) / len(g) for g in groups.values() if len(g) == most]
  return sum(winners) / len(winners) if winners else 0.0
