"""95 % intervals of means and differences, with questions as clusters.

Samples of one question are not independent, so values here are one number per
question, already a mean over its samples; a question without a value is absent.

Shares have closed forms, because the percentile bootstrap covers the truth in
only 89 to 92 % of cases where 30 questions are nearly all right. Other numbers,
such as lengths, use the bootstrap-t, whose coverage is better than that of
percentiles where a few values are very large.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from typing import NamedTuple

import numpy as np

from r1jax.evals import estimators

Values = Mapping[Hashable, float]  # question -> its mean over samples

RESAMPLES = 2000
SEED = 0
BOOTSTRAP = "bootstrap-t"
PERCENTILES = "bootstrap"
WILSON = "Wilson"
NEWCOMBE = "Newcombe"
_TAILS = (97.5, 2.5)
# Spreads below this are rounding errors of equal values.
_ALIKE = 1e-12


class Interval(NamedTuple):
  """An estimate, its 95 % interval, the number of questions, the method."""

  value: float
  low: float
  high: float
  count: int
  method: str


def mean(values: Values, *, binary: bool = False, share: bool = False,
         weights: Values | None = None) -> Interval | None:
  """The mean over questions.

  For shares it is Wilson's interval of `estimators.clustered`, otherwise the
  bootstrap-t.

  Args:
    values: one number per question.
    binary: whether a sample's value is 0 or 1. Equal values of all questions
      then still have an interval, that of as many trials; other equal values
      have an interval without width.
    share: whether values are in [0, 1]; implied by `binary`.
    weights: weights of the questions, for shares only; None: equal weights.

  Returns:
    None with fewer than two questions, which have no spread.
  """
  x_Q = _array(values)
  if len(x_Q) < 2:
    return None
  weights_Q = None if weights is None else _array(
      {question: weights[question] for question in values})
  if binary or share and np.ptp(x_Q) > _ALIKE:
    found = estimators.clustered(x_Q, weights_Q=weights_Q)
    return Interval(found.mean, found.low, found.high, len(x_Q), WILSON)
  return Interval(float(x_Q.mean()), *_studentised(x_Q), len(x_Q), BOOTSTRAP)


def difference(first: Values, second: Values, *, binary: bool = False,
               share: bool = False) -> Interval | None:
  """first - second, paired over the questions that both have.

  Questions that are hard for both do not widen the interval. If `binary`, each
  question's difference d is split into p = max(d, 0) and q = max(-d, 0), and
  the intervals of their means are combined like Newcombe's of two dependent
  shares (Stat. Med. 17:2635, method 10; Zou and Donner, Stat. Med. 27:1693):
  low = p - q - sqrt(a^2 - 2 r a b + b^2) with a = p - p_low, b = q_high - q and
  r the correlation of p and q over questions. So the interval has a width even
  where no question is worse. Otherwise it is the bootstrap-t of d.

  Args:
    first, second: one number per question.
    binary, share: as in `mean`.

  Returns:
    None if they share fewer than two questions.
  """
  shared = [question for question in first if question in second]
  d_Q = _array({q: first[q] for q in shared}) - _array(
      {q: second[q] for q in shared})
  if len(d_Q) < 2:
    return None
  value, count = float(d_Q.mean()), len(d_Q)
  if binary:
    better_Q, worse_Q = np.maximum(d_Q, 0), np.maximum(-d_Q, 0)
    return Interval(value, *_joined(
        estimators.clustered(better_Q), estimators.clustered(worse_Q),
        _correlation(better_Q, worse_Q)), count, NEWCOMBE)
  low, high = _studentised(d_Q)
  if share:
    low, high = max(low, -1.0), min(high, 1.0)
  return Interval(value, low, high, count, BOOTSTRAP)


def between(first: Values, second: Values, *, binary: bool = False,
            share: bool = False) -> Interval | None:
  """first - second of two independent groups of questions.

  For shares, Newcombe's interval (Stat. Med. 17:873, method 10) from the two
  intervals of `mean`; for other numbers, the bootstrap-t with each group
  resampled by itself.

  Returns:
    None if either has fewer than two questions.
  """
  sides = [mean(values, binary=binary, share=share)
           for values in (first, second)]
  if None in sides:
    return None
  a, b = sides
  value, count = a.value - b.value, a.count + b.count
  if binary or share:
    return Interval(value, *_joined(
        *(estimators.Estimate(x.value, 0.0, x.low, x.high) for x in sides)),
        count, NEWCOMBE)
  return Interval(value, *_studentised(_array(first), _array(second)), count,
                  BOOTSTRAP)


def resampled(count: int, number: Callable[[np.ndarray], float]
              ) -> tuple[float, float] | None:
  """Percentile-bootstrap interval of any statistic, such as a ratio.

  Args:
    count: number of questions.
    number: computes the statistic from how often each question is drawn, int
      [count]; NaN where it is undefined.

  Returns:
    (low, high); None with fewer than two questions, or where the statistic is
    undefined in more than 5 % of the resamples.
  """
  if count < 2:
    return None
  generator = np.random.default_rng((SEED, 0))
  drawn = np.array([number(np.bincount(
      generator.integers(count, size=count), minlength=count))
                    for _ in range(RESAMPLES)], np.float64)
  kept = drawn[~np.isnan(drawn)]
  if len(kept) < 0.95 * len(drawn):
    return None
  high, low = np.percentile(kept, _TAILS)
  return float(low), float(high)


def _array(values: Values) -> np.ndarray:
  """The values in an order that depends on the questions only."""
  return np.array([values[q] for q in sorted(values, key=repr)], np.float64)


def _draws(count: int, stream: int = 0) -> np.ndarray:
  """Indices of resampled questions, int [RESAMPLES, count]."""
  return np.random.default_rng((SEED, stream)).integers(
      count, size=(RESAMPLES, count))


def _studentised(*groups: np.ndarray) -> tuple[float, float]:
  """Bootstrap-t interval of a mean, or of the difference of two groups' means.

  value - error t_97.5 and value - error t_2.5, where t are quantiles of
  (resampled value - value) / (its error) (Efron and Tibshirani, An Introduction
  to the Bootstrap, 12.5). A resample whose values are all equal has no error of
  its own; the data's error is used.
  """
  value, squared, drawn, squares = 0.0, 0.0, 0.0, 0.0
  for stream, (sign, x_Q) in enumerate(zip((1, -1), groups)):
    found = x_Q[_draws(len(x_Q), stream)]
    value += sign * x_Q.mean()
    squared += x_Q.var(ddof=1) / len(x_Q)
    drawn = drawn + sign * found.mean(1)
    squares = squares + found.var(1, ddof=1) / len(x_Q)
  error = np.sqrt(squared)
  if error < _ALIKE:
    return float(value), float(value)
  errors = np.sqrt(squares)
  t = (drawn - value) / np.where(errors < _ALIKE, error, errors)
  low, high = value - error * np.percentile(t, _TAILS)
  return float(low), float(high)


def _joined(a: estimators.Estimate, b: estimators.Estimate,
            correlation: float = 0.0) -> tuple[float, float]:
  """The interval of a - b from those of a and b, within [-1, 1]."""
  def length(x: float, y: float) -> float:
    return float(np.sqrt(max(x * x - 2 * correlation * x * y + y * y, 0.0)))

  value = a.mean - b.mean
  return (max(value - length(a.mean - a.low, b.high - b.mean), -1.0),
          min(value + length(a.high - a.mean, b.mean - b.low), 1.0))


def _correlation(a_Q: np.ndarray, b_Q: np.ndarray) -> float:
  """Pearson's correlation; 0 where one of the two is constant."""
  scale = a_Q.std() * b_Q.std()
  apart = ((a_Q - a_Q.mean()) * (b_Q - b_Q.mean())).mean()
  return float(apart / scale) if scale > _ALIKE else 0.0
