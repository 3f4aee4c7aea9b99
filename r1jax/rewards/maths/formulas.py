"""Compares formulas: expressions, equations, inequalities, ratios."""

from __future__ import annotations

import fractions
import re

from r1jax.rewards.maths import (
  chains,
  expressions,
  matrices,
  numbers,
  regions,
  values,
)
from r1jax.rewards.maths.regions import FLIP
from r1jax.rewards.maths.trees import Node, names, renamed, size

_TRIGONOMETRY = re.compile(r"(?:sin|cos|tan|cot|sec|csc|cis)(?![a-z])")
_CIRC = "^{\\circ}"
_COUNTS = ("k", "n", "m", "l", "j")  # usual names of integers
_FREE = frozenset("CKDMcABk")  # usual names of an added constant
_CONSTANT_WORD = re.compile(
    r"\+\s*(?:\ue000\s*)?(?:constant|const\.?|常数)\s*(?:\ue001)?\s*\Z")
# Operations that an answer may have beyond a multiple of the gold's, without
# and with variables.
_UNPAIRED = 4, 12


def read(text: str, functions: frozenset[str]) -> Node | None:
  """The expression of a text; None if it is not parsed completely."""
  return expressions.read(text.strip(), functions)


def is_constant(node: Node | None) -> bool:
  """Whether an expression was parsed and has no variables."""
  return node is not None and not names(node)


def unevaluated(value: str, functions: frozenset[str]) -> str:
  """The reason for an answer that is not a number where one is expected.

  "unevaluated" for arithmetic, since copying the question's arithmetic must
  not be rewarded; else "wrong".
  """
  body, _ = numbers.split_unit(value)
  sides = [read(side, functions) for side in body.split("=")]
  if None in sides:
    return "wrong"
  return "wrong" if any(map(names, sides)) else "unevaluated"


def compare(value: str, gold: str, functions: frozenset[str]) -> str:
  """Compares expressions or inequalities by value; units must not differ."""
  value, unit = numbers.split_unit(value)
  gold, gold_unit = numbers.split_unit(gold)
  if unit and gold_unit and unit != gold_unit:
    return "wrong"
  sides, wanted = regions.sides(value), regions.sides(gold)
  if len(wanted) != len(sides):
    return "wrong"
  if len(wanted) == 3:
    return _relations(sides, wanted, functions)
  if len(wanted) > 3:
    return _chain(sides, wanted, functions)
  return _expressions(value, gold, functions)


def _expressions(value: str, gold: str, functions: frozenset[str]) -> str:
  b = read(gold, functions)
  if b is None:
    return "unparsed"
  value = _CONSTANT_WORD.sub("+C", value)
  a = read(value, functions)
  if a is None:
    return "unparsed"
  if not values.same(a, b) and not (
      _without_degrees(value, gold, functions) or _other_names(a, b)):
    return "wrong"
  few, many = _UNPAIRED
  allowed = 3 * size(b) + many if names(b) else 2 * size(b) + few
  return "correct" if size(a) <= allowed else "unevaluated"


def _without_degrees(value: str, gold: str,
                     functions: frozenset[str]) -> bool:
  """Whether both are equal without degree signs: `180 - 2\\alpha`.

  Not inside trigonometric functions.
  """
  if _CIRC not in value + gold or _TRIGONOMETRY.search(value + gold):
    return False
  a, b = (read(t.replace(_CIRC, ""), functions) for t in (value, gold))
  if b is not None and _CIRC not in gold and any(
      len(name) == 1 and name.islower() for name in names(b)):
    return False  # x+2 is no angle
  return a is not None and b is not None and values.same(a, b)


def _other_names(a: Node, b: Node) -> bool:
  """Whether both are equal after renaming an integer or an added constant."""
  mine, theirs = names(a) - names(b), names(b) - names(a)
  if len(mine) != 1 or len(theirs) != 1:
    return "i" in repr(b) and mine == {"I"} and not theirs and (
        values.same(_imaginary(a), b))
  (new,), (old,) = mine, theirs
  family = old in _COUNTS and new in _COUNTS and (
      names(b) == {old} and _periodic(b, old))
  added = old.split("_")[0] in _FREE and new.split("_")[0] in _FREE and (
      _added(b, old) and _added(a, new))
  return (family or added) and values.same(renamed(a, new, old), b)


def _imaginary(node: Node) -> Node:
  if node == ("name", "I"):
    return ("i",)
  return tuple(_imaginary(n) if isinstance(n, tuple) else n for n in node)


def _periodic(node: Node, name: str) -> bool:
  """Whether `name` counts periods: it is multiplied by pi or degrees."""
  if node[0] in ("*", "/", "degrees"):
    return name in names(node) and _turns(node)
  return any(_periodic(n, name) for n in node[1:] if isinstance(n, tuple))


def _turns(node: Node) -> bool:
  return node[0] in ("pi", "degrees") or any(
      _turns(n) for n in node[1:] if isinstance(n, tuple))


def _added(node: Node, name: str) -> bool:
  """Whether `name` is only added to the rest."""
  if node[0] not in ("+", "-"):
    return False
  left, right = node[1:]
  if right == ("name", name):
    return name not in names(left)
  return node[0] == "+" and left == ("name", name) and (
      name not in names(right)) or (
          _added(left, name) and name not in names(right))


def equations(answer: str, gold: str, settled: chains.Settled,
              wanted: chains.Settled, functions: frozenset[str]) -> str:
  """Compares equations with different left sides."""
  pair = chains.one_argument(settled, wanted, functions)
  if pair:
    return "correct" if values.same(*pair) else "wrong"
  a, b = regions.sides(answer), regions.sides(gold)
  if len(a) == 3 and len(b) == 3:
    return _relations(a, b, functions)
  return "wrong"


def parameter(settled: chains.Settled, wanted: chains.Settled,
              functions: frozenset[str]) -> bool:
  """Whether `n = 4k+3` and `n = 4m+3` differ only in an integer's name."""
  a, b = read(settled.value, functions), read(wanted.value, functions)
  if a is None or b is None or len(names(a)) != 1 or len(names(b)) != 1:
    return False
  (new,), (old,) = names(a), names(b)
  return new in _COUNTS and old in _COUNTS and values.same(
      renamed(a, new, old), b)


def _relations(relation: list[str], wanted: list[str],
               functions: frozenset[str]) -> str:
  """Compares relations: `2x = y` equals `y - 2x = 0`, and `<` flips with signs.
  """
  signs, differences = [], []
  for left, sign, right in (relation, wanted):
    sides = read(left, functions), read(right, functions)
    if None in sides:
      return "unparsed"
    signs.append(sign)
    differences.append(("-", *sides))
  if any("call" in repr(d) for d in differences):
    # With unknown functions, sides are compared separately.
    return _sides(relation, wanted, functions)
  factor = values.proportional(*differences)
  if not factor:
    return "wrong"
  if factor < 0:
    signs[0] = FLIP.get(signs[0], signs[0])
  return "correct" if signs[0] == signs[1] else "wrong"


def _sides(relation: list[str], wanted: list[str],
           functions: frozenset[str]) -> str:
  turned = [relation[2], FLIP.get(relation[1], relation[1]), relation[0]]
  for left, sign, right in (relation, turned):
    if sign == wanted[1] and all(
        _expressions(a, b, functions) == "correct"
        for a, b in ((left, wanted[0]), (right, wanted[2]))):
      return "correct"
  return "wrong"


def _chain(chain: list[str], wanted: list[str],
           functions: frozenset[str]) -> str:
  """Compares chains `a < b < c`, also if one is reversed as a whole."""
  turned = [FLIP.get(p, p) for p in chain[::-1]]
  for parts in (chain, turned):
    if parts[1::2] == wanted[1::2] and all(
        _expressions(a, b, functions) == "correct"
        for a, b in zip(parts[::2], wanted[::2])):
      return "correct"
  return "wrong"


def in_proportion(ratio: list[str], wanted: list[str],
                  functions: frozenset[str]) -> bool:
  """Whether two ratios are equal up to a common factor."""
  a, b = ([read(term, functions) for term in terms]
          for terms in (ratio, wanted))
  if None in a or None in b:
    return False
  return all(values.same(("*", x, b[0]), ("*", y, a[0]))
             for x, y in zip(a[1:], b[1:]))


def along_axes(value: str, wanted: list[str]) -> str:
  """Compares a sum of unit vectors with the wanted components."""
  components = matrices.along_axes(value, len(wanted))
  if components is None:
    return "wrong"
  zero = ("number", fractions.Fraction(0))
  golds = [read(cell, frozenset()) for cell in wanted]
  golds += [zero] * (len(components) - len(golds))
  if None in golds:
    return "unparsed"
  same = all(values.same(a, b) for a, b in zip(components, golds))
  return "correct" if same else "wrong"
