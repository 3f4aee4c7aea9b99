"""The small world's rewriter: a rough thought as somebody who thinks aloud."""

from __future__ import annotations

import re

from r1jax.core.prompt import Prompt
from r1jax.data.world import questions

_STEP = re.compile(r"\d+[+-]\d+=\d+|[A-D]-[A-D]:[A-D]")
_THOUGHT = {"en": "Let me see: {}. I get {}.", "zh": "让我想想：{}。我得到{}。"}
_SUMMARY = {"en": "The answer is {}.", "zh": "答案是{}。"}


def rewrite(prompt: Prompt, thought: str, answer: str
            ) -> tuple[str, str] | None:
  """(thought, summary) in the first person and the question's language.

  Args:
    prompt: of `world-sums` or `world-cups`.
    thought: as R1-Zero wrote it, in whatever language.
    answer: that follows it.

  Returns:
    None where the thought has no steps.
  """
  steps, answer = _STEP.findall(thought), answer.strip()
  if not steps:
    return None
  told = questions.THEN[prompt.language].join(steps)
  boxed = f"\\boxed{{{answer}}}" if prompt.domain == "math" else answer
  return (_THOUGHT[prompt.language].format(told, answer),
          _SUMMARY[prompt.language].format(boxed))

