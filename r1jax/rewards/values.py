"""Expressions compared by their values.

Two expressions are the same if they agree at a few points, to 35 digits, or
exactly where all numbers are rational. Work is bounded: powers beyond `_BITS`
become floats, and the exponents of floats are bounded too.
"""

from __future__ import annotations

import fractions
import functools
import math
import types
import zlib
from typing import Any

from r1jax.rewards.expressions import Node, Unreadable, names
from r1jax.rewards.score import clock_stopped

_DIGITS = 50
_AGREE = 35  # digits
_BITS = 100_000  # of exact powers and factorials
_MAGNITUDE = 400  # bits of a float's exponent, for powers and trigonometry
_MAX_NAMES = 8


def same(a: Node, b: Node) -> bool:
  """Whether two expressions are equal as functions of their variables.

  Variables are real. Points where both sides leave the real numbers say
  nothing, unless both do so nearly everywhere; `\\ln x` is not `\\ln|x|`.
  """
  free = sorted(names(a) | names(b))
  pairs = _at_points(a, b, free)
  real = [(x, y) for x, y in pairs if _real(x) or _real(y)]
  use = real if len(real) >= 2 else pairs
  return bool(use) and all(_close(x, y) for x, y in use)


def proportional(a: Node, b: Node) -> int:
  """1 or -1 if a = c b with a positive or negative constant c, else 0."""
  free = sorted(names(a) | names(b))
  pairs = [(x, y) for x, y in _at_points(a, b, free)
           if _real(x) and _real(y) and x and y]
  if len(pairs) < 3:
    return 0
  ratios = [_float(x) / _float(y) for x, y in pairs]
  if all(_close(r, ratios[0]) for r in ratios):
    return 1 if ratios[0] > 0 else -1
  return 0


def _at_points(a: Node, b: Node, free: list[str]) -> list[tuple[Any, Any]]:
  """Values of both where both have one: small, large and flipped points."""
  if len(free) > _MAX_NAMES:
    return []
  pairs = []
  flips = [None, None, None, None, *range(len(free))] if free else [None]
  for index, flip in enumerate(flips):
    point = {}
    for at, name in enumerate(free):
      draw = zlib.crc32(f"{index}.{name}".encode()) % 100_003 / 100_003
      value = 0.2 + 1.7 * draw if index != 2 else 7 + 60 * draw
      point[name] = _library().mpf(-value if at == flip else value)
    try:
      pairs.append((_value(a, point), _value(b, point)))
    except (Unreadable, ArithmeticError, ValueError, TypeError,
            RecursionError):
      continue
  return pairs


@functools.cache
def _library() -> types.ModuleType:
  """A context of mpmath of our own, at 50 digits."""
  with clock_stopped():
    import mpmath
  context = mpmath.MPContext()
  context.dps = _DIGITS
  return context


def _real(x: Any) -> bool:
  if isinstance(x, fractions.Fraction):
    return True
  library = _library()
  return abs(library.im(x)) <= abs(x) * library.mpf(10) ** -_AGREE


def _float(x: Any) -> Any:
  library = _library()
  if isinstance(x, fractions.Fraction):
    return library.mpf(x.numerator) / x.denominator
  return x


def _close(x: Any, y: Any) -> bool:
  if isinstance(x, fractions.Fraction) and isinstance(y, fractions.Fraction):
    return x == y
  x, y = _float(x), _float(y)
  if x == y:
    return True
  size = max(abs(x), abs(y))
  if not _library().isfinite(size):
    return False
  return bool(abs(x - y) <= size * _library().mpf(10) ** -_AGREE)


def _bounded(x: Any, bits: int = _MAGNITUDE) -> Any:
  x = _float(x)
  if x and _library().mag(x) > bits:
    raise Unreadable("too large")
  return x


def _value(node: Node, point: dict[str, Any]) -> Any:
  """The value at a point: a Fraction where all is rational, else a float."""
  operation, *operands = node
  library = _library()
  match operation:
    case "number":
      return operands[0]
    case "name":
      return point[operands[0]]
    case "pi":
      return +library.pi
    case "e":
      return +library.e
    case "i":
      return library.mpc(0, 1)
    case "infinity":
      return library.inf
  values = [_value(operand, point) for operand in operands]
  match operation:
    case "neg":
      return -values[0]
    case "^":
      return _power(*values)
    case "root":
      if not values[1]:
        raise Unreadable("a root of degree 0")
      return _power(values[0], 1 / values[1])
    case "+" | "-" | "*" | "/":
      return _arithmetic(operation, *values)
  return _apply(operation, values)


def _arithmetic(operation: str, x: Any, y: Any) -> Any:
  if not (isinstance(x, fractions.Fraction)
          and isinstance(y, fractions.Fraction)):
    x, y = _float(x), _float(y)
  elif max(_size(x), _size(y)) > _BITS:
    raise Unreadable("too large")
  match operation:
    case "+":
      return x + y
    case "-":
      return x - y
    case "*":
      return x * y
  if not y:
    raise ZeroDivisionError
  return x / y


def _size(x: fractions.Fraction) -> int:
  return max(x.numerator.bit_length(), x.denominator.bit_length())


def _power(base: Any, exponent: Any) -> Any:
  library = _library()
  rational = isinstance(exponent, fractions.Fraction)
  if rational and isinstance(base, fractions.Fraction):
    whole = exponent.denominator == 1
    if whole and abs(exponent) * _size(base) <= _BITS:
      return base ** int(exponent)
  base = _float(base)
  if not base:
    return base if _float(exponent) > 0 else 1 / base
  power = _bounded(exponent)
  if library.isinf(base):
    return base ** power
  _bounded(power * library.log(abs(base)) if abs(base) != 1 else power)
  if rational and exponent.denominator % 2 and _real(base) and (
      library.re(base) < 0 and exponent.denominator > 1):
    # The real root of odd degree.
    sign = -1 if exponent.numerator % 2 else 1
    return sign * library.power(-library.re(base), power)
  return library.power(base, power)


def _apply(operation: str, values: list[Any]) -> Any:
  library = _library()
  x = values[0]
  match operation:
    case "abs":
      return abs(x)
    case "floor" | "ceil":
      x = x if isinstance(x, fractions.Fraction) else _bounded(library.re(x))
      round_ = math.floor if isinstance(x, fractions.Fraction) else (
          library.floor)
      value = -round_(-x) if operation == "ceil" else round_(x)
      return fractions.Fraction(int(value))
    case "max" | "min":
      if not all(map(_real, values)):
        raise Unreadable("no order")
      return (max if operation == "max" else min)(
          values, key=lambda v: library.re(_float(v)))
    case "!" | "!!" | "binom":
      return _combinatorial(operation, values)
    case "degrees":
      return _float(x) * library.pi / 180
  x = _bounded(x)
  match operation:
    case "ln":
      return library.log(x)
    case "lg":
      return library.log(x) / library.log(10)
    case "log":
      # Some mean base e, some 10: equal to no other logarithm.
      return library.log(x) * library.mpf("0.6180339887498948")
    case "log_base":
      return library.log(x) / library.log(_bounded(values[1]))
    case name:
      return getattr(library, name.replace("arc", "a"))(x)


def _combinatorial(operation: str, values: list[Any]) -> Any:
  library = _library()
  whole = all(isinstance(v, fractions.Fraction) and v.denominator == 1
              and 0 <= v <= 3000 for v in values)
  if whole and operation != "!!":
    n, *k = (int(v) for v in values)
    return fractions.Fraction(math.comb(n, *k) if k else math.factorial(n))
  values = [_bounded(v, 60) for v in values]
  match operation:
    case "!":
      return library.factorial(*values)
    case "!!":
      return library.fac2(*values)
  return library.binomial(*values)
