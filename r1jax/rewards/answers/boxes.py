"""Finds the contents of `\\boxed{}` in a text.

Texts are untrusted and may be long: every pattern here takes linear time.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from r1jax.rewards.answers import denial

_BRACE = re.compile(r"\\f?boxed\s*\{|\\.|[{}]", re.DOTALL)
MOST = 200  # number of boxes of a text, the last ones, that are considered


class Box(NamedTuple):
  """One box.

  Attributes:
    content: the text in it, stripped.
    start: index of its backslash in the text.
    end: index behind its closing brace.
  """

  content: str
  start: int
  end: int


def boxes(text: str) -> tuple[list[Box], bool]:
  """All `\\boxed{...}` with balanced braces, in the order of their ends.

  Returns:
    (the outermost boxes, whether any box is inside another one).
  """
  closed: list[Box] = []
  nested = False
  # For each open brace: (start of the box, start of its content), or None.
  opened: list[tuple[int, int] | None] = []
  depth = 0  # number of open boxes
  for match in _BRACE.finditer(text):
    token = match.group()
    if token == "}":
      at = opened.pop() if opened else None
      if at is not None:
        depth -= 1
        nested = nested or depth > 0
        if not depth:
          closed.append(Box(text[at[1]:match.start()].strip(), at[0],
                            match.end()))
    elif token.endswith("{") and token != "\\{":
      is_box = len(token) > 1
      opened.append(match.span() if is_box else None)
      depth += is_box
  return closed, nested


def claimed(text: str) -> tuple[list[str], str]:
  """Contents of the boxes that the text gives as its answer.

  Boxes that are denied ("not \\boxed{5}") are left out.

  Returns:
    (contents in the order of the text, reason). The reason says why no box
    counts although there are some: "nested boxes", or "denied" if all are
    denied or the last is retracted after it; else it is "".
  """
  found, nested = boxes(text)
  if nested:
    return [], "nested boxes"
  left = [box for box in found[-MOST:] if not (
      denial.denied(text[max(0, box.start - denial.REACH):box.start]))]
  if found and (not left or denial.retracted(text, left[-1].end)):
    return [], "denied"
  return [box.content for box in left], ""
