"""A completion is taken apart once, the same way for every rule."""

import time

import pytest

from r1jax.rewards import response

CASES = [
    # (tail, completion, thinking, answer, marked)
    ("", "<think> a </think> <answer> 4 </answer>", "a", "4", True),
    ("<think>\n", "a </think> 4", "a", "4", False),
    ("", "4", "", "4", False),
    ("", "", "", "", False),
    ("", "<think> <answer>4</answer>", "<answer>4</answer>", "", False),
    ("", "<think>a <answer>4</answer></think>", "a <answer>4</answer>", "",
     False),
    ("", "a </think> b </think> c", "a </think> b", "c", False),
    ("", "<think>a</think> 4 <think> 5", "a", "4", False),
    ("", "<answer>3</answer> <answer> 4 </answer>", "", "4", True),
    ("", "<answer>3</answer> <answer>4", "", "3", True),
    ("", "<answer><answer>4</answer></answer>", "", "4", True),
    ("", "<answer></answer>", "", "", True),
    ("", "</answer>4<answer>", "", "</answer>4<answer>", False),
]


@pytest.mark.parametrize("tail,completion,thinking,answer,marked", CASES)
def test_parts(tail, completion, thinking, answer, marked):
  assert response.split(tail, completion) == (
      tail + completion, thinking, answer, marked)


@pytest.mark.parametrize("piece", [
    "<answer>", "</answer>", "<think>", "</think>", "<answer><", "x",
    "<answer>x</answer>"])
def test_long_texts_take_linear_time(piece):
  text = piece * (1_000_000 // len(piece))
  began = time.perf_counter()
  response.split("", text)
  assert time.perf_counter() - began < 2.0
