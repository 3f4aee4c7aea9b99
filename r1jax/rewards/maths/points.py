"""Chooses the points at which two expressions are compared.

For smooth expressions a few points suffice. Expressions with kinks (absolute
values, even roots, maxima, logarithms) or steps (floor, ceiling) may agree
almost everywhere and still differ. They are evaluated at integers and other
numbers of both signs, near and far, and on both sides of every number that is
written in them. Far means beyond kinks that are not written as a number (10^9,
e^{12}, the 50000 of |x/1000-50|). Variables that only make sense as integers
(under a factorial, in the exponent of -1, n under a floor) are integers.
"""

from __future__ import annotations

import fractions
import zlib
from collections.abc import Iterator

from r1jax.rewards.maths.trees import Node, names

MAX_NAMES = 26
_KINKS = frozenset(
    "abs max min ln lg log log_base sgn arcsin arccos arccsc arcsec arccosh"
    .split())
_STEPS = frozenset("floor ceil".split())
_WHOLE = frozenset("! !! binom gcd lcm".split())
_CIRCLES = frozenset("sin cos tan cot sec csc".split())
_COUNTS = frozenset("kmnN")  # usual names of integers
_REALS = (
    0.31, -0.31, 0.77, 1.43, -1.43, 2.5, -2.5, 3.7, -3.7, 4.6, -4.6, 5.9,
    -5.9, 7.3, -7.3, 9.8, -9.8, 13.1, -13.1, 22.4, -22.4, 41.3, -41.3, 77.7,
    -77.7, 151.2, -151.2, 1003.1, -1003.1, 20_011.3, -20_011.3)
_WHOLES = (0, 1, -1, 2, -2, 3, -3, 4, -4, 5, -5, 6, -6, 7, -7, 8, 9, 10, 11,
           12, 13, 15, 16, 17, 25, 27, 31, 32, 36, 64, 100, 101, 243, 1024)
_FAR = (123_457, 4 * 10**6 + 1, 10**8 + 7, 10**10 + 3, 10**13 + 9)
_SMALL = tuple(n for n in _WHOLES if n <= 36)
_LOW = 3  # largest magnitude of a small integer
_SEVERAL = 40  # number of points for several variables


def chosen(a: Node, b: Node) -> Iterator[dict[str, float | fractions.Fraction]]:
  """Points: values for every variable of the two expressions."""
  free = sorted(names(a) | names(b))
  if len(free) > MAX_NAMES:
    return
  if not free:
    yield {}
    return
  kinds: set[str] = set()
  whole: set[str] = set()
  for node in (a, b):
    _note_kinds(node, kinds)
    _note_whole(node, whole)
  if kinds & {"steps", "whole"} or whole:
    whole |= _COUNTS.intersection(free)
  whole &= set(free)
  if not kinds and not whole:
    yield from _smooth(free)
    return
  written = sorted(_constants(a) | _constants(b))[:12]
  candidates = {
      name: _for_whole(written, "whole" in kinds) if name in whole
      else _for_real(written) for name in free}
  if len(free) == 1:
    yield from ({free[0]: value} for value in candidates[free[0]])
    return
  for index in range(_SEVERAL):
    point, negative = {}, False
    # Factorials of large numbers cannot be computed, so also use small values.
    small = "whole" in kinds and index % 2
    far = "whole" not in kinds and index % 8 == 5
    for name in free:
      among = [value for value in candidates[name]
               if (not small or abs(value) <= _LOW)
               and (not far or abs(value) >= _FAR[0])]
      value = among[_draw(f"{index}.{name}", len(among))]
      # At most one is negative: `\\sqrt{xy}` is `\\sqrt x\\sqrt y`.
      if value < 0 and negative and name not in whole:
        value = -value
      negative = negative or value < 0
      point[name] = value
    yield point


def _smooth(free: list[str]) -> Iterator[dict[str, float]]:
  """Points for smooth expressions: small, large, and with one sign flipped."""
  for index, flip in enumerate([None, None, None, None, *range(len(free))]):
    point = {}
    for at, name in enumerate(free):
      draw = _draw(f"{index}.{name}", 100_003) / 100_003
      value = 0.2 + 1.7 * draw if index != 2 else 7 + 60 * draw
      point[name] = -value if at == flip else value
    yield point


def _draw(key: str, below: int) -> int:
  return zlib.crc32(key.encode()) % below


def _for_real(written: list[fractions.Fraction]) -> list[float]:
  near = [sign * float(c) + step for c in written if abs(c) < 1e12
          for sign in (1, -1) for step in (0, 0.29, -0.29, 1, -1)]
  far = [sign * (2 * float(c) + 1) for c in written if 5 < abs(c) < 1e12
         for sign in (1, -1)]
  whole = (*_WHOLES[:18], *_FAR, *(-n for n in _FAR))
  return [*_REALS, *map(fractions.Fraction, whole), *near, *far]


def _for_whole(written: list[fractions.Fraction],
               small: bool) -> list[fractions.Fraction]:
  near = [sign * int(c) + step for c in written
          if c.denominator == 1 and abs(c) < (1000 if small else 10**9)
          for sign in (1, -1) for step in (0, 1, -1)]
  among = _SMALL if small else (*_WHOLES, *_FAR)
  return [fractions.Fraction(n) for n in dict.fromkeys([*among, *near])]


def _note_kinds(node: Node, kinds: set[str]) -> bool:
  """Adds the kinds of operations of an expression that need more points.

  Returns:
    Whether the expression has variables.
  """
  operation = node[0]
  if operation == "name":
    return True
  if operation in ("sum", "prod") and not names(node):
    return False
  free = [_note_kinds(n, kinds) for n in node if type(n) is tuple]
  if True not in free:
    return False
  if operation in _KINKS:
    kinds.add("kinks")
  elif operation in _STEPS:
    kinds.add("steps")
  elif operation in _WHOLE:
    kinds.add("whole")
  elif operation == "root" and free[0] or operation == "^" and (
      free[0] and not free[1] and not _is_whole(node[2])):
    kinds.add("kinks")
  return True


def _is_whole(node: Node) -> bool:
  if node[0] == "neg":
    return _is_whole(node[1])
  return node[0] == "number" and node[1].denominator == 1


def _note_whole(node: Node, variables: set[str]) -> None:
  """Adds the variables that only make sense as integers."""
  operation = node[0]
  if operation in _WHOLE:
    variables |= names(node)
  elif operation in ("sum", "prod"):
    variables |= names(node[2]) | names(node[3])
  elif operation == "^" and _negative(node[1]):
    variables |= names(node[2])
  elif operation in _CIRCLES and _has_pi(node[1]):
    variables |= names(node[1]) & _COUNTS
  for part in node:
    if type(part) is tuple:
      _note_whole(part, variables)


def _negative(node: Node) -> bool:
  return node[0] == "neg" and not names(node) or (
      node[0] == "number" and node[1] < 0)


def _has_pi(node: Node) -> bool:
  return node[0] == "pi" or any(
      _has_pi(n) for n in node[1:] if isinstance(n, tuple))


def _constants(node: Node) -> frozenset[fractions.Fraction]:
  if node[0] == "number":
    return frozenset([abs(node[1])])
  return frozenset().union(
      *(_constants(n) for n in node[1:] if isinstance(n, tuple)))
