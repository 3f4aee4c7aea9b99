from __future__ import annotations

import math

import numpy as np
import pytest

from r1jax.evals import estimators
from tests.reference import estimators as reference

F64 = dict(rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("n", [1, 2, 5, 7])
def test_pass_at_k_is_the_share_of_subsets(n):
  for c in range(n + 1):
    for k in range(1, n + 1):
      np.testing.assert_allclose(
          estimators.pass_at_k(n, c, k), reference.pass_at_k(n, c, k), **F64)


def test_pass_at_k_is_not_the_biased_one():
  n, c, k = 7, 2, 3
  biased = 1 - (1 - c / n) ** k
  assert abs(estimators.pass_at_k(n, c, k) - biased) > 0.05


@pytest.mark.parametrize("n,c,k", [(4, 2, 5), (4, 5, 2), (4, -1, 2), (4, 2, 0)])
def test_pass_at_k_bad(n, c, k):
  with pytest.raises(ValueError, match=f"n={n}, c={c}, k={k}"):
    estimators.pass_at_k(n, c, k)


CORRECT = np.random.default_rng(0).random((11, 5)) < np.linspace(0, 1, 11)[
    :, None]


def test_pass_at_1():
  got = estimators.pass_at_1(CORRECT)
  mean, error = reference.mean_and_jackknife(CORRECT.tolist())
  np.testing.assert_allclose((got.mean, got.error), (mean, error), **F64)
  np.testing.assert_allclose(
      (got.low, got.high), (mean - 1.96 * error, mean + 1.96 * error),
      rtol=1e-4)


def test_pass_at_1_error_is_clustered():
  """Samples as if independent would give another, smaller error."""
  p = CORRECT.mean()
  independent = math.sqrt(p * (1 - p) / CORRECT.size)
  assert estimators.pass_at_1(CORRECT).error > 1.5 * independent


def test_pass_at_1_does_not_depend_on_more_of_the_same_samples():
  twice = np.concatenate([CORRECT, CORRECT], 1)
  np.testing.assert_allclose(
      estimators.pass_at_1(twice), estimators.pass_at_1(CORRECT), **F64)


def test_pass_at_1_interval_covers():
  """About 95 of 100 intervals hold the truth (500 draws, sd 1 point)."""
  rng = np.random.default_rng(1)
  truth, hits = 0.4, 0
  for _ in range(500):
    p_Q1 = rng.beta(2, 3, (60, 1))
    got = estimators.pass_at_1(rng.random((60, 4)) < p_Q1)
    hits += got.low <= truth <= got.high
  assert 0.91 < hits / 500 < 0.98


def test_pass_at_1_of_one_problem_and_bad_shapes():
  assert estimators.pass_at_1(np.array([[1, 0]])) == (0.5, 0.5, 0.0, 1.0)
  assert estimators.pass_at_1(np.ones((3, 2))) == (1.0, 0.0, 1.0, 1.0)
  for bad in (np.ones(3), np.ones((0, 3)), np.ones((3, 0))):
    with pytest.raises(ValueError, match="shape"):
      estimators.pass_at_1(bad)


@pytest.mark.parametrize("answers", [
    ["a", "a", "b"], ["a", "b", "b"], ["a", "b"], ["b", "a"],
    ["a", "a", "b", "b", "c"], ["a", "b", "c"], [None, None, "a"],
    [None, None], ["b", "b", None, None, None], ["a"], ["c", "b", "a", "a"]])
def test_maj(answers):
  correct = np.array([[x == "a" for x in answers]])
  np.testing.assert_allclose(
      estimators.maj_at_k([answers], correct), reference.maj(answers, "a"),
      **F64)


def test_maj_is_neither_a_mean_nor_the_first_of_a_tie():
  answers = ["a", "b", "b", "a", "c"]
  correct = np.array([[x == "a" for x in answers]])
  assert estimators.maj_at_k([answers], correct) == 0.5 != correct.mean()


def test_maj_of_several_problems_and_bad_shapes():
  answers = [["a", "a", "b"], ["c", "c", "d"]]
  correct = np.array([[1, 1, 0], [0, 0, 1]])
  assert estimators.maj_at_k(answers, correct) == 0.5
  for bad in (correct[:1], correct[:, :2]):
    with pytest.raises(ValueError, match="verdict"):
      estimators.maj_at_k(answers, bad)
  with pytest.raises(ValueError, match="verdict"):
    estimators.maj_at_k([], np.ones((0, 0)))
