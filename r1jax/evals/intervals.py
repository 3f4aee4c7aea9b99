"""Means and differences with 95 % intervals, resampled by question.

Samples of one question are not independent, so what is drawn again is whole
questions. A value here is one number a question, already a mean over its
samples; a question without a value is absent.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import NamedTuple

import numpy as np

from r1jax.evals import preference

Values = Mapping[Hashable, float]  # question -> its mean over samples

RESAMPLES = 2000
SEED = 0
BOOTSTRAP = "bootstrap"
WILSON = "Wilson"
NEWCOMBE = "Newcombe"
_TAILS = (2.5, 97.5)


class Interval(NamedTuple):
  """An estimate, its 95 % interval, of how many questions, by what method."""

  value: float
  low: float
  high: float
  count: int
  method: str


def mean(values: Values, *, binary: bool = False) -> Interval | None:
  """The mean over questions; percentile bootstrap.

  Where all questions of a quantity that is 0 or 1 agree, resampling would give
  an interval of no width, so there it is Wilson's, as if each question were one
  sample.

  Args:
    values: see above.
    binary: a sample's value is 0 or 1.

  Returns:
    None with fewer than two questions, which say nothing of a spread.
  """
  x_Q = _array(values)
  if len(x_Q) < 2:
    return None
  if binary and np.ptp(x_Q) == 0:
    low, high = _wilson(x_Q)
    return Interval(float(x_Q.mean()), low, high, len(x_Q), WILSON)
  return Interval(float(x_Q.mean()), *_percentiles(_resampled(x_Q)), len(x_Q),
                  BOOTSTRAP)


def difference(first: Values, second: Values, *, binary: bool = False
               ) -> Interval | None:
  """first - second over the questions that both have; paired bootstrap.

  A question is drawn again with both its values, so that hard questions, which
  are hard for both, do not widen the interval. Where all questions differ alike
  and a sample's value is 0 or 1, Newcombe's interval of two shares
  (Stat. Med. 17:873, method 10), which is wider than a paired one.

  Returns:
    None if they share fewer than two questions.
  """
  shared = [question for question in first if question in second]
  a_Q, b_Q = (_array({q: v[q] for q in shared}) for v in (first, second))
  if len(a_Q) < 2:
    return None
  value, count = float((a_Q - b_Q).mean()), len(a_Q)
  if binary and np.ptp(a_Q - b_Q) == 0:
    return Interval(value, *_newcombe(a_Q, b_Q), count, NEWCOMBE)
  return Interval(value, *_percentiles(_resampled(a_Q - b_Q)), count, BOOTSTRAP)


def between(first: Values, second: Values, *, binary: bool = False
            ) -> Interval | None:
  """first - second of two groups of different questions; each drawn by itself.

  Returns:
    None if either has fewer than two questions.
  """
  a_Q, b_Q = _array(first), _array(second)
  if min(len(a_Q), len(b_Q)) < 2:
    return None
  value, count = float(a_Q.mean() - b_Q.mean()), len(a_Q) + len(b_Q)
  if binary and np.ptp(a_Q) == np.ptp(b_Q) == 0:
    return Interval(value, *_newcombe(a_Q, b_Q), count, NEWCOMBE)
  drawn = _resampled(a_Q) - _resampled(b_Q, stream=1)
  return Interval(value, *_percentiles(drawn), count, BOOTSTRAP)


def _array(values: Values) -> np.ndarray:
  """The values in an order that depends on the questions alone."""
  return np.array([values[q] for q in sorted(values, key=repr)], np.float64)


def _resampled(x_Q: np.ndarray, stream: int = 0) -> np.ndarray:
  """Means of `RESAMPLES` draws of as many questions, with replacement."""
  generator = np.random.default_rng((SEED, stream))
  draws = generator.integers(len(x_Q), size=(RESAMPLES, len(x_Q)))
  return x_Q[draws].mean(1)


def _percentiles(drawn: np.ndarray) -> tuple[float, float]:
  low, high = np.percentile(drawn, _TAILS)
  return float(low), float(high)


def _wilson(x_Q: np.ndarray) -> tuple[float, float]:
  return preference.interval(float(x_Q.sum()), len(x_Q))


def _newcombe(a_Q: np.ndarray, b_Q: np.ndarray) -> tuple[float, float]:
  (a_low, a_high), (b_low, b_high) = _wilson(a_Q), _wilson(b_Q)
  a, b = float(a_Q.mean()), float(b_Q.mean())
  return (a - b - float(np.hypot(a - a_low, b_high - b)),
          a - b + float(np.hypot(a_high - a, b - b_low)))
