"""Equality of answers, part by part: lists, sets, tuples, intervals, matrices.

What is equal here is documented at each kind; numbers, units and expressions
are left to `numbers` and `values`. Texts are those of `notation.plain`.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from r1jax.rewards import expressions, limits, numbers, values
from r1jax.rewards.notation import (
  CLOSE,
  END,
  FUNCTIONS,
  OPEN,
  SET,
  SET_END,
  WORDS,
  closing,
  squeezed,
)

_MAX_ITEMS = 40
_AND = re.compile(
    rf"\s*{WORDS}\s*(?:or|and)\s*{END}\s*|\s+(?:or|and)\s+"
    r"|\s*(?:或者?|以及|和|与)\s*|\\(?:or|lor|cup)(?![A-Za-z])|[,;]")
_NAME = (r"(?:\\?[A-Za-z]+'?(?:_(?:\w|\{\w{1,5}\}))?"
         r"(?:\s*\(\s*[A-Za-z](?:\s*,\s*[A-Za-z])*\s*\))?"
         r"|\(\s*[A-Za-z](?:\s*,\s*[A-Za-z])*\s*\))")
_ASSIGNED = re.compile(rf"\s*({_NAME})\s*(?:=|\\in(?![A-Za-z]))\s*", re.ASCII)
_RELATION = re.compile(r"(\\(?:le|ge|ne)(?![A-Za-z])|[<>=])")
_MATRIX = re.compile(
    r"\\begin\s*\{([pb]?matrix|array)\}(?:\s*\{[lcr|\s]*\})?(.*)"
    r"\\end\s*\{\1\}", re.DOTALL)
_LETTER = re.compile(r"\(?\s*([A-J])\s*\)?\.?")
_WORDY = re.compile(r"[^\W\d_]{3,}|[\u4e00-\u9fff]")
_COMMAND = re.compile(r"\\[A-Za-z]+")
_PUNCTUATION = re.compile(r"[\s.,;!?\"'`*]+")
_NOON = re.compile(r"(?<=\d)\s*([ap])\.?\s?m\b\.?", re.IGNORECASE)
_TRIGONOMETRY = re.compile(r"(?:sin|cos|tan|cot|sec|csc)(?![a-z])")
_CIRC = "^{\\circ}"
_FLIP = {"<": ">", ">": "<", "\\le": "\\ge", "\\ge": "\\le"}


class Interval(NamedTuple):
  """Ends as text; `name` is the variable that an inequality writes."""

  left: str
  right: str
  left_open: bool
  right_open: bool
  name: str = ""


def equal(answer: str, gold: str) -> str:
  """"correct", or why not ("wrong", "two answers", "unevaluated", ...).

  Several values (separated by commas, "and", "or", 或, ∪, or from ±) are equal
  in any order, each used once; one value against several is "two answers" or
  "wrong".
  """
  reason = _lists(split(answer), split(gold))
  if reason != "correct" and "," in gold:
    # `100,200,300`: a list of three, or one number with grouped digits?
    parts = split(gold, grouped=False)
    if len(parts) > 1 and not any(re.match(r"\s*0\d", p) for p in parts):
      again = _lists(split(answer, grouped=False), parts)
      reason = again if again == "correct" else reason
  return reason


def split(text: str, grouped: bool = True) -> list[str]:
  """The values that stand side by side at the top level of `text`.

  Args:
    text: plain text.
    grouped: read `1,000` as one number.
  """
  if _MATRIX.fullmatch(text):
    return [text]
  parts, start = [], 0
  depths = _depths(text)
  for match in _AND.finditer(text):
    at = match.start()
    if depths[at] or (grouped and match.group() == "," and re.match(
        r"\d{3}(?!\d)", text[at + 1:at + 5]) and re.search(
            r"(?<![\d.])\d{1,3}(?:,\d{3}){0,6}\Z", text[max(0, at - 30):at])):
      continue
    parts.append(text[start:at])
    start = match.end()
  parts = [p.strip() for p in [*parts, text[start:]]]
  parts = [p for p in parts if p] or [text]
  return [side for part in parts for side in _both_signs(part)]


def _depths(text: str) -> list[int]:
  depths, depth = [], 0
  for character in text:
    depth -= character in CLOSE
    depths.append(depth)
    depth += character in OPEN
  return depths


def _both_signs(text: str) -> list[str]:
  if "\\pm" not in text and "\\mp" not in text:
    return [text]
  return [text.replace("\\pm", a).replace("\\mp", b)
          for a, b in (("+", "-"), ("-", "+"))]


def _lists(answers: list[str], golds: list[str]) -> str:
  if len(answers) == 1 and len(golds) > 1:
    answers = _members(answers[0]) or answers
  if len(golds) == 1 and len(answers) > 1:
    golds = _members(golds[0]) or golds
  if len(answers) != len(golds):
    return "two answers" if len(golds) == 1 else "wrong"
  if len(golds) == 1:
    return _single(answers[0], golds[0])
  return _matched(answers, golds)


def _members(text: str) -> list[str] | None:
  """The elements, if `text` is a set in braces (`x \\in` before it or not)."""
  match = _ASSIGNED.match(text)
  text = text[match.end():] if match else text
  if text[:1] == SET and closing(text) == len(text) - 1:
    return split(text[1:-1])
  return None


def _matched(answers: list[str], golds: list[str]) -> str:
  """Whether the answers are the golds in some order."""
  if len(golds) > _MAX_ITEMS or len(answers) != len(golds):
    return "wrong"
  left = list(answers)
  for gold in golds:
    for at, answer in enumerate(left):
      if _single(answer, gold) == "correct":
        del left[at]
        break
    else:
      return "wrong"
  return "correct"


def _single(answer: str, gold: str) -> str:
  """As `equal`, for one value each."""
  if squeezed(answer) == squeezed(gold):
    return "correct"
  named, value = unassigned(answer)
  gold_name, gold_value = unassigned(gold)
  if named != gold_name and "=" in answer and "=" in gold:
    return _expressions(answer, gold)
  if squeezed(value) == squeezed(gold_value):
    return "correct"
  if _letter(value) or _letter(gold_value):
    same = _letter(value) == _letter(gold_value)
    if same or not _letter(value) or not _letter(gold_value):
      return "correct" if same else _values(value, gold_value)
    return "wrong"
  return _values(value, gold_value)


def _values(value: str, gold_value: str) -> str:
  found = numbers.quantity(value)
  wanted = numbers.quantity(gold_value)
  if found and wanted:
    return "correct" if numbers.same(found, wanted) else "wrong"
  if limits.too_large(value) or limits.too_large(gold_value):
    return "too large"
  if wanted:
    return _unevaluated(value)
  for kind in (_brackets, _matrices, _prose):
    verdict = kind(value, gold_value)
    if verdict is not None:
      return verdict
  return _expressions(value, gold_value)


def unassigned(text: str) -> tuple[str, str]:
  """(name, rest) of `x = rest`, `f(x) = rest` or `x \\in rest`."""
  match = _ASSIGNED.match(text)
  if not match or not text[match.end():].strip():
    return "", text
  return squeezed(match.group(1)), text[match.end():].strip()


def _letter(text: str) -> str:
  match = _LETTER.fullmatch(squeezed(text))
  return match.group(1) if match else ""


def _unevaluated(value: str) -> str:
  """The gold is a number, the answer none: a sum still to be done, or wrong.

  Copying the question's arithmetic into the answer must not pay.
  """
  body, _ = numbers.split_unit(value)
  sides = [expressions.read(side) for side in body.split("=")]
  if None in sides:
    return "wrong"
  if not any(map(expressions.names, sides)):
    return "unevaluated"
  return "wrong"


def _brackets(value: str, gold: str) -> str | None:
  """Tuples, sets and intervals; None if the gold is none of them.

  `(1,2)` is ordered, `{1,2}` is not; the ends of an interval count. An
  inequality in one variable is the interval that it describes.
  """
  wanted = _interval(gold)
  found = _interval(value)
  if wanted and found:
    same = (
        found[2:4] == wanted[2:4]
        and (found.name == wanted.name or not found.name or not wanted.name)
        and _single(found.left, wanted.left) == "correct"
        and _single(found.right, wanted.right) == "correct")
    return "correct" if same else "wrong"
  outer = _outer(gold)
  if outer is None:
    return "wrong" if wanted or _outer(value) is not None else None
  if _outer(value) != outer:
    return "wrong"
  answers, golds = split(value[1:-1]), split(gold[1:-1])
  if outer == SET + SET_END:
    return _matched(answers, golds)
  same = len(answers) == len(golds) and all(
      _single(a, g) == "correct" for a, g in zip(answers, golds))
  return "correct" if same else "wrong"


def _outer(text: str) -> str | None:
  """The pair of brackets around the whole of a list or set; None if none."""
  if not text or text[0] not in OPEN or text[0] == "{" or (
      closing(text) != len(text) - 1):
    return None
  if text[0] != SET and len(split(text[1:-1])) < 2:
    return None
  return text[0] + text[-1]


def _interval(text: str) -> Interval | None:
  text = text.strip()
  if squeezed(text) in ("\\mathbb{R}", "allrealnumbers"):
    return Interval("-\\infty", "\\infty", True, True)
  outer = _outer(text)
  if outer in ("()", "[]", "(]", "[)"):
    ends = split(text[1:-1])
    if len(ends) == 2:
      return Interval(*ends, outer[0] == "(", outer[1] == ")")
  parts = [p.strip() for p in _RELATION.split(text)]
  signs = parts[1::2]
  if not signs or any(s not in _FLIP for s in signs) or not all(parts):
    return None
  upward = {s in ("<", "\\le") for s in signs}
  if len(parts) == 5 and len(upward) == 1 and _is_name(parts[2]):
    low, high = parts[0], parts[4]
    if signs[0] in (">", "\\ge"):
      low, high, signs = high, low, [_FLIP[s] for s in reversed(signs)]
    return Interval(low, high, signs[0] == "<", signs[1] == "<", parts[2])
  if len(parts) != 3:
    return None
  left, sign, right = parts
  if _is_name(right) and not _is_name(left):
    left, sign, right = right, _FLIP[sign], left
  if not _is_name(left):
    return None
  if sign in ("<", "\\le"):
    return Interval("-\\infty", right, True, sign == "<", left)
  return Interval(right, "\\infty", sign == ">", True, left)


def _is_name(text: str) -> bool:
  node = expressions.read(text.strip())
  return node is not None and node[0] == "name"


def _matrices(value: str, gold: str) -> str | None:
  wanted, found = _rows(gold), _rows(value)
  if wanted is None and found is None:
    return None
  same = (
      wanted is not None and found is not None
      and [len(row) for row in wanted] == [len(row) for row in found]
      and all(_single(a, g) == "correct"
              for row, other in zip(found, wanted)
              for a, g in zip(row, other)))
  return "correct" if same else "wrong"


def _rows(text: str) -> list[list[str]] | None:
  match = _MATRIX.fullmatch(text)
  if not match:
    return None
  rows = re.split(r"\\\\|\\cr\b", match.group(2))
  cells = [[cell.strip() for cell in row.split("&")] for row in rows]
  return cells[:-1] if len(cells) > 1 and cells[-1] == [""] else cells


def _prose(value: str, gold: str) -> str | None:
  """Words, case and punctuation apart; None if the gold is not made of them."""
  bare = _COMMAND.sub(" ", gold.replace(WORDS, "").replace(END, ""))
  words = set(_WORDY.findall(bare)) - FUNCTIONS
  if not (words or _NOON.search(bare) or _words(gold) == "no"):
    return None
  body, unit = numbers.split_unit(gold)
  if unit and expressions.read(body):
    return None
  return "correct" if _words(value) == _words(gold) else "wrong"


def _words(text: str) -> str:
  text = _NOON.sub(r"\1m", text.replace(WORDS, "").replace(END, ""))
  text = _PUNCTUATION.sub(" ", text).strip().casefold()
  for article in ("the ", "a ", "an "):
    text = text.removeprefix(article)
  return text


def _expressions(value: str, gold: str) -> str:
  """Expressions, equations and inequalities, by their values."""
  if not _TRIGONOMETRY.search(value + gold):
    value, unit = numbers.split_unit(value)
    gold, gold_unit = numbers.split_unit(gold)
    if unit and gold_unit and unit != gold_unit:
      return "wrong"
    value, gold = value.replace(_CIRC, ""), gold.replace(_CIRC, "")
  found, wanted = _RELATION.split(value), _RELATION.split(gold)
  if len(wanted) == 3 and len(found) == 3:
    return _relations(found, wanted)
  if len(wanted) != 1 or len(found) != 1:
    return "wrong"
  a, b = expressions.read(value), expressions.read(gold)
  if b is None:
    return "unknown gold"
  if a is None:
    return "unparsed"
  return "correct" if values.same(a, b) else "wrong"


def _relations(found: list[str], wanted: list[str]) -> str:
  """`2x = y` and `y - 2x = 0` are one line; `<` and `>` turn with the sign."""
  signs, differences = [], []
  for left, sign, right in (found, wanted):
    sides = expressions.read(left.strip()), expressions.read(right.strip())
    if None in sides:
      return "unparsed"
    signs.append(sign)
    differences.append(("-", *sides))
  factor = values.proportional(*differences)
  if not factor:
    return "wrong"
  if factor < 0:
    signs[0] = _FLIP.get(signs[0], signs[0])
  return "correct" if signs[0] == signs[1] else "wrong"
