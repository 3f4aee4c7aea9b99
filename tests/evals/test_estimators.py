from __future__ import annotations

import math

import numpy as np
import pytest

from r1jax.evals import estimators
from tests.reference import estimators as reference

F64 = dict(rtol=1e-12, atol=1e-12)
QUANTILE = dict(rtol=1e-9, atol=1e-9)  # of the reference's bisection


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
      (got.low, got.high), reference.share_interval(mean, error, 11),
      **QUANTILE)


def test_pass_at_1_error_is_clustered():
  """Samples as if independent would give another, smaller error."""
  p = CORRECT.mean()
  independent = math.sqrt(p * (1 - p) / CORRECT.size)
  assert estimators.pass_at_1(CORRECT).error > 1.5 * independent


def test_pass_at_1_does_not_depend_on_more_of_the_same_samples():
  twice = np.concatenate([CORRECT, CORRECT], 1)
  np.testing.assert_allclose(
      estimators.pass_at_1(twice), estimators.pass_at_1(CORRECT), **F64)


# Problems, samples, and the beta distribution that problems' chances are of:
# contests that are nearly solved, hardly begun, and all or nothing; long tests.
TESTS = [(30, 64, 2, 0.5), (30, 16, 0.5, 2), (60, 4, 2, 3), (500, 4, 0.1, 0.1),
         (500, 16, 4, 0.25), (198, 8, 2, 1)]


def simulated(problems, samples, a, b):
  """(means [runs, problems] of samples, the true mean chance).

  2,000 runs would tell the coverage to 0.5 points, these to 0.15 to 0.35.
  """
  rng = np.random.default_rng((5, problems, samples))
  runs = min(20_000, 2_000_000 // problems)
  chances = rng.beta(a, b, (runs, problems))
  return rng.binomial(samples, chances) / samples, a / (a + b)


@pytest.mark.parametrize("test", TESTS)
def test_intervals_cover_the_truth(test):
  """95 +- 1 % of the intervals of other problems and samples hold it."""
  means_RQ, truth = simulated(*test)
  got = estimators.clustered(means_RQ)
  held = np.mean((got.low <= truth) & (truth <= got.high))
  assert abs(held - 0.95) <= 0.01, held
  assert got.low.min() >= 0 and got.high.max() <= 1


def test_no_success_is_an_interval_from_0_and_no_failure_one_to_1():
  """Exactly: a difference of roots printed 7e-18 and 0.9999999999999998."""
  rng = np.random.default_rng(0)
  for count in range(1, 200):
    weights = rng.random(count)
    for w in (None, weights):
      none, all_ = (estimators.clustered(np.full(count, x), weights_Q=w)
                    for x in (0.0, 1.0))
      assert none[0] == none.low == 0 and all_[0] == all_.high == 1
      assert none.high > 0 and all_.low < 1
      np.testing.assert_allclose(none.high, 1 - all_.low, **F64)


def test_intervals_of_samples_as_if_independent_do_not_cover():
  means_RQ, truth = simulated(*TESTS[0])
  p_R = means_RQ.mean(1)
  half_R = 1.96 * np.sqrt(p_R * (1 - p_R) / (30 * 64))
  assert np.mean(np.abs(p_R - truth) <= half_R) < 0.5
  # Nor does mean +- 1.96 errors where few problems are nearly all right.
  half_R = 1.96 * means_RQ.std(1, ddof=1) / math.sqrt(30)
  assert np.mean(np.abs(p_R - truth) <= half_R) < 0.94


def test_means_that_are_no_shares():
  got = estimators.clustered(np.array([10.0, 14.0, 30.0]), share=False)
  error = math.sqrt(((8**2 + 4**2 + 12**2) / 2) / 3)
  t = reference.student_quantile(0.975, 2)
  np.testing.assert_allclose(
      got, (18, error, 18 - t * error, 18 + t * error), **QUANTILE)
  assert estimators.clustered(np.array([10.0]), share=False) == (
      10.0, math.inf, -math.inf, math.inf)


@pytest.mark.parametrize("k", [1, 2, 5])
def test_pass_at_k_of_problems(k):
  got = estimators.mean_pass_at_k(CORRECT, k)
  each = [reference.pass_at_k(5, int(row.sum()), k) for row in CORRECT]
  np.testing.assert_allclose(got.mean, sum(each) / 11, **F64)
  np.testing.assert_allclose(
      got.error, np.std(each, ddof=1) / math.sqrt(11), **F64)


def test_powers():
  assert estimators.powers(1) == [1]
  assert estimators.powers(16) == [1, 2, 4, 8, 16]
  assert estimators.powers(12) == [1, 2, 4, 8, 12]


def test_pass_at_1_of_one_problem_and_bad_shapes():
  assert estimators.pass_at_1(np.array([[1, 0]])) == (0.5, 0.5, 0.0, 1.0)
  # All right, but of three problems.
  got = estimators.pass_at_1(np.ones((3, 2)))
  assert got[:2] == (1.0, 0.0) and got.high == 1
  np.testing.assert_allclose(
      got.low, reference.share_interval(1.0, 0.0, 3)[0], **QUANTILE)
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


VOTES = [["a", "a", "b", "b", "c", "a"], ["b", "b", "b", "a", None, None],
         ["a", "b", "c", "d", "e", "f"], [None] * 6, ["a"] * 6,
         ["a", "a", "b", None, "b", None]]
RIGHT = np.array([[x == "a" for x in row] for row in VOTES], float)


@pytest.mark.parametrize("k", [1, 2, 3, 5, 6])
def test_cons_is_the_mean_over_subsets(k):
  got = estimators.cons_at_k(VOTES, RIGHT, k, draws=20_000)
  each = [reference.consensus(row, right, k)
          for row, right in zip(VOTES, RIGHT.tolist())]
  # Two standard deviations of a mean of 20,000 draws are at most 0.008.
  exact = F64 if k in (1, 6) else dict(atol=0.008 / math.sqrt(6))
  np.testing.assert_allclose(got.mean, sum(each) / 6, **exact)
  assert got == estimators.cons_at_k(VOTES, RIGHT, k, draws=20_000)


def test_cons_ends_are_pass_at_1_and_the_majority():
  assert estimators.cons_at_k(VOTES, RIGHT, 1).mean == pytest.approx(
      RIGHT.mean())
  assert estimators.cons_at_k(VOTES, RIGHT, 6).mean == pytest.approx(
      estimators.maj_at_k(VOTES, RIGHT))
  # Between them it is neither: drawing with replacement would differ too.
  rows = [["a", "a", "b"]]
  right = np.array([[1.0, 1.0, 0.0]])
  assert estimators.cons_at_k(rows, right, 3).mean == 1
  with pytest.raises(ValueError, match="k=7"):
    estimators.cons_at_k(VOTES, RIGHT, 7)


def test_cons_error_is_that_of_new_samples():
  rows, right = [row[:4] for row in VOTES], RIGHT[:, :4]
  exact = math.sqrt(sum(reference.redrawn_variance(*x) for x in zip(
      rows, right.tolist()))) / 6
  got = estimators.cons_error(rows, right, draws=20_000)
  # The deviation of 20,000 draws is known to half a percent.
  np.testing.assert_allclose(got, exact, rtol=0.02)
  assert estimators.cons_error([["a", "a"]], np.ones((1, 2))) == 0
