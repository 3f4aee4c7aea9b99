"""Which expressions are too large to hand to a computer algebra system.

A cheap look at the text: `9^{9^{9}}` or `99999999!` would hang or fill the
memory. What slips through still meets the pool's deadline; this only keeps
such answers from costing it.
"""

from __future__ import annotations

import re

MAX_CHARS = 300  # the longest answers of MATH have about 150
_MAX_DIGITS = 20
_MAX_EXPONENT = 10_000
_MAX_EXPANSION = 64  # of a bracket: (x+1)^{5000} has 5001 terms
_MAX_FACTORIAL = 1_000
_MAX_DEPTH = 20
_MAX_POWERS = 20
_MAX_POWERED = 20  # a number beside both a factorial and a power

_INTEGER = re.compile(r"\d+")
_UNBOUNDED = re.compile(r"\\(?:int|oint|sum|prod|lim|Gamma|zeta|det)(?![a-z])")
_OF_FACTORIAL = re.compile(
    r"!!!|\^\s*(?:\w|[{(][^{}()]{0,40})!|![^()]{0,40}[)\]]\s*!")
_COMBINATORIAL = re.compile(r"!|\\[dt]?binom|\\choose")


def too_large(text: str) -> bool:
  """Whether `text` could cost a computer algebra system more than a moment.

  True for more than 300 characters, a number of more than 20 digits, towers of
  numbers, exponents whose numbers multiply to more than 10,000 (64 over a
  bracket), factorials or binomials of numbers above 1,000 (20 beside powers)
  or of one another, sums, products, integrals and limits, brackets more than
  20 deep.
  """
  numbers = _INTEGER.findall(text)
  if len(text) > MAX_CHARS or _UNBOUNDED.search(text):
    return True
  if any(len(n) > _MAX_DIGITS for n in numbers) or _depth(text) > _MAX_DEPTH:
    return True
  if _COMBINATORIAL.search(text):
    largest = max(map(int, numbers), default=0)
    if largest > _MAX_FACTORIAL or _OF_FACTORIAL.search(text):
      return True
    if largest > _MAX_POWERED and ("^" in text or "!!" in text):
      return True
  return _tower(text.replace("**", "^").replace("\\left", "")
                .replace("\\right", ""))


def _depth(text: str) -> int:
  deepest = depth = 0
  for character in text:
    depth += (character in "([{") - (character in ")]}")
    deepest = max(deepest, depth)
  return deepest


def _tower(text: str) -> bool:
  powers = list(re.finditer(r"([)}\]]?)\s*\^", text))
  if len(powers) > _MAX_POWERS:
    return True
  product = expansion = 1
  for power in powers:
    exponent = _argument(text, power.end())
    if re.search(r"[\d)}\]]\s*\^", exponent):
      return True
    for n in _INTEGER.findall(exponent):
      product *= max(int(n), 1)
      if power.group(1):
        expansion *= max(int(n), 1)
  return product > _MAX_EXPONENT or expansion > _MAX_EXPANSION


def _argument(text: str, start: int) -> str:
  """The exponent that starts at `start`, further `^` after it included.

  `a^b^c` has no meaning in TeX but a tower in other notations.
  """
  while start < len(text) and text[start].isspace():
    start += 1
  depth, at = 0, start
  while at < len(text):
    depth += (text[at] in "({[") - (text[at] in ")}]")
    at += 1
    if depth <= 0 and not re.match(r"[\w\s]*\^|\w", text[at:]):
      break
  return text[start:at]
