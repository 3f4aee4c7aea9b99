"""Thought and answer: the one place where a model's text is taken apart."""

from __future__ import annotations

from typing import NamedTuple

OPEN, CLOSE = "<think>", "</think>"
TAGS = (OPEN, CLOSE, "<answer>", "</answer>")


class Parts(NamedTuple):
  """What a text consists of, each part stripped.

  Attributes:
    thinking: what lies before the last `</think>`, its opening tag removed;
      what follows a tag that is opened and never closed; "" without tags.
    answer: what follows the last `</think>`, up to a thought that is opened
      after it: a thought that never closes holds no answer.
    closed: whether there is a `</think>`.
  """

  thinking: str
  answer: str
  closed: bool


def split(text: str) -> Parts:
  """Thought and answer of a text, with what a template had opened or without.

  Judging, filtering and what a conversation keeps of past turns all read this.
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
