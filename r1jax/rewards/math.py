"""Accuracy reward: the final answer equals the reference.

Three tests, cheapest first: the same text; the same number (exact fractions);
the same expression (math-verify, imported only when it is first needed).
Completions are hostile: nothing is evaluated before `limits` has seen it, and
what still hangs is killed by the pool's deadline.
"""

from __future__ import annotations

import fractions
import functools
import logging
import re
import types
from typing import TYPE_CHECKING, Any

from r1jax.rewards import limits
from r1jax.rewards.score import Score, clock_stopped

if TYPE_CHECKING:
  from r1jax.core.types import Prompt

_ANSWER = re.compile(
    r"<answer>((?:(?!</?answer>).)*)</answer>", re.DOTALL)
_BRACE = re.compile(r"\\boxed\s*\{|\\.|[{}]", re.DOTALL)
_NUMBER = re.compile(
    r"([+-]?)((?:\d+|\d{1,3}(?:,\d{3})+)(?:\.\d*)?|\.\d+)", re.ASCII)
_RATIO = re.compile(r"([+-]?\d+)/(\d+)", re.ASCII)
_FRAC = re.compile(
    r"([+-]?)\\[dt]?frac\s*\{\s*(-?\d+)\s*\}\s*\{\s*(\d+)\s*\}", re.ASCII)
_TEXT = re.compile(r"\\(?:text|mathrm|textbf|mathbf)\s*\{([^{}]*)\}")
_DEGREES = re.compile(r"\^\s*(?:\\circ|\{\s*\\circ\s*\})|°")
_EQUATION = re.compile(r"[A-Za-z]\s*=(.*)", re.DOTALL)
# A sign after an operand, or a root or fraction: a sum to do, not its result.
_TO_DO = re.compile(
    r"(?<=[\w.)}\]])\s*(?:[-+*/×÷·^!−]|\\(?:times|cdot|div|pm)\b)"
    r"|\\(?:sqrt|[dt]?frac|[dt]?binom)\b")
_SCIENTIFIC = re.compile(
    r"[+-]?\d+(?:\.\d+)?\s*(?:\\times|\\cdot|×|\*)\s*10\s*\^\s*"
    r"(?:\{\s*[+-]?\d{1,3}\s*\}|\d)", re.ASCII)
_MIXED = re.compile(
    r"[+-]?\d+\s*\\[dt]?frac\s*\{\s*\d+\s*\}\s*\{\s*\d+\s*\}", re.ASCII)


def accuracy(prompt: Prompt, prompt_tail: str, completion: str) -> Score:
  """1 if the final answer equals `prompt.reference`, else 0.

  Reasons: "correct", "wrong", "no answer", "too large" (an expression that
  could not be handed to a computer algebra system), "unevaluated" (the
  reference is a number, the answer a sum still to be done: copying the
  question's arithmetic into the answer must not pay) and "unparsed".

  Departures: paper silent on percent and units. `$`, `\\$` and `%` may be left
  out; `50%` also equals 0.5.
  """
  answer = final_answer(prompt_tail, completion)
  if answer is None:
    return Score(0.0, True, "no answer")
  reason = compare(answer, prompt.reference)
  return Score(float(reason == "correct"), True, reason)


def final_answer(prompt_tail: str, completion: str) -> str | None:
  """The answer of a completion, stripped; None if it has none.

  It lies after the last `</think>` and before any thought that is opened after
  that (a thought that never closes holds no answer): the last
  `<answer>...</answer>`, and in it the last `\\boxed{...}` if there is one; or
  else the last `\\boxed{...}` with balanced braces.
  """
  text = (prompt_tail + completion).rpartition("</think>")[2]
  text = text.partition("<think>")[0]
  inside = None
  for match in _ANSWER.finditer(text):
    inside = match.group(1)
  boxed = _last_boxed(text if inside is None else inside)
  answer = inside if boxed is None else boxed
  return answer.strip() or None if answer is not None else None


def canonical(answer: str) -> str:
  """One spelling for answers that are the same text or number: for voting."""
  parsed = number(answer)
  if parsed is None:
    return _plain(answer)
  value, percent = parsed
  return f"{value}%" if percent else str(value)


def compare(answer: str, reference: str) -> str:
  """The reason of `accuracy` for a bare answer; "correct" if they are equal."""
  plain, gold_plain = _plain(answer), _plain(reference)
  if plain == gold_plain:
    return "correct"
  if len(answer) > limits.MAX_CHARS:
    return "too large"
  value, gold = number(answer), number(reference)
  if value is not None and gold is not None:
    return "correct" if _same_number(value, gold) else "wrong"
  if gold is not None:
    if not any(c.isdigit() for c in plain):
      return "wrong"
    if _to_do(plain):
      return "unevaluated"
  if limits.too_large(plain) or limits.too_large(gold_plain):
    return "too large"
  return _verify(_undelimited(answer), _undelimited(reference))


def number(text: str) -> tuple[fractions.Fraction, bool] | None:
  """(exact value, written with a percent sign), or None if not one number.

  Reads signs, decimals, grouped thousands, `a/b`, `\\frac{a}{b}`, `x = 5`, a
  dollar or percent sign, `\\text{...}` units. A fraction that comes out whole
  (`24/2`) is a division still to be done: None. So is `(1,2)` and `1,00`.
  """
  if len(text) > limits.MAX_CHARS:
    return None
  text = _plain(text)
  text = text.replace("{,}", ",").replace("\\,", "").replace("\\!", "")
  match = _EQUATION.fullmatch(text)
  text = (match.group(1) if match else text).strip().replace("−", "-")
  percent = text.endswith("%")
  text = text.removesuffix("%").removesuffix("\\").strip()
  if match := _NUMBER.fullmatch(text):
    sign, digits = match.groups()
    return fractions.Fraction(sign + digits.replace(",", "")), percent
  if match := _FRAC.fullmatch(text):
    sign, above, below = match.groups()
    above = str(-int(above)) if sign == "-" else above
  elif match := _RATIO.fullmatch(text):
    above, below = match.groups()
  else:
    return None
  if int(below) == 0:
    return None
  value = fractions.Fraction(int(above), int(below))
  if value.denominator == 1 and int(below) != 1:
    return None
  return value, percent


def _same_number(a: tuple[fractions.Fraction, bool],
                 b: tuple[fractions.Fraction, bool]) -> bool:
  (x, x_percent), (y, y_percent) = a, b
  if x == y:
    return True
  if x_percent and not y_percent:
    return x / 100 == y
  if y_percent and not x_percent:
    return x == y / 100
  return False


def _to_do(text: str) -> bool:
  """Whether arithmetic between operands is left (`10+5`, `3*4=12`)."""
  text = _EQUATION.sub(r"\1", text, count=1).strip()
  if _SCIENTIFIC.fullmatch(text) or _MIXED.fullmatch(text):
    return False
  return _TO_DO.search(text) is not None


def _plain(text: str) -> str:
  """Without TeX dollars, `\\text{}` around words, degrees, a final dot."""
  text = _DEGREES.sub("", _TEXT.sub(r"\1", _undelimited(text)))
  return text.removesuffix(".").strip()


def _undelimited(text: str) -> str:
  return text.replace("\\$", "").replace("$", "").strip()


def _last_boxed(text: str) -> str | None:
  """Content of the last `\\boxed{...}` whose braces balance, in one pass."""
  last = None
  opened: list[int | None] = []  # where each open brace's box starts, if a box
  for match in _BRACE.finditer(text):
    token = match.group()
    if token == "}":
      start = opened.pop() if opened else None
      if start is not None and (last is None or start > last[0]):
        last = start, match.start()
    elif token.endswith("{") and not token == "\\{":
      opened.append(match.end() if len(token) > 1 else None)
  return None if last is None else text[slice(*last)]


def _verify(answer: str, reference: str) -> str:
  """The verdict of math-verify on two short, bounded expressions."""
  gold, target = _parse(reference), _parse(answer)
  if not gold or not target:
    return "unparsed"
  same = _library().verify(gold, target, timeout_seconds=None)
  return "correct" if same else "wrong"


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
