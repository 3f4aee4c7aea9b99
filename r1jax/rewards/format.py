"""Format reward: one thought, then one answer (paper, rule-based rewards)."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from r1jax.rewards.score import Score

if TYPE_CHECKING:
  from r1jax.core.types import Prompt

_TAG = re.compile(r"(</?(?:think|answer)>)")
_SEQUENCE = ["<think>", "</think>", "<answer>", "</answer>"]


def think_answer(prompt: Prompt, prompt_tail: str, completion: str) -> Score:
  """1 if the text is `<think>...</think> <answer>...</answer>`, else 0.

  The text is what the template prefilled after "Assistant:" (`prompt_tail`)
  and the completion, as one string. Each tag occurs exactly once and in this
  order; before, between and after the two elements there is only white space;
  the answer is not blank. A truncated completion lacks its last tag and so
  fails by itself.

  Paper silent on the exact pattern and size. Chosen here: the thought may be
  empty, so that format alone pays for no length, and the size is 1.
  """
  del prompt
  parts = _TAG.split(prompt_tail + completion)
  text, tags = parts[::2], parts[1::2]
  if tags != _SEQUENCE:
    return Score(0.0, True, "tags")
  before, _, between, answer, after = text
  if before.strip() or between.strip() or after.strip():
    return Score(0.0, True, "text outside the tags")
  if not answer.strip():
    return Score(0.0, True, "blank answer")
  return Score(1.0, True, "correct")
