from __future__ import annotations

import pytest

from r1jax.report import evolution


def test_shares():
  got = evolution.reflection(["Wait, wait: 3+4=7.", "No; but checked, check"])
  assert got["wait"] == pytest.approx(2 / 6)
  assert got["but"] == got["check"] == pytest.approx(1 / 6)
  assert got["all"] == pytest.approx(4 / 6)
  assert set(got) == {*evolution.REFLECTIVE, "all"}


def test_nothing():
  assert set(evolution.reflection(["", "1+1"]).values()) == {0.0}


def test_tags_are_no_words():
  text = "<think> Wait, wait. </think> <answer> four </answer>"
  assert evolution.reflection([text])["wait"] == pytest.approx(2 / 3)
  assert evolution.occurrences([text], ["think", "answer"]) == 0


def test_occurrences_are_per_text():
  texts = ["Hm, wait, hm: 1+1=2.", "3", "I guess"]
  assert evolution.occurrences(texts, ["hm", "guess"]) == pytest.approx(1)
  assert evolution.occurrences(texts) == pytest.approx(1 / 3)


def sample(number, completion, length, **parts):
  return {"id": number, "question": f"{number}?", "completion": completion,
          "length": length, "parts": parts}


def test_changes_are_of_the_same_question():
  before = [sample(4, "it is 3", 5, accuracy=0.0, format=1.0),
            sample(4, "three", 2, accuracy=1.0, format=0.0),
            sample(7, "only before", 1, accuracy=1.0)]
  after = [sample(9, "only after", 1, accuracy=1.0),
           sample(4, "wait: it is 3", 9, accuracy=1.0, language=1.0)]
  assert evolution.changes(before, after) == [{
      "id": 4, "question": "4?", "length": (3.5, 9.0), "accuracy": (0.5, 1.0),
      "reflective": (0.0, 1.0)}]
  assert evolution.changes(before, after[:1]) == []
