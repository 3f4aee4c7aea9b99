"""Format rewards: a thought, then the answer (paper, rule-based rewards)."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from r1jax.rewards.response import Response
from r1jax.rewards.score import Score

if TYPE_CHECKING:
  from r1jax.core.prompt import Prompt

_TAG = re.compile(r"(</?(?:think|answer)>)")
_THOUGHT = ["<think>", "</think>"]
_ANSWER = ["<answer>", "</answer>"]


def think_answer(prompt: Prompt, response: Response) -> Score:
  """1 if the text is `<think>...</think> <answer>...</answer>`, else 0.

  R1-Zero's template (A2, Table 1). The text is what the template prefilled
  after "Assistant:", followed by the completion. Each tag must occur exactly
  once and in this order; before, between and after the two elements only white
  space is allowed; the answer must not be blank. A truncated completion lacks
  its last tag and so scores 0.

  The paper gives neither the exact pattern nor the size of the reward. Ours:
  the thought may be empty, so that format does not reward length, and the size
  is 1.
  """
  del prompt
  text, tags = _parts(response)
  if tags != _THOUGHT + _ANSWER:
    return Score(0.0, True, "tags")
  before, _, between, answer, after = text
  if before.strip() or between.strip() or after.strip():
    return Score(0.0, True, "text outside the tags")
  if not answer.strip():
    return Score(0.0, True, "blank answer")
  return Score(1.0, True, "correct")


def think(prompt: Prompt, response: Response) -> Score:
  """1 if the text is `<think>...</think>` and a summary, else 0.

  R1's chat format: the summary must not be blank, only white space may precede
  the thought, and there must be no other think or answer tag. As in
  `think_answer`, the text includes what the template prefilled.
  """
  del prompt
  text, tags = _parts(response)
  if tags != _THOUGHT:
    return Score(0.0, True, "tags")
  before, _, summary = text
  if before.strip():
    return Score(0.0, True, "text outside the tags")
  if not summary.strip():
    return Score(0.0, True, "blank answer")
  return Score(1.0, True, "correct")


def _parts(response: Response) -> tuple[list[str], list[str]]:
  """(texts around the tags, tags): there is one more text than tags."""
  parts = _TAG.split(response.text)
  return parts[::2], parts[1::2]
