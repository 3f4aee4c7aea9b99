from __future__ import annotations

import pytest

from r1jax.rewards import format

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


@pytest.mark.parametrize("tail,completion,value", CASES)
def test_think_answer(tail, completion, value):
  score = format.think_answer(None, tail, completion)
  assert (score.value, score.valid) == (value, True)
  assert (score.reason == "correct") == bool(value)


def test_every_truncation_fails():
  for end in range(len(GOOD)):
    assert format.think_answer(None, "", GOOD[:end]).value == 0
