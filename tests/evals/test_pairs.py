from __future__ import annotations

import math

import numpy as np
import pytest

from r1jax.evals import pairs
from tests.reference import estimators as reference

F64 = dict(rtol=1e-12, atol=1e-12)
INTEGRATED = dict(rtol=1e-8, atol=1e-10)  # of the reference's density
RUNS = 20_000  # a rate of 1 % is told to 0.07 points


def named(x):
  return {("source", f"{i}?"): float(v) for i, v in enumerate(x)}


X = [0.0, 0.25, 0.5, 1.0, 0.75, 0.3, 1.0]
Y = [0.1, 0.0, 0.5, 0.7, 0.75, 0.0, 0.25]


def test_against_the_formulas():
  got = pairs.compare(named(X), named(Y))
  gaps = [x - y for x, y in zip(X, Y)]
  mean = sum(gaps) / 7
  error = math.sqrt(sum((g - mean) ** 2 for g in gaps) / 6 / 7)
  half = reference.student_quantile(0.975, 6) * error
  np.testing.assert_allclose(got[:2], (mean, error), **F64)
  np.testing.assert_allclose(
      got[2:4], (mean - half, mean + half), **INTEGRATED)
  p = 2 * (1 - reference.student_below(mean / error, 6))
  np.testing.assert_allclose(got.p, p, **INTEGRATED)
  assert got.count == 7
  back = pairs.compare(named(Y), named(X))
  np.testing.assert_allclose(
      (back.value, back.p, back.low), (-mean, p, -mean - half), **INTEGRATED)


@pytest.mark.parametrize("problems,samples", [(30, 64), (60, 8)])
def test_false_positives(problems, samples):
  """Two models of one mean are told apart in 1 +- 0.3 % of the runs."""
  rng = np.random.default_rng(problems)
  chances = rng.beta(2, 1, (RUNS, problems))
  alike = (rng.binomial(samples, chances)
           - rng.binomial(samples, chances)) / samples
  # Other problems each are easy for them, as many on the whole.
  apart = (rng.binomial(samples, rng.beta(2, 1, (RUNS, problems)))
           - rng.binomial(samples, rng.beta(2, 1, (RUNS, problems)))) / samples
  for differences in (alike, apart):
    found = pairs.t_test(differences)
    assert abs(np.mean(found.p < 0.01) - 0.01) <= 0.003
    held = np.mean((found.low <= 0) & (0 <= found.high))
    assert abs(held - 0.95) <= 0.01
  # As two groups of problems, the same runs hardly ever differ: no power.
  first = rng.binomial(samples, chances) / samples
  second = rng.binomial(samples, chances) / samples
  error = np.sqrt((first.var(1) + second.var(1)) / problems)
  unpaired = np.abs(first.mean(1) - second.mean(1)) / error
  assert np.mean(unpaired > 2.58) < 0.003


def test_a_real_difference_is_found_and_covered():
  rng = np.random.default_rng(9)
  chances = rng.beta(2, 2, (RUNS // 10, 100))
  found = pairs.t_test((rng.binomial(16, 0.8 * chances + 0.2)
                        - rng.binomial(16, chances)) / 16)
  assert np.mean(found.p < pairs.BOLD) > 0.95
  held = np.mean((found.low <= 0.1) & (0.1 <= found.high))
  assert abs(held - 0.95) <= 0.015  # of 2,000 runs


def test_problems_that_all_differ_alike():
  ones, zeros = named([1.0] * 9), named([0.0] * 9)
  got = pairs.compare(ones, zeros)
  assert (got.value, got.p) == (1.0, 2.0**-8)
  assert 0 < got.low < 1 <= got.high
  same = pairs.compare(ones, ones)
  assert (same.value, same.p) == (0.0, 1.0) and same.low < 0 < same.high
  # Three problems prove nothing, whatever the spread is.
  assert pairs.compare(named([1.0] * 3), named([0.0] * 3)).p == 0.25


def test_only_shared_problems_count():
  assert pairs.compare(named(X) | {"alone": 1.0}, named(Y) | {"other": 0.0}
                       ) == pairs.compare(named(X), named(Y))
  assert pairs.compare({}, named(Y)) is None
  assert pairs.compare(named([1.0]), named(Y)) is None


def test_the_leader_is_better_than_each_of_the_others():
  rng = np.random.default_rng(3)
  x = rng.random(50)
  low, high = named(0.5 * x), named(0.5 * x + 0.3 + 0.01 * rng.random(50))
  assert pairs.leaders({"a": low, "b": high}) == ["b"]
  # Two good ones that do not differ: neither leads.
  twin = named(0.5 * x + 0.3 + 0.01 * rng.random(50))
  assert pairs.leaders({"a": low, "b": high, "c": twin}) == []
  # None leads where it was compared with nobody, or on no common problem.
  assert pairs.leaders({"b": high, "none": {}}) == []
  assert pairs.leaders({"b": high, "other": {"x": 0.0, "y": 0.1}}) == []
