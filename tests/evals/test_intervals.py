from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from r1jax.evals import intervals
from tests.reference import estimators as reference

F64 = dict(rtol=1e-12, atol=1e-12)
QUANTILE = dict(rtol=1e-8, atol=1e-8)  # of the reference's bisection
# A percentile of 200,000 draws, against that of all of them.
DRAWN = dict(rtol=0.01)


def named(x):
  return {("source", f"{i}?"): float(v) for i, v in enumerate(x)}


def error(x):
  mean = sum(x) / len(x)
  return math.sqrt(sum((v - mean) ** 2 for v in x) / (len(x) - 1) / len(x))


def every_resample(x):
  """Bootstrap-t over all len(x)**len(x) draws, one after the other."""
  mean, own, ts = sum(x) / len(x), error(x), []
  for draw in itertools.product(x, repeat=len(x)):
    ts.append((sum(draw) / len(x) - mean) / (error(draw) or own))
  low, high = np.percentile(ts, [97.5, 2.5])
  return mean - own * low, mean - own * high


X = [0.0, 0.25, 0.5, 1.0, 0.75, 0.3]
Y = [0.1, 0.0, 0.5, 0.7, 0.75, 0.0]


def test_mean_against_all_resamples(monkeypatch):
  monkeypatch.setattr(intervals, "RESAMPLES", 200_000)
  x = [3.0, 4.0, 9.0, 1.0, 30.0]
  got = intervals.mean(named(x))
  np.testing.assert_allclose(got.value, sum(x) / 5, **F64)
  np.testing.assert_allclose([got.low, got.high], every_resample(x), **DRAWN)
  assert (got.count, got.method) == (5, intervals.BOOTSTRAP)
  # Percentiles of means alone would end lower.
  assert got.high > 1.5 * 30 / 2


def test_differences_are_paired(monkeypatch):
  monkeypatch.setattr(intervals, "RESAMPLES", 200_000)
  got = intervals.difference(named(X[:5]), named(Y[:5]))
  gaps = [x - y for x, y in zip(X[:5], Y)]
  np.testing.assert_allclose([got.low, got.high], every_resample(gaps), **DRAWN)


def test_differences_of_shares_are_paired():
  """p less q by Newcombe's method 10, and what pairs leave out."""
  got = intervals.difference(named(X), named(Y), binary=True)
  p = [max(x - y, 0) for x, y in zip(X, Y)]
  q = [max(y - x, 0) for x, y in zip(X, Y)]
  (p_low, p_high), (q_low, q_high) = (
      reference.share_interval(sum(x) / 6, error(x), 6) for x in (p, q))
  r = float(np.corrcoef(p, q)[0, 1])
  value = (sum(p) - sum(q)) / 6

  def length(a, b):
    return math.sqrt(a * a - 2 * r * a * b + b * b)

  np.testing.assert_allclose(got[:3], [
      value, value - length(sum(p) / 6 - p_low, q_high - sum(q) / 6),
      value + length(p_high - sum(p) / 6, sum(q) / 6 - q_low)], **QUANTILE)
  assert got.method == intervals.NEWCOMBE
  apart = intervals.between(named(X), named(Y), binary=True)
  np.testing.assert_allclose(apart.value, got.value, **F64)
  # Unpaired, the questions' own spread is in it.
  assert apart.high - apart.low > 1.5 * (got.high - got.low)


def test_between_against_the_normal_interval():
  rng = np.random.default_rng(1)
  a, b = rng.random(400), 0.5 * rng.random(300)
  got = intervals.between(named(a), named(b))
  error = math.sqrt(a.var() / 400 + b.var() / 300)
  middle = a.mean() - b.mean()
  np.testing.assert_allclose(
      [got.low, got.high], [middle - 1.96 * error, middle + 1.96 * error],
      atol=0.2 * error)
  assert got.count == 700


def test_only_shared_questions_and_no_order():
  first = named(X) | {"alone": 1.0}
  second = dict(reversed(named(Y).items())) | {"other": 0.0}
  assert intervals.difference(first, second) == intervals.difference(
      named(X), named(Y))


def test_questions_that_agree():
  ones, zeros = named([1.0] * 9), named([0.0] * 9)
  got = intervals.mean(ones, binary=True)
  (l1, u1), (l2, u2) = (
      reference.share_interval(share, 0.0, 9) for share in (1.0, 0.0))
  np.testing.assert_allclose([got.low, got.high], [l1, u1], **QUANTILE)
  assert (got.value, got.method) == (1.0, intervals.WILSON)
  # Of what is no count, there is no such interval.
  for share in (False, True):
    assert intervals.mean(ones, share=share)[:3] == (1.0, 1.0, 1.0)
  for compare in (intervals.difference, intervals.between):
    got = compare(ones, zeros, binary=True)
    np.testing.assert_allclose(
        [got.low, got.high],
        [1 - math.hypot(1 - l1, u2), 1 + math.hypot(u1 - 1, l2)], **QUANTILE)
    assert (got.value, got.high, got.method) == (1, 1, intervals.NEWCOMBE)
  same = intervals.difference(ones, ones, binary=True)
  assert same.value == 0 and same.low < -0.2 and same.high > 0.2


def test_weights_of_questions():
  """As if a question were there so often; what agrees has fewer trials."""
  x, w = [0.9, 0.2, 0.5, 1.0], [1, 2, 1, 4]
  got = intervals.mean(named(x), binary=True, weights=named(w))
  mean = sum(a * b for a, b in zip(w, x)) / 8
  spread = math.sqrt(4 / 3 * sum(
      (a / 8 * (b - mean)) ** 2 for a, b in zip(w, x)))
  np.testing.assert_allclose(
      got[:3], [mean, *reference.share_interval(mean, spread, 4)], **QUANTILE)
  alike = intervals.mean(named([0.0] * 4), binary=True, weights=named(w))
  t = reference.student_quantile(0.975, 3)
  trials = 64 / (1 + 4 + 1 + 16)
  np.testing.assert_allclose(
      alike[:3], [0, 0, t * t / (trials + t * t)], **QUANTILE)
  equal = intervals.mean(named(x), binary=True, weights=named([3] * 4))
  np.testing.assert_allclose(
      equal[:3], intervals.mean(named(x), binary=True)[:3], **F64)


def covered(interval, pairs, truth):
  found = [interval(*(named(x) for x in pair)) for pair in pairs]
  assert all(one.low >= -1 and one.high <= 1 for one in found)
  return np.mean([one.low <= truth <= one.high for one in found])


def drawn(count, questions, samples, second):
  """Samples of two models on the same, mostly easy, questions."""
  rng = np.random.default_rng(3)
  chances = rng.beta(4, 0.25, (count, questions))
  return list(zip(*(rng.binomial(samples, chances**power) / samples
                    for power in (1, second))))


def test_intervals_of_differences_cover_the_truth():
  """95 +- 1 % of 2,000, where 30 questions are nearly all right."""
  pairs = drawn(2000, 30, 64, 2)
  truth = 4 / 4.25 - 4 * 5 / (4.25 * 5.25)  # first and second moment
  share = covered(
      lambda a, b: intervals.difference(a, b, binary=True), pairs, truth)
  assert abs(share - 0.95) <= 0.01, share
  # Percentiles of resampled differences, as they were, do not.
  rng = np.random.default_rng(0)
  gaps = [a - b for a, b in pairs[:500]]
  ends = [np.percentile(x[rng.integers(30, size=(400, 30))].mean(1),
                        [2.5, 97.5]) for x in gaps]
  assert np.mean([low <= truth <= high for low, high in ends]) < 0.93


def test_intervals_of_skewed_numbers_cover_the_truth():
  """Lengths, say; mean +- 2 errors holds it in 92 of 100."""
  rng = np.random.default_rng(2)
  held = []
  for _ in range(400):
    got = intervals.mean(named(rng.gamma(0.5, 1.0, 30)))
    held.append(got.low <= 0.5 <= got.high)
  # Three deviations of 400 such runs, below.
  assert np.mean(held) >= 0.95 - 3 * math.sqrt(0.95 * 0.05 / 400)


def test_other_numbers_are_resampled(monkeypatch):
  """A ratio of sums, against a loop over the same draws."""
  monkeypatch.setattr(intervals, "RESAMPLES", 50)
  top, below = np.array(X), np.array([3.0, 1.0, 0.0, 2.0, 5.0, 1.0])
  got = intervals.resampled(6, lambda times: times @ top / (times @ below))
  rng, ratios = np.random.default_rng((intervals.SEED, 0)), []
  for _ in range(50):
    draw = rng.integers(6, size=6)
    ratios.append(sum(X[i] for i in draw) / sum(below[i] for i in draw))
  np.testing.assert_allclose(got, np.percentile(ratios, [2.5, 97.5]), **F64)
  assert intervals.resampled(1, lambda times: 0.0) is None
  assert intervals.resampled(6, lambda times: np.nan) is None


@pytest.mark.parametrize("few", [{}, {"q": 1.0}])
def test_too_few_questions(few):
  assert intervals.mean(few) is None
  assert intervals.difference(few, named(X)) is None
  assert intervals.between(named(X), few) is None
