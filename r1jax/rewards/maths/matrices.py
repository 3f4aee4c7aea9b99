"""Parses matrices and vectors into rows of texts."""

from __future__ import annotations

import fractions
import re

from r1jax.rewards.maths import expressions
from r1jax.rewards.maths.notation import closing, depths
from r1jax.rewards.maths.trees import Node

_ENVIRONMENT = re.compile(
    r"\\begin\s*\{([pbB]?(?:small)?matrix|array)\}(?:\s*\{[lcr|\s]*\})?(.*)"
    r"\\end\s*\{\1\}", re.DOTALL)
_TURNED = re.compile(
    r"(.*[)\]}])\s*\^\s*(?:\{\s*)?(?:\\mathsf\{?|\\mathrm\{?)?\s*"
    r"(?:T|\\top|\ue000T\ue001)\s*\}*\s*", re.DOTALL)
_NEW_ROW = re.compile(r"\\\\(?:\[[^\]]*\])?|\\cr\b")
_ANGLES = re.compile(r"⟨\s*(.+?)\s*⟩")
_UNIT = re.compile(
    r"(?:\\(?:hat|vec|bar)\s*\{?\s*(?:\\(?:i|j|k)math|[ijk])\s*\}?"
    r"|(?<![A-Za-z])[ijk](?![A-Za-z]))")


def rows(text: str, vectors: bool = False) -> list[list[str]] | None:
  """The cells of a matrix, row by row; None if `text` is not a matrix.

  A factor before the matrix is multiplied in. With `vectors`,
  `\\langle 1,2\\rangle` and `(1,2)` are columns too.
  """
  text = text.strip()
  if match := _TURNED.fullmatch(text):
    matrix = rows(match.group(1), False) or _row(match.group(1).strip())
    return matrix and [list(column) for column in zip(*matrix)]
  if match := _ENVIRONMENT.fullmatch(text):
    if "\\begin" in match.group(2):
      return None
    cells = [[cell.strip() for cell in row.split("&")]
             for row in _NEW_ROW.split(match.group(2))]
    cells = cells[:-1] if len(cells) > 1 and cells[-1] == [""] else cells
    same = len({len(row) for row in cells}) == 1
    return cells if same else None
  if text[:1] in ("(", "[") and closing(text) == len(text) - 1 and (
      "\\begin" in text):
    return rows(text[1:-1])
  if "\\begin" in text:
    return _scaled(text)
  if text[:2] == "[[" and closing(text) == len(text) - 1:
    lines = [_row(part) for part in _parts(text[1:-1])]
    return [line[0] for line in lines] if all(lines) else None
  if not vectors:
    return None
  if match := _ANGLES.fullmatch(text):
    return [[cell] for cell in _parts(match.group(1))]
  if text[:1] == "(" and closing(text) == len(text) - 1:
    cells = _parts(text[1:-1])
    return [[cell] for cell in cells] if len(cells) > 1 else None
  return None


def along_axes(text: str, size: int) -> list[Node] | None:
  """The coefficients of `2i - 3j + k`; None if it is not such a sum."""
  if size not in (2, 3) or len(set(_UNIT.findall(text))) < 2:
    return None
  node = expressions.read(_UNIT.sub(
      lambda m: f"({{Z_{re.sub(r'[^ijk]', '', m.group())[-1]}}})", text))
  if node is None:
    return None
  return [_coefficient(node, axis) for axis in "ijk"]


def _coefficient(node: Node, axis: str) -> Node:
  """The expression with one unit vector replaced by 1, the others by 0."""
  if node[0] == "name" and node[1].startswith("Z_"):
    return ("number", fractions.Fraction(node[1] == f"Z_{axis}"))
  return tuple(_coefficient(n, axis) if isinstance(n, tuple) else n
               for n in node)


def _row(text: str) -> list[list[str]] | None:
  if text[:1] not in ("(", "[") or closing(text) != len(text) - 1:
    return None
  cells = _parts(text[1:-1])
  return [cells] if len(cells) > 1 else None


def _scaled(text: str) -> list[list[str]] | None:
  at = text.index("\\begin")
  if at and text[at - 1] in "([" and closing(text, at - 1) == len(text) - 1:
    at -= 1
  factor = text[:at].strip().removesuffix("\\cdot").strip()
  matrix = rows(text[at:]) if factor else None
  if factor == "-":
    factor = "-1"
  return matrix and [[f"({factor})({cell})" for cell in row] for row in matrix]


def _parts(text: str) -> list[str]:
  deep = depths(text)
  cuts = [-1, *(i for i, c in enumerate(text) if c == "," and not deep[i]),
          len(text)]
  return [text[a + 1:b].strip() for a, b in zip(cuts, cuts[1:])]
