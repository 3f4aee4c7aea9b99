"""Rewrites R1-Zero's thoughts on sums and cups as readable first-person text.

Stands in for the rewriting model of R1's cold start. It leaves some words
untranslated, so a model trained on its output mixes languages a little.
"""

from __future__ import annotations

import itertools
import re

from r1jax.core.prompt import Prompt
from r1jax.data.sources.generated.draws import Dice
from r1jax.data.sources.world import questions

LEFT = 0.4  # probability that a word between steps is not translated
_STEP = re.compile(r"\d+[+-]\d+=\d+|[A-D]-[A-D]:[A-D]")
_THOUGHT = {"en": "Let me see: {}. I get {}.", "zh": "让我想想：{}。我得到{}。"}
_SUMMARY = {"en": "The answer is {}.", "zh": "答案是{}。"}


def rewrite(prompt: Prompt, thought: str, answer: str
            ) -> tuple[str, str] | None:
  """(thought, summary) in the first person and the question's language.

  Args:
    prompt: of `world-sums` or `world-cups`.
    thought: R1-Zero's, in any language.
    answer: R1-Zero's answer after it.

  Returns:
    None if the thought has no steps.
  """
  steps, answer = list(_STEP.finditer(thought)), answer.strip()
  if not steps:
    return None
  told, dice = steps[0][0], Dice("rewrite", prompt.source, prompt.id)
  for before, after in itertools.pairwise(steps):
    written = thought[before.end():after.start()]
    left = dice.random() < LEFT and written in questions.THEN.values()
    told += written if left else questions.THEN[prompt.language]
    told += after[0]
  boxed = f"\\boxed{{{answer}}}" if prompt.domain == "math" else answer
  return (_THOUGHT[prompt.language].format(told, answer),
          _SUMMARY[prompt.language].format(boxed))

