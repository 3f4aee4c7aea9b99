"""A completion, taken apart once: the thought and the answer."""

from __future__ import annotations

import re
from typing import NamedTuple

from r1jax.core import thoughts

_ANSWER = re.compile(r"<answer>((?:(?!</?answer>).)*)</answer>", re.DOTALL)


class Response(NamedTuple):
  """What a model wrote.

  Attributes:
    text: all of it, with what the template had prefilled before it.
    thinking: as `thoughts.split` finds it.
    answer: likewise; in it the last `<answer>` element if there is one, else
      all of it. Stripped.
    marked: whether the answer is an `<answer>` element.
  """

  text: str
  thinking: str
  answer: str
  marked: bool


def split(prompt_tail: str, completion: str) -> Response:
  """The parts of a completion.

  Args:
    prompt_tail: what the template prefilled after "Assistant:", e.g. `<think>`;
      it belongs to the text that is judged.
    completion: what the model wrote.
  """
  text = prompt_tail + completion
  thinking, answer, _ = thoughts.split(text)
  inside = None
  for match in _ANSWER.finditer(answer):
    inside = match.group(1)
  return Response(text, thinking, (
      answer if inside is None else inside.strip()), inside is not None)
