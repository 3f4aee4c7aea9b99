from __future__ import annotations

import json

import numpy as np
import pytest

from r1jax.evals import estimators, summaries
from tests.reference import estimators as reference

ROWS = [
    {"answers": ["a", "b", "b"], "level": 1, "language": "en", "domain": "math",
     "topic": "algebra"},
    {"answers": ["c", "c", None], "level": 2, "language": "zh",
     "domain": "math", "topic": None},
    {"answers": ["d", "d", "d"], "level": 1, "language": "en", "domain": "math",
     "topic": "geometry"}]
RIGHT = np.array([[1, 0, 0], [1, 1, 0], [0, 0, 0]], float)


def test_everything_of_three_problems():
  got = summaries.of_rows(ROWS, RIGHT)
  assert (got["problems"], got["samples"]) == (3, 3)
  assert got["pass_1"]["mean"] == pytest.approx(1 / 3)
  assert list(got["pass_k"]) == list(got["cons_k"]) == ["1", "2", "3"]
  assert got["pass_k"]["2"]["mean"] == pytest.approx(
      np.mean([reference.pass_at_k(3, c, 2) for c in (1, 2, 0)]))
  assert got["cons_k"]["3"]["mean"] == pytest.approx(1 / 3)
  assert got["cons_k"]["1"] == got["pass_1"]
  assert got["cons_error"] == estimators.cons_error(
      [row["answers"] for row in ROWS], RIGHT) > 0
  # One domain is no part; a problem without a topic is in none.
  assert set(got["by"]) == {"level", "language", "topic"}
  assert got["by"]["level"]["1"]["mean"] == pytest.approx(1 / 6)
  assert got["by"]["level"]["1"]["count"] == 2
  assert set(got["by"]["topic"]) == {"algebra", "geometry"}
  assert json.loads(json.dumps(got)) == got


def test_topics():
  assert summaries.topic({"subject": "Algebra", "level": 3}) == "Algebra"
  assert summaries.topic({"topic": "a", "subject": "b"}) == "a"
  assert summaries.topic({"type": 3, "category": ""}) is None


def test_samples_that_do_not_count():
  """Of the first problem one of three, of the last all: as if never drawn."""
  counted = np.array([[1, 0, 1], [1, 1, 1], [0, 0, 0]], bool)
  got = summaries.of_rows(ROWS, RIGHT, counted)
  assert (got["problems"], got["not_counted"]) == (3, 4)
  assert got["pass_1"]["mean"] == pytest.approx((1 / 2 + 2 / 3) / 2)
  assert got["pass_1"]["count"] == 2
  assert got["pass_k"]["2"]["mean"] == pytest.approx((
      reference.pass_at_k(2, 1, 2) + reference.pass_at_k(3, 2, 2)) / 2)
  # Three samples has the second problem alone.
  assert got["pass_k"]["3"]["count"] == got["cons_k"]["3"]["count"] == 1
  assert got["cons_k"]["3"]["mean"] == 1
  # Its samples a and b, one right: a vote of two is a tie.
  assert got["cons_k"]["2"]["mean"] == pytest.approx((0.5 + reference.consensus(
      ROWS[1]["answers"], RIGHT[1].tolist(), 2)) / 2, abs=0.05)
  assert got["by"]["topic"] == {
      "algebra": got["by"]["level"]["1"],
      "geometry": dict.fromkeys(["mean", "error", "low", "high"]) | {
          "count": 0}}
  assert json.loads(json.dumps(got)) == got
  none = summaries.of_rows(ROWS, RIGHT, np.zeros((3, 3), bool))
  assert none["pass_1"]["mean"] is None and none["cons_error"] == 0
  all_count = summaries.of_rows(ROWS, RIGHT, np.ones((3, 3), bool))
  assert all_count == summaries.of_rows(ROWS, RIGHT)


def test_what_a_judge_did_not_say_is_in_no_comparison():
  def row(problem, sample, value, valid, **more):
    return {"source": "s", "id": problem, "question": f"{problem}?",
            "reference": "", "answer": None, "parts": {"accuracy": value},
            "valid": valid, "length": 1, "completion": ""} | more

  rows = [row(0, 0, 1.0, True), row(0, 1, 0.0, False), row(1, 0, 0.0, False),
          row(1, 1, 0.0, False)]
  (ruled,) = summaries.by_source(rows).values()
  assert list(ruled.values().values()) == [0.5, 0.0]
  (judged,) = summaries.by_source(
      one | {"judged": True} for one in rows).values()
  assert judged.values() == {("0?", 0): 1.0}
