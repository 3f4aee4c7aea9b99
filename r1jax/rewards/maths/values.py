"""Compares expressions by their values.

Two expressions are equal if they agree at the points of `points`, to 35 digits,
or exactly if all numbers are rational. Work is bounded beforehand: integer
powers and factorials by their number of bits, floats by their exponents.
"""

from __future__ import annotations

import fractions
import functools
import math
import types
import zlib
from collections.abc import Iterator
from typing import Any

from r1jax.rewards.maths import points
from r1jax.rewards.maths.expressions import Unreadable
from r1jax.rewards.maths.trees import Node, names
from r1jax.rewards.score import clock_stopped

_DIGITS = 80  # decimal digits of floats; half of them may cancel
_AGREE = 35  # digits to which equal floats must agree
_BITS = 60_000  # most bits of exact numbers
_MAGNITUDE = 400  # largest binary exponent of arguments of functions
_POWER = 40_000  # largest binary exponent of powers
_FACTORIAL = 4_000  # largest argument of factorials and binomials
_TERMS = 200  # most terms of a sum
_DRAWS = 61_603  # number of values of unknown functions


def same(a: Node, b: Node) -> bool:
  """Whether two expressions are equal as functions of their variables.

  Variables are real, or integers if the expressions only make sense for those.
  Points where both values are not real are ignored, unless that is so nearly
  everywhere. If only one is not real they differ: `\\ln x` is not `\\ln|x|`.
  """
  real, other = [], []
  for x, y in _at_points(a, b):
    if not (_real(x) or _real(y)):
      other.append((x, y))
    elif not _close(x, y):
      return False
    else:
      real.append(x)
  mine, theirs = names(a), names(b)
  if mine and theirs and _factorials(a) != _factorials(b) and not any(
      abs(x) > 2 for x in real):
    return False  # 1! = 1 and 2! = 2 say nothing about factorials
  if len(real) >= (3 if mine or theirs else 1):
    return True
  return len(other) >= (3 if mine or theirs else 1) and all(
      _close(x, y) for x, y in other)


def _factorials(node: Node) -> bool:
  """Whether there is a factorial of an expression with variables."""
  if node[0] in ("!", "!!") and names(node):
    return True
  return any([_factorials(part) for part in node if type(part) is tuple])


def proportional(a: Node, b: Node) -> int:
  """1 or -1 if a = c b with a positive or negative constant c, else 0."""
  ratio, count = None, 0
  for x, y in _at_points(a, b):
    if not (_real(x) and _real(y)):
      if _real(x) != _real(y):
        return 0
      continue
    if not x or not y:
      if bool(x) != bool(y):
        return 0
      continue
    quotient = _float(x) / _float(y)
    if ratio is not None and not _close(quotient, ratio):
      return 0
    ratio, count = quotient, count + 1
  if count < (3 if names(a) | names(b) else 1):
    return 0
  return 1 if ratio > 0 else -1


def constant(node: Node) -> Any:
  """The real value of an expression; None if it has variables or no value."""
  if names(node):
    return None
  try:
    value = _value(node, {})
  except (Unreadable, ArithmeticError, ValueError, TypeError,
          RecursionError):
    return None
  return value if _real(value) else None


def floating(x: Any) -> Any:
  """A value of `constant` as a float of 80 digits, for comparisons."""
  return _float(x)


def close(x: Any, y: Any) -> bool:
  """Whether two values of `constant` are equal, also if infinite."""
  return bool(x == y) or _close(x, y)


def rounds(exact: Any, shown: fractions.Fraction, digits: int) -> bool:
  """Whether `shown`, with `digits` decimals, is `exact` rounded or truncated.

  False for fewer than two significant digits.
  """
  if abs(shown) * 10 ** digits < 10:
    return False
  library = _library()
  exact, shown = _float(exact), _float(shown)
  unit = library.mpf(10) ** -digits
  cut = exact * shown > 0 and 0 <= abs(exact) - abs(shown) < unit
  return cut or abs(exact - shown) <= unit / 2


def _at_points(a: Node, b: Node) -> Iterator[tuple[Any, Any]]:
  """The values of both expressions at the points where both have one."""
  chosen = points.chosen(a, b)
  if names(a) or names(b):
    a, b = _folded(a), _folded(b)
  library = _library()
  for point in chosen:
    exact = {name: value if type(value) is fractions.Fraction
             else library.mpf(value) for name, value in point.items()}
    try:
      yield _value(a, exact), _value(b, exact)
    except (Unreadable, ArithmeticError, ValueError, TypeError,
            RecursionError):
      continue


def _folded(node: Node) -> Node:
  """The expression with parts without variables evaluated."""
  operation, *operands = node
  if operation in ("number", "name", "sum", "prod", "infinity"):
    return node
  inner = [_folded(n) if type(n) is tuple else n for n in operands]
  node = (operation, *inner)
  if all(n[0] in ("number", "value") for n in inner if type(n) is tuple):
    try:
      return ("value", _value(node, {}))
    except (Unreadable, ArithmeticError, ValueError, TypeError):
      return node  # fails at every point
  return node


@functools.cache
def _library() -> types.ModuleType:
  """A separate context of mpmath with `_DIGITS` digits."""
  with clock_stopped():
    import mpmath
  context = mpmath.MPContext()
  context.dps = _DIGITS
  return context


@functools.cache
def _slack() -> Any:
  """The relative difference up to which two floats agree."""
  return _library().mpf(10) ** -_AGREE


def _real(x: Any) -> bool:
  if type(x) is fractions.Fraction:
    return True
  library = _library()
  if type(x) is library.mpf:
    return x == x  # else it is nan
  return abs(library.im(x)) <= abs(x) * _slack()


def _float(x: Any) -> Any:
  if type(x) is fractions.Fraction:
    above = _library().mpf(x.numerator)
    return above if x.denominator == 1 else above / x.denominator
  return x


def _close(x: Any, y: Any) -> bool:
  if type(x) is type(y) is fractions.Fraction:
    return x == y
  x, y = _float(x), _float(y)
  if x == y:
    return True
  size = max(abs(x), abs(y))
  if not _library().isfinite(size):
    return False
  # Differences of terms of about 1 are exact only to that: an absolute bound.
  return bool(abs(x - y) <= max(size, 1e-10) * _slack())


def _bounded(x: Any, bits: int = _MAGNITUDE) -> Any:
  x = _float(x)
  if x and _library().isfinite(x) and _library().mag(x) > bits:
    raise Unreadable("too large")
  return x


def _value(node: Node, point: dict[str, Any]) -> Any:
  """The value at a point: a Fraction if all is rational, else a float."""
  operation, *operands = node
  library = _library()
  match operation:
    case "number" | "value":
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
    case "sum" | "prod":
      return _repeated(operation, operands, point)
    case "call":
      return _unknown(operands[0], [_value(n, point) for n in operands[1:]])
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
    case "dot" | "cross":
      return _product(operation, operands, values)
  return _apply(operation, values)


def _unknown(name: str, values: list[Any]) -> Any:
  """A pseudo-random value of an unknown function, equal for equal arguments.
  """
  library = _library()
  shown = ",".join(
      library.nstr(library.mpmathify(_float(v)), 25) for v in values)
  draw = zlib.crc32(f"{name}({shown})".encode()) % _DRAWS
  return library.mpf(draw) / _DRAWS + library.mpf("0.3")


def _product(operation: str, operands: list[Node], values: list[Any]) -> Any:
  """The product of two vectors; a cross product is antisymmetric."""
  if operation == "dot" or values[0] <= values[1]:
    return _unknown(operation, sorted(values))
  return -_unknown(operation, sorted(values))


def _repeated(operation: str, operands: list[Node],
              point: dict[str, Any]) -> Any:
  index, first, last, body = operands
  low, high = _value(first, point), _value(last, point)
  whole = all(isinstance(v, fractions.Fraction) and v.denominator == 1
              for v in (low, high))
  if not whole or high - low >= _TERMS:
    raise Unreadable("a sum without plain bounds")
  total = fractions.Fraction(operation == "prod")
  for k in range(int(low), int(high) + 1):
    term = _value(body, point | {index[1]: fractions.Fraction(k)})
    total = _arithmetic("+" if operation == "sum" else "*", total, term)
  return total


def _arithmetic(operation: str, x: Any, y: Any) -> Any:
  if not type(x) is type(y) is fractions.Fraction:
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
  rational = type(exponent) is fractions.Fraction
  whole = rational and exponent.denominator == 1
  if rational and type(base) is fractions.Fraction:
    if whole and abs(exponent) * _size(base) <= _BITS:
      return base ** int(exponent)
    if whole:
      raise Unreadable("too large")
    if base > 0 and exponent.numerator == 1 and exponent.denominator == 2:
      above, below = map(math.isqrt, (base.numerator, base.denominator))
      if above * above == base.numerator and below * below == base.denominator:
        return fractions.Fraction(above, below)
  base = _float(base)
  if not base:
    return base if _float(exponent) > 0 else 1 / base
  if whole and type(base) is library.mpf and library.isfinite(base) and (
      abs(exponent.numerator) * (abs(library.mag(base)) + 1) <= 2 * _POWER):
    return base ** exponent.numerator
  power = _bounded(exponent, 64)
  if library.isinf(base):
    return base ** power
  if abs(power) * (abs(library.mag(base)) + 1) > 2 * _POWER:
    raise Unreadable("too large")
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
      return _stepped(operation, x)
    case "max" | "min":
      if not all(map(_real, values)):
        raise Unreadable("no order")
      return (max if operation == "max" else min)(
          values, key=lambda v: library.re(_float(v)))
    case "gcd" | "lcm" | "!" | "!!" | "binom":
      return _combinatorial(operation, values)
    case "degrees":
      return _float(x) * library.pi / 180
    case "sgn":
      return fractions.Fraction(int(library.sign(library.re(_float(x)))))
  x = _bounded(x)
  match operation:
    case "ln":
      return library.log(x)
    case "lg":
      return library.log(x) / library.log(10)
    case "log":
      # Base e for some, 10 for others: make it equal no other logarithm.
      return library.log(x) * library.mpf("0.6180339887498948")
    case "log_base":
      return library.log(x) / library.log(_bounded(values[1]))
    case "exp" | "sinh" | "cosh" | "cis":
      _bounded(x, 20)
      return library.expj(x) if operation == "cis" else (
          getattr(library, operation)(x))
    case name:
      return getattr(library, name.replace("arc", "a"))(x)


def _stepped(operation: str, x: Any) -> Any:
  """Floor and ceiling; a float that is nearly an integer counts as one."""
  if isinstance(x, fractions.Fraction):
    return fractions.Fraction(
        math.floor(x) if operation == "floor" else math.ceil(x))
  library = _library()
  if not _real(x):
    return x  # outside of the domain
  x = _bounded(library.re(x), 100)
  near = library.nint(x)
  if _close(x, near):
    x = near
  return fractions.Fraction(int(
      library.floor(x) if operation == "floor" else library.ceil(x)))


def _combinatorial(operation: str, values: list[Any]) -> fractions.Fraction:
  """Factorials, binomials, gcd and lcm of small natural numbers only."""
  if not all(isinstance(v, fractions.Fraction) and v.denominator == 1
             and 0 <= v <= _FACTORIAL for v in values):
    raise Unreadable("of what is no small natural number")
  whole = [int(v) for v in values]
  match operation:
    case "gcd":
      integer = math.gcd(*whole)
    case "lcm":
      integer = math.lcm(*whole)
    case "!!":
      integer = math.prod(range(whole[0], 0, -2))
    case "binom":
      integer = math.comb(*whole)
    case _:
      integer = math.factorial(*whole)
  return fractions.Fraction(integer)
