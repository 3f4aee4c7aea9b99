"""Bounded parsers for answers: Python literals and arithmetic expressions.

Completions are untrusted. Literals must consist of known tokens before Python's
own parser sees them, and arithmetic is evaluated by a parser of our own, so no
code runs and no power is computed.
"""

from __future__ import annotations

import ast
import re
import warnings
from fractions import Fraction
from typing import Any

MAX_CHARS = 20_000  # longest literal; CRUXEval's have a few hundred characters
_MAX_DEPTH = 50  # brackets inside one another
_MAX_NUMBER = 1_000  # characters of one number
_MAX_EXPRESSION = 300  # characters of an arithmetic expression
_MAX_OPERANDS = 20  # numbers in an expression
_MAX_DIGITS = 9  # digits of a number in an expression

# The tokens of a literal. A sign belongs to a number, so there are no chains of
# signs for the parser to recurse into.
_TOKEN = re.compile(
    r"""\s+
    |(?:[bB][rR]?|[rR][bB]?|[uU])?
     (?:'(?:[^'\\\n]|\\.)*'|"(?:[^"\\\n]|\\.)*")
    |[-+]?(?P<number>(?:\d[\d_]*(?:\.\d*)?|\.\d+)(?:[eE][-+]?\d{1,4})?[jJ]?)
    |(?:True|False|None)\b|set\(\s*\)
    |(?P<open>[\[({])|(?P<close>[\])}])|[,:]""",
    re.VERBOSE | re.ASCII | re.DOTALL)

_OPERATORS = {"×": "*", "·": "*", "⋅": "*", "÷": "/", "∕": "/", "−": "-",
              "–": "-", "（": "(", "）": ")", "\\times": "*", "\\cdot": "*",
              "\\div": "/"}
_ARITHMETIC = re.compile(
    r"(\d+)|(\\(?:times|cdot|div|[dt]?frac)(?![A-Za-z])|[-+*/(){}×·⋅÷∕−–（）])"
    r"|(?:\s|\\(?:left|right)(?![A-Za-z])|\\[,;!: ])+", re.ASCII)


def parse(text: str) -> Any:
  """The value of a Python literal.

  Numbers, strings, bytes, True, False, None, lists, tuples, dictionaries and
  sets; `set()` is the empty set. Not supported, because `repr` does not produce
  them: hexadecimal numbers, strings over several lines, f-strings, other names.

  Raises:
    ValueError: not a literal, or over a limit: 20,000 characters, 50 nested
      brackets, numbers of 1,000 characters.
  """
  if len(text) > MAX_CHARS:
    raise ValueError("too long")
  at = depth = 0
  while at < len(text):
    match = _TOKEN.match(text, at)
    if match is None:
      raise ValueError("not a literal")
    if len(match["number"] or "") > _MAX_NUMBER:
      raise ValueError("a number is too long")
    depth += bool(match["open"]) - bool(match["close"])
    if depth > _MAX_DEPTH:
      raise ValueError("nested too deep")
    at = match.end()
  try:
    with warnings.catch_warnings():
      warnings.simplefilter("ignore")  # of unknown escapes such as "\d"
      return ast.literal_eval(text.strip())
  except (SyntaxError, TypeError, MemoryError, RecursionError) as error:
    raise ValueError("not a literal") from error


def spelling(value: Any) -> str:
  """A canonical text of a literal's value: equal texts mean equal values.

  Types count (`True`, `1` and `1.0` differ, and `(1,)` and `[1]`); the order of
  a set or dictionary does not.
  """
  if isinstance(value, dict):
    items = sorted(f"{spelling(k)}: {spelling(v)}" for k, v in value.items())
    return "{" + ", ".join(items) + "}"
  if isinstance(value, set) and value:
    return "{" + ", ".join(sorted(map(spelling, value))) + "}"
  if isinstance(value, list):
    return "[" + ", ".join(map(spelling, value)) + "]"
  if isinstance(value, tuple):
    comma = "," if len(value) == 1 else ""
    return "(" + ", ".join(map(spelling, value)) + comma + ")"
  return repr(value)


def arithmetic(text: str) -> tuple[Fraction, list[int]]:
  """(exact value, list of the numbers) of an expression: `(7 - 8 / 8) * 4`.

  Integers, parentheses and the four operations as `+ - * / × · ÷ −`,
  `\\times`, `\\cdot`, `\\div` or `\\frac{a}{b}`. A minus may begin an
  expression or a bracket, since `-1 + 25` is `25 - 1`; other signs, powers,
  decimals, factorials and implicit products are not allowed.

  Raises:
    ValueError: anything else, a division by zero, or over a limit: 300
      characters, 20 numbers of 9 digits.
  """
  if len(text) > _MAX_EXPRESSION:
    raise ValueError("too long")
  tokens: list[str] = []
  numbers: list[int] = []
  at = 0
  while at < len(text):
    match = _ARITHMETIC.match(text, at)
    if match is None:
      raise ValueError(f"unexpected {text[at]!r}")
    digits, operator = match.groups()
    if digits:
      if len(digits) > _MAX_DIGITS or len(numbers) == _MAX_OPERANDS:
        raise ValueError("too many digits or numbers")
      numbers.append(int(digits))
      tokens.append(digits)
    elif operator:
      tokens.append(_OPERATORS.get(operator, operator))
    at = match.end()
  value, rest = _sum(tokens, 0)
  if rest != len(tokens):
    raise ValueError(f"unexpected {tokens[rest]!r}")
  return value, numbers


def _sum(tokens: list[str], at: int) -> tuple[Fraction, int]:
  negative = tokens[at:at + 1] == ["-"]
  value, at = _product(tokens, at + negative)
  value = -value if negative else value
  while at < len(tokens) and tokens[at] in "+-":
    term, after = _product(tokens, at + 1)
    value = value + term if tokens[at] == "+" else value - term
    at = after
  return value, at


def _product(tokens: list[str], at: int) -> tuple[Fraction, int]:
  value, at = _operand(tokens, at)
  while at < len(tokens) and tokens[at] in "*/":
    factor, after = _operand(tokens, at + 1)
    value = value * factor if tokens[at] == "*" else _ratio(value, factor)
    at = after
  return value, at


def _operand(tokens: list[str], at: int) -> tuple[Fraction, int]:
  token = tokens[at] if at < len(tokens) else "the end"
  if token.isdecimal():
    return Fraction(int(token)), at + 1
  if token == "(":
    return _enclosed(tokens, at, ")")
  if token.endswith("frac"):
    above, at = _enclosed(tokens, at + 1, "}")
    below, at = _enclosed(tokens, at, "}")
    return _ratio(above, below), at
  raise ValueError(f"unexpected {token!r}")


def _enclosed(tokens: list[str], at: int, close: str) -> tuple[Fraction, int]:
  if tokens[at:at + 1] != ["(" if close == ")" else "{"]:
    raise ValueError("a bracket is missing")
  value, at = _sum(tokens, at + 1)
  if tokens[at:at + 1] != [close]:
    raise ValueError("a bracket is not closed")
  return value, at + 1


def _ratio(above: Fraction, below: Fraction) -> Fraction:
  if below == 0:
    raise ValueError("a division by zero")
  return above / below
