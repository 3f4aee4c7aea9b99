"""What stands in `\\boxed{}`.

Texts are hostile and may be long: every pattern here is linear.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from r1jax.rewards.answers import denial

_BRACE = re.compile(r"\\f?boxed\s*\{|\\.|[{}]", re.DOTALL)
MOST = 200  # boxes of a text, the last ones, that are looked at


class Box(NamedTuple):
  """One box.

  Attributes:
    content: what stands in it, stripped.
    start: where it begins in the text, at the backslash.
    end: where it ends, behind its brace.
  """

  content: str
  start: int
  end: int


def boxes(text: str) -> tuple[list[Box], bool]:
  """The `\\boxed{...}` whose braces balance, as they end in `text`.

  Returns:
    the outermost boxes, and whether any box lies in another one.
  """
  closed: list[Box] = []
  nested = False
  # For each open brace where its box and the content start, if it is a box's.
  opened: list[tuple[int, int] | None] = []
  depth = 0  # boxes open
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
    the contents, the last one last; and why none counts although there are
    boxes, else "": "nested boxes", "denied" (all of them are, or the last is
    taken back behind it).
  """
  found, nested = boxes(text)
  if nested:
    return [], "nested boxes"
  left = [box for box in found[-MOST:] if not (
      denial.denied(text[max(0, box.start - denial.REACH):box.start]))]
  if found and (not left or denial.retracted(text, left[-1].end)):
    return [], "denied"
  return [box.content for box in left], ""
