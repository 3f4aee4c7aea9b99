"""Estimates from several samples per problem: pass@1, pass@k, maj@k, cons@k.

The number of samples is read from the data and never configured: dividing by a
configured number instead makes accuracies depend on batch settings.
"""

from __future__ import annotations

import collections
import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy import special

Z95 = 1.959963984540054  # two-sided 95 % quantile of the normal distribution
DRAWS = 500  # random subsets or resamples of a problem's samples
_TAIL = 0.975


class Estimate(NamedTuple):
  """A mean over problems, its standard error, and its 95 % interval."""

  mean: float
  error: float
  low: float
  high: float


def clustered(values_XQ: np.ndarray, *, share: bool = True,
              weights_Q: np.ndarray | None = None) -> Estimate:
  """The mean over problems with a cluster-robust interval.

  A value is a problem's mean over its samples. Samples of one problem are not
  independent, so the sample size is the number of problems Q: error =
  sqrt(sum (x_q - mean)^2 / (Q - 1) / Q), with quantiles of Student's t with
  Q - 1 degrees of freedom.

  For shares it is Wilson's interval with the effective number of independent
  trials that gives this error, mean (1 - mean) / error^2 (Korn and Graubard,
  Surv. Methodol. 24:193; Dean and Pagano, J. Surv. Stat. Methodol. 3:484),
  because mean +- t error covers the truth too rarely where few problems are
  nearly all right. Where all values are equal, the number of trials is Q. With
  a single problem the interval of a share is [0, 1].

  With weights w that sum to 1 the mean is sum w_q v_q and its error sqrt(Q /
  (Q - 1) sum (w_q (v_q - mean))^2), the same as above if they are equal; where
  all values are equal, the number of trials is Kish's 1 / sum w_q^2.

  Args:
    values_XQ: float, at least one problem; X are any leading axes, such as
      simulated runs.
    share: whether values are in [0, 1]; if not, the interval is mean +- t
      error.
    weights_Q: positive weights of the problems; None: equal weights.

  Returns:
    Floats, or arrays of shape X.
  """
  values_XQ = np.asarray(values_XQ, np.float64)
  count = alike = values_XQ.shape[-1]
  mean_X = values_XQ.mean(-1)
  if weights_Q is not None:
    weights_Q = np.asarray(weights_Q, np.float64) / np.sum(weights_Q)
    # A sum of rounded weights times 1 may exceed 1.
    mean_X = np.clip(
        values_XQ @ weights_Q, values_XQ.min(-1), values_XQ.max(-1))
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
  # Values that are equal up to rounding have no spread.
  agree_X = error_X < 1e-12
  trials_X = np.where(agree_X, alike, mean_X * (1 - mean_X)
                      / np.where(agree_X, 1.0, error_X) ** 2)
  return Estimate(*map(_plain, (mean_X, error_X,
                                *wilson(mean_X, trials_X, t))))


def wilson(share_X: np.ndarray, trials_X: np.ndarray, quantile: float = Z95
           ) -> tuple[np.ndarray, np.ndarray]:
  """Wilson's interval (low, high) of shares; at 0 and 1 it ends exactly there.

  The ends are the roots p of (p - share)^2 = quantile^2 p (1 - p) / trials. Of
  each equation the larger root is computed, and the other from their product,
  share^2 / (1 + quantile^2 / trials): as a difference it would round to 7e-18
  where it is 0.

  Args:
    share_X: in [0, 1], any shape.
    trials_X: the number of independent trials, more than 0.
    quantile: of the distribution of the error.
  """
  a_X = quantile**2 / np.asarray(trials_X, np.float64)

  def low_X(share_X: np.ndarray) -> np.ndarray:
    return share_X**2 / (share_X + a_X / 2 + np.sqrt(
        a_X * (share_X * (1 - share_X) + a_X / 4)))

  return low_X(share_X), 1 - low_X(1 - share_X)


def pass_at_1(correct_QG: np.ndarray) -> Estimate:
  """pass@1: the mean over samples, then over problems, see `clustered`.

  Args:
    correct_QG: bool or float in [0, 1], not empty.

  Raises:
    ValueError: the array is empty or not of shape [Q, G].
  """
  return clustered(_checked(correct_QG).mean(1))


def mean_pass_at_k(correct_QG: np.ndarray, k: int) -> Estimate:
  """pass@k: the mean of `pass_values`, see `clustered`."""
  return clustered(pass_values(correct_QG, k))


def pass_values(correct_QG: np.ndarray, k: int) -> np.ndarray:
  """`pass_at_k` of every problem, float [Q]; a sample of value 1 is right."""
  correct_QG = _checked(correct_QG)
  n = correct_QG.shape[1]
  chance_C = np.array([pass_at_k(n, c, k) for c in range(n + 1)])
  return chance_C[(correct_QG >= 1.0).sum(1)]


def powers(n: int) -> list[int]:
  """The values of k that are reported for n samples: powers of two, and n."""
  return sorted({2**i for i in range(n.bit_length()) if 2**i <= n} | {n})


def pass_at_k(n: int, c: int, k: int) -> float:
  """Unbiased estimate of pass@k from n samples, c of them correct.

  1 - C(n-c, k) / C(n, k) (Chen et al., arXiv:2107.03374, Eq. 1), exact.

  Raises:
    ValueError: unless 1 <= k <= n and 0 <= c <= n.
  """
  if not (1 <= k <= n and 0 <= c <= n):
    raise ValueError(
        f"n={n}, c={c}, k={k}: 1 <= k <= n and 0 <= c <= n are required; draw"
        " more samples or use a smaller k")
  return 1.0 - math.comb(n - c, k) / math.comb(n, k)


def maj_at_k(answers: Sequence[Sequence[str | None]],
             correct_QG: np.ndarray) -> float:
  """maj@G: the share of problems whose most frequent answer is correct.

  Answers vote together if their strings are equal (normalise them first); None
  abstains. The values of tied answers are averaged, so that the order does not
  matter. The winner's correctness is the mean over the samples that gave it,
  which differ only if the judge was inconsistent.

  Args:
    answers: Q problems of G answers.
    correct_QG: bool or float in [0, 1].

  Raises:
    ValueError: there are no problems, or the shapes differ.
  """
  return float(np.mean([
      float(ballot.winner(ballot.votes[None])[0])
      for ballot in _ballots(answers, correct_QG)]))


def cons_at_k(answers: Sequence[Sequence[str | None]],
              correct_QG: np.ndarray, k: int, *, draws: int = DRAWS
              ) -> Estimate:
  """cons@k: the mean of `cons_values`, see `clustered`."""
  return clustered(cons_values(answers, correct_QG, k, draws=draws))


def cons_values(answers: Sequence[Sequence[str | None]],
                correct_QG: np.ndarray, k: int, *, draws: int = DRAWS
                ) -> np.ndarray:
  """Correctness of the majority of k samples, float [Q]; votes as `maj_at_k`.

  A problem's value is the mean over `draws` random subsets of k of its G
  samples, which is unbiased. For k = 1 it is exactly pass@1 (abstentions are
  wrong), for k = G exactly maj@G. Drawing with replacement instead would repeat
  samples and bias the vote of few samples.

  Raises:
    ValueError: as `maj_at_k`, or unless 1 <= k <= G.
  """
  ballots = _ballots(answers, correct_QG)
  n = len(answers[0])
  if not 1 <= k <= n:
    raise ValueError(f"k={k} must be from 1 to {n}, the number of samples")
  return np.array([
      ballot.value(k, draws, np.random.default_rng((_SUBSETS, q)))
      for q, ballot in enumerate(ballots)])


def cons_error(answers: Sequence[Sequence[str | None]],
               correct_QG: np.ndarray, *, draws: int = DRAWS) -> float:
  """Standard error of maj@G due to sampling alone, by bootstrap over samples.

  The problems are fixed; each problem's G samples are resampled with
  replacement. It estimates how far the figure moves if the same test is sampled
  again.
  """
  ballots = _ballots(answers, correct_QG)
  return float(np.mean([
      ballot.again(draws, np.random.default_rng((_RESAMPLES, q)))
      for q, ballot in enumerate(ballots)], 0).std(ddof=1))


_SUBSETS, _RESAMPLES = 0, 1  # first words of the generators' seeds


class _Ballot(NamedTuple):
  """Votes of one problem's samples.

  Attributes:
    votes: int [A + 1], samples per distinct answer; abstentions last.
    right: float [A], mean correctness of each answer's samples.
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
    """Mean correctness of the majority over random subsets of k samples."""
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
        f"answers have shape {shape}, verdicts {correct_QG.shape}: one verdict"
        " per answer and at least one problem are required")
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
        f"correct has shape {correct_QG.shape}; it must be [problems, samples]"
        " with at least one of each")
  return correct_QG


def _plain(x: np.ndarray) -> float | np.ndarray:
  return float(x) if np.ndim(x) == 0 else x
