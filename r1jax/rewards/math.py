"""Accuracy of mathematics: the final answer equals the reference.

Three tests, cheapest first: the same text; the same number (exact fractions);
the same structure, part by part, expressions by their values (`structure`).
Only a reference that none of these can read goes to math-verify. Completions
are hostile: nothing is evaluated before `limits` has seen it, and what still
hangs is killed by the pool's deadline.

What is equal (paper silent):

  * numbers exactly: 0.5 = 1/2, but 0.33 is not 1/3 and 3.14 not pi, whatever
    the number of digits: data that want rounding give the rounded number;
  * a unit that only one side writes is overlooked; 5 cm is not 5 m, nor 50 mm
    (nothing is converted); `%` may be left out or worked out (50% = 0.5);
  * `x = 5` and 5; bare lists, braces and unions in any order, tuples in order,
    intervals with their ends; `\\log` without a base is no other logarithm.
"""

from __future__ import annotations

import functools
import logging
import re
import types
from typing import TYPE_CHECKING, Any

from r1jax.rewards import (
  extraction,
  limits,
  notation,
  numbers,
  structure,
)
from r1jax.rewards.score import Score, clock_stopped

if TYPE_CHECKING:
  from r1jax.core.types import Prompt
  from r1jax.rewards.response import Response

_MAX_CANDIDATES = 8
_OPERATION = re.compile(
    r"[-+*/^!]|\\(?:times|cdot|div|frac|sqrt|binom)|[a-z]\(")
_BASE = re.compile(r"\d\s*_")
_COMMAND = re.compile(r"\\[A-Za-z]+")
_USUAL = frozenset(["\\frac", "\\cdot", "\\times", "\\sqrt", "\\div"])


def verify(prompt: Prompt, response: Response) -> Score:
  """1 if the final answer equals `prompt.reference`, else 0.

  The final answer is the last `\\boxed{}` of the answer; without one, the whole
  of an `<answer>` element; without that, and only where the data set says
  `extract: last` in its metadata, what the text states last.

  Reasons: "correct", "wrong", "no answer", "empty box", "nested boxes", "two
  answers" (boxes or statements that differ, several values where the reference
  is one), "copied" (the question's own expression), "unevaluated" (the
  reference is a number, the answer a sum still to be done), "too large" (an
  expression not worth a computer algebra system), "unparsed".
  """
  candidates, nested = extraction.boxes(response.answer)
  if nested:
    return Score(0.0, True, "nested boxes")
  if candidates and not candidates[-1]:
    return Score(0.0, True, "empty box")
  if not candidates and response.marked:
    candidates = [response.answer]
  elif not candidates and prompt.metadata.get("extract") == "last":
    candidates = extraction.stated(response.answer)
  if not candidates or not candidates[-1].strip():
    return Score(0.0, True, "no answer")
  answer = candidates[-1]
  if len(answer) > limits.MAX_CHARS and answer != prompt.reference:
    return Score(0.0, True, "too large")
  spelled = canonical(answer)
  if not _agree(candidates):
    return Score(0.0, True, "two answers", answer=spelled)
  reason = compare(answer, prompt.reference)
  if reason == "correct" and _copied(
      answer, prompt.reference, prompt.question):
    reason = "copied"
  return Score(float(reason == "correct"), True, reason, answer=spelled)


def canonical(answer: str) -> str:
  """One spelling for answers that are the same text or number: for voting."""
  if len(answer) > limits.MAX_CHARS:
    return answer[:limits.MAX_CHARS]
  parts = structure.split(notation.plain(answer))
  spelled = sorted(map(_spelled, parts)) if len(parts) > 1 else [
      _spelled(parts[0])]
  return ", ".join(spelled)


def compare(answer: str, reference: str) -> str:
  """The reason of `verify` for a bare answer; "correct" if they are equal."""
  if answer == reference:
    return "correct"
  if len(answer) > limits.MAX_CHARS:
    return "too large"
  plain, gold = notation.plain(answer), notation.plain(reference)
  if notation.squeezed(plain) == notation.squeezed(gold):
    return "correct"
  if not plain:
    return "wrong"
  reason = structure.equal(plain, gold)
  if reason == "unknown gold":
    return _verify(plain, gold)
  return reason


def _spelled(part: str) -> str:
  _, value = structure.unassigned(part)
  quantity = numbers.quantity(value)
  if quantity is None:
    return notation.squeezed(value)
  return f"{quantity.value}{'%' if quantity.unit == '%' else ''}"


def _agree(candidates: list[str]) -> bool:
  """Whether all are the last one, in any spelling."""
  last = candidates[-1]
  others = list(dict.fromkeys(c for c in candidates[:-1] if c != last))
  return len(others) <= _MAX_CANDIDATES and all(
      "correct" in (compare(other, last), compare(last, other))
      for other in others)


def _copied(answer: str, reference: str, question: str) -> bool:
  """Whether the answer is an expression of the question, not the reference's.

  "Expand (x+1)(x+2)" must not be answered with (x+1)(x+2).
  """
  plain = notation.plain(answer)
  short, gold = notation.squeezed(plain), notation.squeezed(
      notation.plain(reference))
  if short == gold or numbers.quantity(plain) or not _OPERATION.search(short):
    return False
  return short in notation.squeezed(notation.plain(question))


def _verify(answer: str, reference: str) -> str:
  """The verdict of math-verify on two short, bounded expressions.

  It takes `R` for `r` and overlooks bases (`42_5`) and what it does not know:
  texts with a letter in both cases, with a base, or with different commands
  are refused.
  """
  if _BASE.search(answer + reference) or (
      _unusual(answer) != _unusual(reference)):
    return "unparsed"
  letters = set(filter(str.isalpha, answer + reference))
  if any(c.swapcase() in letters for c in letters if c.swapcase() != c) or (
      limits.too_large(answer) or limits.too_large(reference)):
    return "unparsed"
  gold, target = _parse(reference), _parse(answer)
  if not gold or not target:
    return "unparsed"
  # Before a simplification that may take minutes to find no equality.
  if _symbols(gold) != _symbols(target):
    return "wrong"
  same = _library().verify(gold, target, strict=True, timeout_seconds=None)
  return "correct" if same else "wrong"


def _unusual(text: str) -> set[str]:
  return set(_COMMAND.findall(text)) - _USUAL


def _symbols(parsed: list[Any]) -> set[str]:
  return {str(symbol) for part in parsed
          for symbol in getattr(part, "free_symbols", ())}


@functools.lru_cache(maxsize=1024)
def _parse(expression: str) -> list[Any]:
  """math-verify's reading of an expression; an empty list if it has none.

  Delimited, because bare it misses `(1,2)` and reads `2\\sqrt{3}` as 2; only
  LaTeX, because its reader of plain expressions calls Python's `eval`; without
  its alarms, because the pool has its own.
  """
  library = _library()
  return library.parse(
      f"${expression}$", [library.LatexExtractionConfig()],
      fallback_mode="no_fallback", parsing_timeout=None)


@functools.cache
def _library() -> types.ModuleType:
  """math-verify, warm; with sympy it takes seconds, off the item's clock."""
  with clock_stopped():
    import math_verify

    logging.getLogger("math_verify").setLevel(logging.CRITICAL)
    config = [math_verify.LatexExtractionConfig()]
    a, b = (math_verify.parse(text, config, parsing_timeout=None)
            for text in ("$x^2+2x+1$", "$(x+1)^2$"))
    math_verify.verify(a, b, timeout_seconds=None)
  return math_verify
