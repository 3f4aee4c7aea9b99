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
from scipy import special

Z95 = 1.959963984540054  # two-sided 95 % quantile of the normal distribution
DRAWS = 500  # subsets or resamples of a problem's samples
_TAIL = 0.975


class Estimate(NamedTuple):
  """A mean, its standard error and 95 % interval, over how many problems."""

  mean: float
  error: float
  low: float
  high: float


def clustered(values_XQ: np.ndarray, *, share: bool = True,
              weights_Q: np.ndarray | None = None) -> Estimate:
  """The mean over problems with a cluster-robust interval.

  A value is a problem's mean over its samples, which are not independent: Q
  problems count, however many samples they have. error = sqrt(sum (x_q -
  mean)^2 / (Q - 1) / Q). Quantiles are Student's with Q - 1 degrees.

  Of shares the interval is Wilson's for as many independent trials as have this
  error, mean (1 - mean) / error^2 (Korn and Graubard, Surv. Methodol. 24:193;
  Dean and Pagano, J. Surv. Stat. Methodol. 3:484). Where few problems are
  nearly all right, mean +- t error misses the truth too often, and where all
  agree it has no width; then the trials are the problems. One problem says
  nothing of the next: its share is anywhere from 0 to 1.

  With weights w that sum to 1 the mean is sum w_q v_q, its error sqrt(Q /
  (Q - 1) sum (w_q (v_q - mean))^2), which with equal weights is the above, and
  where all agree the trials are Kish's 1 / sum w_q^2.

  Args:
    values_XQ: float, at least one problem; X are any axes, such as simulated
      runs.
    share: the values are in [0, 1]; else the interval is mean +- t error.
    weights_Q: of the problems, positive; None: they count alike.

  Returns:
    Floats, or arrays of shape X.
  """
  values_XQ = np.asarray(values_XQ, np.float64)
  count = alike = values_XQ.shape[-1]
  mean_X = values_XQ.mean(-1)
  if weights_Q is not None:
    weights_Q = np.asarray(weights_Q, np.float64) / np.sum(weights_Q)
    mean_X = values_XQ @ weights_Q
    alike = 1 / np.sum(weights_Q**2)
  if count == 1:
    wide_X = np.full_like(mean_X, 0.5 if share else np.inf)
    low_X, high_X = (wide_X - 0.5, wide_X + 0.5) if share else (
        -wide_X, wide_X)
    return Estimate(*map(_plain, (mean_X, wide_X, low_X, high_X)))
  if weights_Q is None:
    error_X = values_XQ.std(-1, ddof=1) / math.sqrt(count)
  else:
    apart_XQ = weights_Q * (values_XQ - mean_X[..., None])
    error_X = np.sqrt(count / (count - 1) * (apart_XQ**2).sum(-1))
  t = float(special.stdtrit(count - 1, _TAIL))
  if not share:
    return Estimate(*map(_plain, (
        mean_X, error_X, mean_X - t * error_X, mean_X + t * error_X)))
  spread_X = mean_X * (1 - mean_X)
  # What rounding leaves of values that are all alike is no spread.
  agree_X = error_X < 1e-12
  trials_X = np.where(
      agree_X, alike, spread_X / np.where(agree_X, 1.0, error_X) ** 2)
  a_X = t * t / trials_X
  middle_X = (mean_X + a_X / 2) / (1 + a_X)
  half_X = t / (1 + a_X) * np.sqrt(spread_X / trials_X + a_X / trials_X / 4)
  return Estimate(*map(_plain, (
      mean_X, error_X, np.maximum(middle_X - half_X, 0.0),
      np.minimum(middle_X + half_X, 1.0))))


def pass_at_1(correct_QG: np.ndarray) -> Estimate:
  """Mean over samples, then over problems, see `clustered`.

  Args:
    correct_QG: bool or float in [0, 1], not empty.

  Raises:
    ValueError: an array that is empty or not [Q, G].
  """
  return clustered(_checked(correct_QG).mean(1))


def mean_pass_at_k(correct_QG: np.ndarray, k: int) -> Estimate:
  """The mean of `pass_values`, see `clustered`."""
  return clustered(pass_values(correct_QG, k))


def pass_values(correct_QG: np.ndarray, k: int) -> np.ndarray:
  """`pass_at_k` of every problem, [Q]; a sample is right at 1."""
  correct_QG = _checked(correct_QG)
  n = correct_QG.shape[1]
  chance_C = np.array([pass_at_k(n, c, k) for c in range(n + 1)])
  return chance_C[(correct_QG >= 1.0).sum(1)]


def powers(n: int) -> list[int]:
  """The k that are told of n samples: powers of two, and n."""
  return sorted({2**i for i in range(n.bit_length()) if 2**i <= n} | {n})


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
  only where the judge does).

  Args:
    answers: Q problems of G answers.
    correct_QG: bool or float in [0, 1].

  Raises:
    ValueError: no problems, or shapes that differ.
  """
  return float(np.mean([
      float(ballot.winner(ballot.votes[None])[0])
      for ballot in _ballots(answers, correct_QG)]))


def cons_at_k(answers: Sequence[Sequence[str | None]],
              correct_QG: np.ndarray, k: int, *, draws: int = DRAWS
              ) -> Estimate:
  """How often the majority of k samples is right, see `cons_values`."""
  return clustered(cons_values(answers, correct_QG, k, draws=draws))


def cons_values(answers: Sequence[Sequence[str | None]],
                correct_QG: np.ndarray, k: int, *, draws: int = DRAWS
                ) -> np.ndarray:
  """How right the majority of k samples is, [Q], voting as in `maj_at_k`.

  A problem's value is the mean over `draws` random subsets of k of its G
  samples, so it is unbiased; for k = 1 and k = G it is exact, pass@1 (what
  abstains is wrong) and maj@G. Drawing k with replacement instead would draw
  the same sample twice and make the vote of few samples too sure.

  Raises:
    ValueError: as `maj_at_k`, or unless 1 <= k <= G.
  """
  ballots = _ballots(answers, correct_QG)
  n = len(answers[0])
  if not 1 <= k <= n:
    raise ValueError(f"k={k}: at least 1 and at most the {n} samples")
  return np.array([
      ballot.value(k, draws, np.random.default_rng((_SUBSETS, q)))
      for q, ballot in enumerate(ballots)])


def cons_error(answers: Sequence[Sequence[str | None]],
               correct_QG: np.ndarray, *, draws: int = DRAWS) -> float:
  """Standard error of maj@G from its samples alone: bootstrap over them.

  The problems stay, each problem's G samples are drawn again with replacement:
  how far the figure moves when the same test is sampled anew.
  """
  ballots = _ballots(answers, correct_QG)
  return float(np.mean([
      ballot.again(draws, np.random.default_rng((_RESAMPLES, q)))
      for q, ballot in enumerate(ballots)], 0).std(ddof=1))


_SUBSETS, _RESAMPLES = 0, 1  # streams of random numbers


class _Ballot(NamedTuple):
  """A problem's answers.

  Attributes:
    votes: int [A + 1], samples by answer, those that abstain last.
    right: float [A], mean correctness of an answer's samples.
  """

  votes: np.ndarray
  right: np.ndarray

  def winner(self, votes_BA: np.ndarray) -> np.ndarray:
    """Correctness [B] of the most frequent answer; 0 where all abstain."""
    votes_BA = votes_BA[:, :-1]
    if not votes_BA.shape[1]:
      return np.zeros(len(votes_BA))
    most_B1 = votes_BA.max(1, keepdims=True)
    wins_BA = (votes_BA == most_B1) & (most_B1 > 0)
    return (wins_BA * self.right).sum(1) / np.maximum(wins_BA.sum(1), 1)

  def value(self, k: int, draws: int, generator: np.random.Generator) -> float:
    """Mean correctness of the majority over subsets of k."""
    n = int(self.votes.sum())
    if k == 1:
      return float((self.votes[:-1] * self.right).sum() / n)
    if k == n or np.count_nonzero(self.votes) == 1:
      return float(self.winner(self.votes[None])[0])
    return float(self.winner(generator.multivariate_hypergeometric(
        self.votes, k, size=draws)).mean())

  def again(self, draws: int, generator: np.random.Generator) -> np.ndarray:
    """Correctness [draws] of the majority when all samples are redrawn."""
    n = self.votes.sum()
    return self.winner(generator.multinomial(n, self.votes / n, size=draws))


def _ballots(answers: Sequence[Sequence[str | None]], correct_QG: np.ndarray
             ) -> list[_Ballot]:
  correct_QG = np.asarray(correct_QG, np.float64)
  shape = (len(answers), len(answers[0]) if answers else 0)
  if not answers or correct_QG.shape != shape:
    raise ValueError(
        f"answers are {shape}, correct is {correct_QG.shape}: give one verdict"
        " per answer and at least one problem")
  return [_ballot(row, correct_G)
          for row, correct_G in zip(answers, correct_QG)]


def _ballot(answers: Sequence[str | None], correct_G: np.ndarray) -> _Ballot:
  groups: dict[str, list[float]] = collections.defaultdict(list)
  for answer, correct in zip(answers, correct_G, strict=True):
    if answer is not None:
      groups[answer].append(float(correct))
  votes = [len(group) for group in groups.values()]
  return _Ballot(
      np.array([*votes, len(answers) - sum(votes)], np.int64),
      np.array([sum(group) / len(group) for group in groups.values()]))


def _checked(correct_QG: np.ndarray) -> np.ndarray:
  correct_QG = np.asarray(correct_QG, np.float64)
  if correct_QG.ndim != 2 or not correct_QG.size:
    raise ValueError(
        f"correct has shape {correct_QG.shape}: give [problems, samples],"
        " at least one of each")
  return correct_QG


def _plain(x: np.ndarray) -> float | np.ndarray:
  return float(x) if np.ndim(x) == 0 else x
