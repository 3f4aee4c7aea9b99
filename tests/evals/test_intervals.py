from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from r1jax.evals import intervals

F64 = dict(rtol=1e-12, atol=1e-12)
# A percentile of 2,000 draws, against that of all of them.
DRAWN = dict(atol=0.02)


def named(x):
  return {("source", f"{i}?"): float(v) for i, v in enumerate(x)}


def every_resample(x):
  """Means of all len(x)**len(x) draws."""
  means = [sum(draw) / len(x) for draw in itertools.product(x, repeat=len(x))]
  return np.percentile(means, [2.5, 97.5])


X = [0.0, 0.25, 0.5, 1.0, 0.75, 0.3]
Y = [0.1, 0.0, 0.5, 0.7, 0.75, 0.0]


def test_mean_against_all_resamples():
  got = intervals.mean(named(X))
  np.testing.assert_allclose(got.value, sum(X) / 6, **F64)
  np.testing.assert_allclose([got.low, got.high], every_resample(X), **DRAWN)
  assert (got.count, got.method) == (6, intervals.BOOTSTRAP)


def test_differences_are_paired():
  got = intervals.difference(named(X), named(Y))
  gaps = [x - y for x, y in zip(X, Y)]
  np.testing.assert_allclose([got.low, got.high], every_resample(gaps), **DRAWN)
  apart = intervals.between(named(X), named(Y))
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


def wilson(p, n, z=1.959964):
  """Both roots of (p - s)^2 = z^2 s (1 - s) / n in s."""
  a, b, c = 1 + z * z / n, -(2 * p + z * z / n), p * p
  root = math.sqrt(max(b * b - 4 * a * c, 0))
  return (-b - root) / (2 * a), (-b + root) / (2 * a)


def test_questions_that_agree():
  ones, zeros = named([1.0] * 9), named([0.0] * 9)
  got = intervals.mean(ones, binary=True)
  np.testing.assert_allclose([got.low, got.high], wilson(1, 9), atol=1e-9)
  assert (got.value, got.method) == (1.0, intervals.WILSON)
  # Of what is no count, there is no such interval.
  assert intervals.mean(ones)[:3] == (1.0, 1.0, 1.0)
  for compare in (intervals.difference, intervals.between):
    got = compare(ones, zeros, binary=True)
    (l1, u1), (l2, u2) = wilson(1, 9), wilson(0, 9)
    np.testing.assert_allclose(
        [got.low, got.high],
        [1 - math.hypot(1 - l1, u2), 1 + math.hypot(u1 - 1, l2)], atol=1e-9)
    assert got.method == intervals.NEWCOMBE
  same = intervals.difference(ones, ones, binary=True)
  assert same.value == 0 and same.low < -0.2 and same.high > 0.2


@pytest.mark.parametrize("few", [{}, {"q": 1.0}])
def test_too_few_questions(few):
  assert intervals.mean(few) is None
  assert intervals.difference(few, named(X)) is None
  assert intervals.between(named(X), few) is None
