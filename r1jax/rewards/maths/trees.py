"""Expressions as trees: their names, size and canonical order.

A node is a tuple of an operation and its operands; numbers and names are
leaves.
"""

from __future__ import annotations

import fractions

Node = tuple
_POWERS = [("number", fractions.Fraction(n)) for n in range(2, 7)]
_ZERO, _ONE = (("number", fractions.Fraction(n)) for n in (0, 1))


def names(node: Node) -> frozenset[str]:
  """The variables of an expression, without those bound by a sum."""
  variables: set[str] = set()
  _gather(node, variables)
  return frozenset(variables)


def _gather(node: Node, variables: set[str]) -> None:
  if node[0] == "name":
    variables.add(node[1])
  elif node[0] in ("sum", "prod"):
    variables |= names(node[4]) - {node[1][1]}
    _gather(node[2], variables)
    _gather(node[3], variables)
  else:
    for part in node:
      if type(part) is tuple:
        _gather(part, variables)


def size(node: Node) -> int:
  """Number of operations of an expression."""
  inner = sum([size(n) for n in node if type(n) is tuple])
  return inner + (node[0] not in (
      "number", "name", "pi", "e", "i", "infinity", "neg", "degrees"))


def renamed(node: Node, old: str, new: str) -> Node:
  """The expression with one variable renamed."""
  if node == ("name", old):
    return ("name", new)
  return tuple(renamed(n, old, new) if isinstance(n, tuple) else n
               for n in node)


def arranged(node: Node) -> Node:
  """Canonical order of sums and products, without factors 1 and double signs.

  `1(x+2)(x+1)` and `(x+1)(x+2)` become equal, and so do `(x+1)(x+1)` and
  `(x+1)^2`; nothing else is expanded.
  """
  operation = node[0]
  inner = [arranged(n) if type(n) is tuple else n for n in node[1:]]
  if operation in ("+", "-", "neg"):
    if operation == "neg":
      parts = [_negated(inner[0])]
    else:
      right = inner[1] if operation == "+" else _negated(inner[1])
      parts = [inner[0], right]
    flat = [p for part in parts for p in (
        part[1:] if part[0] == "sum of" else (part,))]
    flat = [p for p in flat if p != _ZERO]
    return flat[0] if len(flat) == 1 else ("sum of", *sorted(flat, key=repr))
  if operation == "*":
    flat = [p for part in inner for p in (
        part[1:] if part[0] == "product of" else _factors(part)) if p != _ONE]
    if not flat:
      return _ONE
    return flat[0] if len(flat) == 1 else (
        "product of", *sorted(flat, key=repr))
  if operation in ("/", "^") and inner[1] == _ONE:
    return inner[0]
  if operation == "^" and len(parts := _factors((operation, *inner))) > 1:
    return ("product of", *parts)
  return (operation, *inner)


def _factors(node: Node) -> tuple[Node, ...]:
  """(x+1), (x+1) for `(x+1)^2`; powers of a name or a number are kept."""
  if node[0] == "^" and node[1][0] not in ("name", "number") and (
      node[2] in _POWERS):
    return (node[1],) * int(node[2][1])
  return (node,)


def _negated(node: Node) -> Node:
  if node[0] == "number":
    return ("number", -node[1])
  if node[0] == "minus":
    return node[1]
  if node[0] == "sum of":
    return ("sum of", *sorted(map(_negated, node[1:]), key=repr))
  return ("minus", node)
