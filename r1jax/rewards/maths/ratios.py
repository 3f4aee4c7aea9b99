"""Compares ratios: `1:2:3`, `5 \\text{ to } 8`."""

from __future__ import annotations

import re

from r1jax.rewards.maths import formulas, numbers
from r1jax.rewards.maths.notation import END, WORDS, depths

SCALES = re.compile(r"\s*(?::|(?<=[\d\s])to(?=[\d\s]))\s*"
                    rf"|\s*{WORDS}\s*to\s*{END}\s*")


def compare(value: str, gold: str,
            functions: frozenset[str]) -> str | None:
  """The reason for two ratios; None if neither is a ratio.

  `2:4:6` equals `1:2:3`, and `10:16` equals 5/8. `4:30` may be a time, so it
  equals only itself.
  """
  wanted, terms = _terms(gold), _terms(value)
  if len(wanted) < 2 and len(terms) < 2:
    return None
  if len(wanted) < 2:
    if len(terms) != 2 or numbers.literal(gold) is None or (
        numbers.literal(gold).denominator == 1):
      return "wrong"
    wanted = [str(numbers.literal(gold).numerator),
              str(numbers.literal(gold).denominator)]
  elif len(terms) < 2:
    number = numbers.literal(value)
    if len(wanted) != 2 or number is None or _is_time(wanted):
      return "wrong"
    terms = [str(number.numerator), str(number.denominator)]
  if len(terms) != len(wanted):
    return "wrong"
  if _is_time(wanted):
    return "correct" if terms == wanted else "wrong"
  same = formulas.in_proportion(terms, wanted, functions)
  return "correct" if same else "wrong"


def _terms(text: str) -> list[str]:
  """The terms of a ratio; at most one if `text` is not a ratio."""
  if not SCALES.search(text):
    return [text]
  deep, parts, start = depths(text), [], 0
  for match in SCALES.finditer(text):
    if not deep[match.start()]:
      parts.append(text[start:match.start()].strip())
      start = match.end()
  parts.append(text[start:].strip())
  return parts if all(parts) else []


def _is_time(terms: list[str]) -> bool:
  """Whether a ratio may be a time of day: it is not in lowest terms."""
  match = re.fullmatch(r"(\d{1,2}):(\d\d)", ":".join(terms))
  if not match or int(match.group(1)) > 24 or int(match.group(2)) > 59:
    return False
  return numbers.literal(f"{terms[0]}/{terms[1]}") is None or (
      numbers.literal(f"{terms[0]}/{terms[1]}").denominator
      != int(terms[1]))
