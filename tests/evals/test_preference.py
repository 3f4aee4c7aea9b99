"""Numbers about reward models against their definitions."""

import json

import numpy as np
import pytest

from r1jax.evals import preference


def test_auroc_is_the_chance_of_the_right_order():
  rng = np.random.default_rng(0)
  scores = rng.integers(0, 6, 60).astype(float)  # with ties
  good = rng.random(60) < 0.4
  wins = [(a > b) + 0.5 * (a == b) for a in scores[good]
          for b in scores[~good]]
  assert preference.auroc(scores, good) == pytest.approx(np.mean(wins))
  assert preference.auroc(-scores, good) == pytest.approx(1 - np.mean(wins))
  assert preference.auroc(scores, good | True) is None


def test_calibration_by_hand():
  curve = preference.reliability(
      np.array([0.01, 0.05, 0.95, 0.99, 1.0]),
      np.array([False, True, True, True, False]))
  assert [row["count"] for row in curve] == [2, 3]
  assert curve[0]["said"] == pytest.approx(0.03)
  assert curve[0]["found"] == 0.5
  want = (2 * 0.47 + 3 * abs(0.98 - 2 / 3)) / 5
  assert preference.expected_error(curve) == pytest.approx(want)
  assert preference.expected_error([]) is None


def test_calibrated_answers_have_a_small_error():
  rng = np.random.default_rng(1)
  scores = rng.normal(0, 2, 20_000)
  good = rng.random(20_000) < 1 / (1 + np.exp(-scores))
  found = preference.answers(scores, good, [5] * 20_000, [""] * 20_000)
  assert found["ece"] < 0.02
  worse = preference.answers(3 * scores, good, [5] * 20_000, [""] * 20_000)
  assert worse["ece"] > 0.05  # teeth
  assert worse["auroc"] == found["auroc"]


def test_pairs_by_hand():
  found = preference.pairs(
      [1.0, 2.0, 3.0, 0.0], [0.0, 2.0, 4.0, -1.0],
      [(10, 20), (30, 30), (40, 50), (600, 2)], ["a", "a", "b", ""])
  assert found["accuracy"] == (1 + 0.5 + 0 + 1) / 4 and found["count"] == 4
  assert found["by_source"] == {
      "a": {"accuracy": 0.75, "count": 2}, "b": {"accuracy": 0.0, "count": 1},
      "unnamed": {"accuracy": 1.0, "count": 1}}
  assert list(found["by_length"]) == ["17-32", "33-64", "513-1024"]
  # Of the unequal pairs 1 has the shorter first and prefers it, 3 prefers the
  # longer one, 4 the longer one.
  assert found["prefers_longer"] == pytest.approx(2 / 3)
  assert found["longer_is_chosen"] == pytest.approx(1 / 3)
  assert found["length_correlation"] == pytest.approx(np.corrcoef(
      [1, 2, 3, 0, 0, 2, 4, -1], [10, 30, 40, 600, 20, 30, 50, 2])[0, 1])
  assert 0 < found["accuracy_low"] < 0.625 < found["accuracy_high"] < 1
  json.dumps(found)


def test_a_lover_of_length_is_seen():
  rng = np.random.default_rng(2)
  lengths = rng.integers(1, 99, (500, 2))
  found = preference.pairs(
      lengths[:, 0], lengths[:, 1], lengths.tolist(), ["x"] * 500)
  assert found["prefers_longer"] == 1
  assert found["length_correlation"] == pytest.approx(1)
  constant = preference.pairs([1.0], [1.0], [(3, 3)], ["x"])
  assert constant["length_correlation"] is None
  assert constant["prefers_longer"] is None


def test_blank_is_below_nearly_all_bad_answers():
  bad = np.random.default_rng(3).normal(7, 2, 1000)
  found = preference.blank(bad)
  assert np.mean(bad < found) < 0.005
  assert found > 7 - 6 * 2  # but of their scale
  assert preference.blank([4.0]) < 4


def test_intervals_of_no_and_of_all_successes_end_at_0_and_1():
  for count in range(1, 200):
    low, high = preference.interval(0, count)
    assert low == 0 < high
    low, high = preference.interval(count, count)
    assert low < 1 == high
