"""The hand-checked corpus: every verdict was found by thought, not by code.

Each line of corpus.jsonl is one answer to one reference: what the response
says after the thinking, and whether that is right.
"""

from __future__ import annotations

import collections
import json
import pathlib

import pytest

from r1jax.core.prompt import Prompt, ask
from r1jax.rewards import response
from r1jax.rewards.answers import choice
from r1jax.rewards.maths import answer

CORPUS = [json.loads(line) for line in (
    pathlib.Path(__file__).with_name("corpus.jsonl").read_text().splitlines())]
OPTIONS = {"A": "nucleus", "B": "mitochondrion", "C": "ribosome",
           "D": "a cell wall"}
RULES = {"math": answer.verify, "choice": choice.verify}


def judged(row, thinking="x"):
  reference = row["gold"]
  if row["verifier"] == "choice":
    reference = {"answer": reference, "options": OPTIONS}
  metadata = {"extract": row["extract"]} if "extract" in row else {}
  prompt = Prompt(
      id=1, domain="math", source="test",
      messages=ask(row.get("question", "What is it?")),
      reference=reference, verifier=row["verifier"], metadata=metadata)
  text = f"{thinking} </think> {row['response']}"
  return RULES[row["verifier"]](prompt, response.split("<think>", text))


def test_size():
  count = collections.Counter(
      (row["verifier"], row["right"]) for row in CORPUS)
  assert count["math", True] + count["math", False] >= 260
  assert count["choice", True] + count["choice", False] >= 80
  assert count["math", False] + count["choice", False] >= 180
  assert sum(row["language"] == "zh" for row in CORPUS) >= 40
  assert len({json.dumps(row, sort_keys=True) for row in CORPUS}) == len(CORPUS)


def test_no_wrong_answer_is_rewarded():
  rewarded = [row for row in CORPUS if not row["right"] and judged(row).value]
  assert not rewarded, rewarded


def test_right_answers_are_rewarded():
  right = [row for row in CORPUS if row["right"]]
  missed = [(row["gold"], row["response"], judged(row).reason)
            for row in right if judged(row).value != 1.0]
  assert len(missed) <= len(right) / 100, missed


@pytest.mark.parametrize("verifier", ["math", "choice"])
def test_the_thinking_earns_nothing(verifier):
  """What is right after the thinking is worth nothing inside it."""
  for row in CORPUS:
    if row["verifier"] == verifier and row["right"]:
      empty = row | {"response": ""}
      assert judged(empty, thinking=row["response"]).value == 0.0, row


def test_every_verdict_is_valid_and_says_why():
  for row in CORPUS:
    score = judged(row)
    assert score.valid and score.value in (0.0, 1.0) and score.reason
    assert (score.reason == "correct") == (score.value == 1.0)
