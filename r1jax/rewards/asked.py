"""Appends to a question how to give the final answer, so that rules find it.

An instruct model answers in prose unless it is told the expected format. The
paper gives no wording; this one is ours.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
  from r1jax.core.prompt import Message, Prompt

_BOX = {"en": r"Put the final answer in \boxed{}.",
        "zh": r"请把最终答案写在 \boxed{} 中。"}
_LETTER = {"en": r"Put the letter of the right option in \boxed{}.",
           "zh": r"请把正确选项的字母写在 \boxed{} 中。"}
_PROGRAM = {"en": "Give the whole program in one block between ```python and"
                  " ```.",
            "zh": "请在 ```python 和 ``` 之间给出完整的程序。"}
_BY_VERIFIER = {"math": _BOX, "exact": _BOX, "set": _BOX, "literal": _BOX,
                "choice": _LETTER, "code": _PROGRAM, "bugfix": _PROGRAM}
_SAID = ("\\boxed", "```", "<answer>")  # the prompt itself asks for a format


def instructed(prompt: Prompt) -> tuple[Message, ...]:
  """The conversation, with an instruction on the answer's format appended.

  Unchanged if the verifier needs no format, or if the conversation mentions one
  already.
  """
  words = _BY_VERIFIER.get(prompt.verifier)
  spoken = [m["content"] for m in prompt.messages if m["role"] != "assistant"]
  if not words or any(mark in text for mark in _SAID for text in spoken):
    return prompt.messages
  words = words.get(prompt.language, words["en"])
  return (*prompt.messages[:-1], dict(prompt.messages[-1]) | {
      "content": f"{prompt.question.rstrip()}\n\n{words}"})
