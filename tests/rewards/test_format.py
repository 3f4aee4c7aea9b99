from __future__ import annotations

import time

import pytest

from r1jax.rewards import format, response

GOOD = "<think> steps </think> <answer> 38 </answer>"
CASES = [
    ("", GOOD, 1),
    ("", f"\n {GOOD}\n", 1),
    ("", "<think></think><answer>38</answer>", 1),
    ("", "<think>a\nb</think>\n\n<answer>3\n8</answer>", 1),
    ("<think>\n", "steps </think> <answer> 38 </answer>", 1),
    ("<think> x </think> <answer>", "3</answer>", 1),
    ("<think>\n", GOOD, 0),
    ("", "steps </think> <answer> 38 </answer>", 0),
    ("", "<think> steps <answer> 38 </answer>", 0),
    ("", "<think> steps </think> 38", 0),
    ("", "<think> steps </think> <answer> 38", 0),
    ("", "<think> steps", 0),
    ("", "<think> steps </think> <answer> </answer>", 0),
    ("", "<answer> 38 </answer> <think> steps </think>", 0),
    ("", f"Sure. {GOOD}", 0),
    ("", "<think> a </think> so <answer> 38 </answer>", 0),
    ("", f"{GOOD} User:", 0),
    ("", f"{GOOD} {GOOD}", 0),
    ("", "<think> <think> a </think> </think> <answer> 38 </answer>", 0),
    ("", "<think> a </think> <answer> 3 </answer> <answer> 8 </answer>", 0),
    ("", "<think> <answer> 3 </answer> </think> <answer> 38 </answer>", 0),
    ("", "<Think> a </Think> <Answer> 38 </Answer>", 0),
    ("", "<think> a </think> <answer> 38 <answer>", 0),
    ("", "38", 0),
    ("", "", 0),
]
CHAT = [
    ("", "<think> steps </think> The answer is 38.", 1),
    ("<think>\n", "steps\n</think>\n\n38", 1),
    ("", "\n<think></think>38", 1),
    ("", "<think> steps </think> \n", 0),
    ("", "<think> steps", 0),
    ("", "38", 0),
    ("", "", 0),
    ("<think>\n", "<think> steps </think> 38", 0),
    ("", "Sure. <think> steps </think> 38", 0),
    ("", "steps </think> 38", 0),
    ("", "<think> steps </think> 38 </think>", 0),
    ("", "<think> a </think> <think> b </think> 38", 0),
    ("", "</think> 38 <think>", 0),
    ("", GOOD, 0),
    ("", "<think> a <answer> </think> 38", 0),
    ("", "<THINK> a </THINK> 38", 0),
]


@pytest.mark.parametrize("rule,tail,completion,value", [
    *[(format.think_answer, *case) for case in CASES],
    *[(format.think, *case) for case in CHAT]])
def test_grammar(rule, tail, completion, value):
  score = rule(None, response.split(tail, completion))
  assert (score.value, score.valid) == (value, True)
  assert (score.reason == "correct") == bool(value)


def test_every_truncation_fails():
  for end in range(len(GOOD)):
    assert format.think_answer(
        None, response.split("", GOOD[:end])).value == 0


@pytest.mark.parametrize("rule", [format.think_answer, format.think])
@pytest.mark.parametrize("piece", [
    "<think>", "</think>", "<answer> ", "<", " "])
def test_large_texts_take_no_time(rule, piece):
  parts = response.split("", piece * (200_000 // len(piece)))
  start = time.perf_counter()
  assert rule(None, parts).value == 0
  assert time.perf_counter() - start < 1
