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
