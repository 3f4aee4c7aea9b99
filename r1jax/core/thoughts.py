"""Splits a model's text into thought and answer."""

from __future__ import annotations

from typing import NamedTuple

OPEN, CLOSE = "<think>", "</think>"
TAGS = (OPEN, CLOSE, "<answer>", "</answer>")


class Parts(NamedTuple):
  """The parts of a text, each stripped of surrounding white space.

  Attributes:
    thinking: what precedes the last `</think>`, without its opening tag; or,
      if there is no `</think>`, what follows the first `<think>`; "" without
      tags.
    answer: what follows the last `</think>`, up to the next `<think>`: a
      thought that is never closed holds no answer.
    closed: whether there is a `</think>`.
  """

  thinking: str
  answer: str
  closed: bool


def split(text: str) -> Parts:
  """Thought and answer of a text.

  The opening `<think>` may be in the text, or in the template's prompt before
  it. Rewards, filters, and templates that drop the thoughts of past turns use
  this function.
  """
  thinking, closed, rest = cut(text)
  answer, opened, unclosed = rest.partition(OPEN)
  if opened and not closed:
    thinking = unclosed
  return Parts(thinking.strip().removeprefix(OPEN).strip(), answer.strip(),
               bool(closed))


def cut(text: str) -> tuple[str, str, str]:
  """(before the last `</think>`, `</think>` or "", after it), as written."""
  return text.rpartition(CLOSE)
