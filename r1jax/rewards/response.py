"""Splits a completion into thought and answer, for all rules."""

from __future__ import annotations

import re
from typing import NamedTuple

from r1jax.core import thoughts

_ANSWER = re.compile(r"<answer>((?:(?!</?answer>).)*)</answer>", re.DOTALL)


class Response(NamedTuple):
  """A completion and its parts.

  Attributes:
    text: what the template prefilled, followed by the completion.
    thinking: the thought, from `thoughts.split`.
    answer: the answer from `thoughts.split`, or the content of the last
      `<answer>` element in it; stripped.
    marked: whether the answer is an `<answer>` element.
  """

  text: str
  thinking: str
  answer: str
  marked: bool


def split(prompt_tail: str, completion: str) -> Response:
  """The parts of a completion.

  Args:
    prompt_tail: text that the template prefilled after "Assistant:", such as
      `<think>`; it is judged as a part of the completion.
    completion: text of the model.
  """
  text = prompt_tail + completion
  thinking, answer, _ = thoughts.split(text)
  inside = None
  for match in _ANSWER.finditer(answer):
    inside = match.group(1)
  return Response(text, thinking, (
      answer if inside is None else inside.strip()), inside is not None)
