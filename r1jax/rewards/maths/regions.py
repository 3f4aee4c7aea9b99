"""Sets of real numbers: intervals, unions, inequalities, set-builder notation.

`x < -2 or x > 3`, `(-\\infty,-2)\\cup(3,\\infty)`, `\\{x \\mid x<-2 ...\\}`
and `\\mathbb{R}\\setminus[-2,3]` are the same set. Bounds must be constants;
`structure` compares sets with letters in their bounds.
"""

from __future__ import annotations

import re
from typing import Any, NamedTuple

from r1jax.rewards.maths import expressions, values
from r1jax.rewards.maths.notation import (
  END,
  OPEN,
  SET,
  SET_END,
  WORDS,
  closing,
  depths,
  squeezed,
)

RELATION = re.compile(r"(\\(?:le|ge|ne)(?![A-Za-z])|[<>=])")
FLIP = {"<": ">", ">": "<", "\\le": "\\ge", "\\ge": "\\le"}
REALS = frozenset([
    "\\mathbb{R}", "R", "\\mathbbR", "\\mathbb R", "allrealnumbers",
    "allreals", "realnumbers", "thesetofallrealnumbers", "allrealvalues",
    "allrealx", "everyrealnumber", "anyrealnumber", "全体实数", "所有实数",
    "一切实数", "实数集", "任意实数", "allrealvaluesofx",
    "allrealnumbersx", "therealnumbers", "thereals", "reals"])
EMPTY = frozenset(["\\emptyset", SET + SET_END, "{}", "空集"])
_SIGNAL = re.compile(
    r"\\(?:cup|cap|setminus|in|infty|le|ge|ne|mathbb)(?![A-Za-z])|[<>]"
    r"|实数|\\emptyset|all real|All real|ALL REAL|all values|\bR\b|reals"
    rf"|[{SET}{{]\s*[A-Za-z]\s*[|:]|[\[\]][^\[\]]*\[")
_MEMBER = re.compile(r"\s*([A-Za-z]|\\[a-z]+)\s*\\in(?![A-Za-z])\s*")
_BUILDER = re.compile(
    r"\s*([A-Za-z]|\\[a-z]+)\s*(?:\\in(?![A-Za-z])([^|:]*))?\s*[|:]")
_OR = re.compile(
    rf"\\(?:cup|or)(?![A-Za-z])|\s*{WORDS}\s*or\s*{END}\s*|\bor\b|或者?|∪"
    r"|(?<=[\d)}])or(?=[a-zA-Z\\])")
_AND = re.compile(
    rf"\\(?:cap|and)(?![A-Za-z])|\s*{WORDS}\s*(?:and|且)\s*{END}\s*|\band\b"
    r"|且|&")
_MINUS = re.compile(r"\\setminus(?![A-Za-z])|(?<=\})\s*-\s*(?=[" + SET + "])")
_COMMA = re.compile(r"[,;]")
_REVERSED = re.compile(r"\]\s*([^\[\]]+)\[|\[\s*([^\[\]]+)\["
                       r"|\]\s*([^\[\]]+)\]")
_OTHER = re.compile(r"\\mathbb\{?[ZNQC]\}?")
_MAX_PIECES = 20


class Piece(NamedTuple):
  """An interval; a point if both ends are equal and closed."""

  low: Any
  high: Any
  low_open: bool
  high_open: bool


class Region(NamedTuple):
  """Disjoint pieces in order, and the variable of the text that gave them."""

  pieces: tuple[Piece, ...]
  name: str = ""


class NotASet(ValueError):
  """Not a set of real numbers with constant bounds."""


def signals(text: str) -> bool:
  """Whether `text` may be a set or a condition; a quick test."""
  return _SIGNAL.search(text) is not None


def read(text: str) -> Region | None:
  """The set that `text` (of `notation.plain`) describes; None if it is none."""
  if len(text) > 300:
    return None
  try:
    return _union(text.strip())
  except (NotASet, RecursionError, TypeError):
    return None


def same(a: Region, b: Region) -> bool:
  """Whether two sets have the same points, and no different variables."""
  if a.name and b.name and a.name != b.name:
    return False
  return len(a.pieces) == len(b.pieces) and all(
      values.close(p.low, q.low) and values.close(p.high, q.high)
      and p[2:] == q[2:] for p, q in zip(a.pieces, b.pieces))


def sides(text: str) -> list[str]:
  """The sides of relations and the relations between them, in order.

  Relations inside brackets are not split.
  """
  if not RELATION.search(text):
    return [text.strip()]
  deep, parts, start = depths(text), [], 0
  for match in RELATION.finditer(text):
    if not deep[match.start()]:
      parts += [text[start:match.start()].strip(), match.group()]
      start = match.end()
  return [*parts, text[start:].strip()]


def _split(text: str, joint: re.Pattern[str]) -> list[str]:
  """The parts between matches of `joint` outside of all brackets."""
  parts, start = [], 0
  deep = depths(text)
  for match in joint.finditer(text):
    if not deep[match.start()]:
      parts.append(text[start:match.start()].strip())
      start = match.end()
  parts.append(text[start:].strip())
  if not all(parts) or len(parts) > _MAX_PIECES:
    raise NotASet(text)
  return parts


def _union(text: str) -> Region:
  text = _unwrapped(text)
  if member := _MEMBER.match(text):
    rest = text[member.end():]
    if not _split(rest, _COMMA)[1:]:
      inner = _union(rest)
      return inner._replace(name=inner.name or squeezed(member.group(1)))
  if builder := _BUILDER.match(text):
    region = _union(text[builder.end():])  # the braces were outermost
    return region._replace(name="")
  parts = [_conditions(part) for part in _split(text, _OR)]
  return Region(_joined([p for part in parts for p in part.pieces]),
                _one_name(parts))


def _conditions(text: str) -> Region:
  """The intersection of conditions; commas mean "and" unless that is empty."""
  groups = _split(text, _AND)
  listed = [part for group in groups for part in _listed(group)]
  if len(listed) == 1:
    return _difference(listed[0])
  parts = [_difference(part) for part in listed]
  name = _one_name(parts)
  common = parts[0].pieces
  for part in parts[1:]:
    common = _common(common, part.pieces)
  if not common and len(groups) == 1:
    # `x<-2, x>3` can only mean "or".
    common = _joined([p for part in parts for p in part.pieces])
  return Region(common, name)


def _listed(text: str) -> list[str]:
  normalised = _reversed(text)
  if normalised != text or _bracketed(text):
    return [text]
  return _split(text, _COMMA)


def _one_name(parts: list[Region]) -> str:
  variables = {part.name for part in parts if part.name}
  if len(variables) > 1:
    raise NotASet("several variables")
  return variables.pop() if variables else ""


def _difference(text: str) -> Region:
  first, *rest = _split(text, _MINUS)
  region = _atom(first)
  for part in rest:
    region = region._replace(
        pieces=_common(region.pieces, _complement(_atom(part).pieces)))
  return region


def _unwrapped(text: str) -> str:
  while text[:1] == "(" and closing(text) == len(text) - 1 and (
      signals(text) and len(_outside(text[1:-1])) == 1
      and (RELATION.search(text) or "\\cup" in text)):
    text = text[1:-1].strip()
  return text


def _outside(text: str) -> list[str]:
  try:
    return _split(text, _COMMA)
  except NotASet:
    return []


def _reversed(text: str) -> str:
  """`]a,b[` and `[a,b[` as `(a,b)` and `[a,b)`."""
  match = _REVERSED.fullmatch(text.strip())
  if not match:
    return text
  text = text.strip()
  left = "(" if text[0] == "]" else "["
  return left + text[1:-1] + (")" if text[-1] == "[" else "]")


def _bracketed(text: str) -> bool:
  text = text.strip()
  return text[:1] in OPEN and bool(text) and closing(text) == len(text) - 1


def _atom(text: str) -> Region:
  text = _reversed(text.strip())
  short = squeezed(text)
  if short in REALS or re.sub(r"\s+", "", short).casefold() in REALS:
    return Region((_whole_line(),))
  if short in EMPTY:
    return Region(())
  if _OTHER.search(text):
    raise NotASet(text)
  if member := _MEMBER.match(text):
    inner = _union(text[member.end():])
    return inner._replace(name=squeezed(member.group(1)))
  if _bracketed(text):
    return _in_brackets(text)
  return _inequality(text)


def _in_brackets(text: str) -> Region:
  inner = text[1:-1].strip()
  if text[0] in (SET, "{"):
    if builder := _BUILDER.match(inner):
      region = _union(inner[builder.end():])
      if region.name and region.name != squeezed(builder.group(1)):
        raise NotASet(text)
      pieces = region.pieces
      if domain := (builder.group(2) or "").strip():
        pieces = _common(pieces, _union(domain).pieces)
      return Region(pieces)  # the variable is bound
    if RELATION.search(inner):
      return _union(inner)
    points = [_bound(p) for p in _split(inner, _COMMA)]
    return Region(_joined([Piece(p, p, False, False) for p in points]))
  ends = _split(inner, _COMMA)
  if len(ends) == 1 and RELATION.search(inner):
    return _union(inner)
  if len(ends) != 2 or text[-1] not in ")]":
    raise NotASet(text)
  low, high = _bound(ends[0]), _bound(ends[1])
  if not low < high and not values.close(low, high):
    raise NotASet("an interval that goes down")
  line = _whole_line()
  return Region((Piece(
      low, high, text[0] == "(" or low == line.low,
      text[-1] == ")" or high == line.high),))


def _inequality(text: str) -> Region:
  """The set of `x<1`, `1>x\\ge0`, `x=2` or `x\\ne 3`."""
  parts = sides(text)
  signs = parts[1::2]
  if not signs or not all(parts):
    raise NotASet(text)
  if len(parts) == 5:
    low, name, high = parts[::2]
    if signs[0] in (">", "\\ge"):
      low, high, signs = high, low, [FLIP.get(s, s) for s in signs[::-1]]
    if not is_name(name) or any(s not in ("<", "\\le") for s in signs):
      raise NotASet(text)
    piece = Piece(_bound(low), _bound(high), signs[0] == "<", signs[1] == "<")
    if not piece.low < piece.high:
      raise NotASet("an interval that goes down")
    return Region((piece,), squeezed(name))
  if len(parts) != 3:
    raise NotASet(text)
  left, sign, right = parts
  if is_name(right) and not is_name(left):
    left, sign, right = right, FLIP.get(sign, sign), left
  if not is_name(left):
    raise NotASet(text)
  bound, line = _bound(right), _whole_line()
  if sign == "=":
    pieces = (Piece(bound, bound, False, False),)
  elif sign == "\\ne":
    pieces = _complement((Piece(bound, bound, False, False),))
  elif sign in ("<", "\\le"):
    pieces = (Piece(line.low, bound, True, sign == "<"),)
  else:
    pieces = (Piece(bound, line.high, sign == ">", True),)
  return Region(pieces, squeezed(left))


def is_name(text: str) -> bool:
  """Whether a text is a single variable."""
  node = expressions.read(text.strip())
  return node is not None and node[0] == "name"


def _bound(text: str) -> Any:
  node = expressions.read(text.strip().removeprefix("+"))
  value = None if node is None else values.constant(node)
  if value is None:
    raise NotASet(text)
  return values.floating(value)


def _whole_line() -> Piece:
  return Piece(_bound("-\\infty"), _bound("\\infty"), True, True)


def _joined(pieces: list[Piece]) -> tuple[Piece, ...]:
  """The union of pieces, as disjoint pieces in order."""
  joined: list[Piece] = []
  for piece in sorted(pieces, key=lambda p: (p.low, p.low_open)):
    if joined:
      last = joined[-1]
      touch = values.close(piece.low, last.high)
      if piece.low < last.high and not touch or (
          touch and not (piece.low_open and last.high_open)):
        if values.close(piece.high, last.high):
          joined[-1] = last._replace(
              high_open=last.high_open and piece.high_open)
        elif piece.high > last.high:
          joined[-1] = last._replace(
              high=piece.high, high_open=piece.high_open)
        continue
    joined.append(piece)
  return tuple(joined)


def _complement(pieces: tuple[Piece, ...]) -> tuple[Piece, ...]:
  line = _whole_line()
  gaps, low, low_open = [], line.low, True
  for piece in pieces:
    if piece.low > low or (values.close(piece.low, low) and not low_open
                           and piece.low_open):
      gaps.append(Piece(low, piece.low, low_open, not piece.low_open))
    low, low_open = piece.high, not piece.high_open
  if low < line.high:
    gaps.append(Piece(low, line.high, low_open, True))
  return tuple(gaps)


def _common(a: tuple[Piece, ...], b: tuple[Piece, ...]) -> tuple[Piece, ...]:
  overlaps = []
  for p in a:
    for q in b:
      low, low_open = max((p.low, p.low_open), (q.low, q.low_open))
      high, closed = min((p.high, not p.high_open), (q.high, not q.high_open))
      if low < high or low == high and not low_open and closed:
        overlaps.append(Piece(low, high, low_open, not closed))
  return _joined(overlaps)
