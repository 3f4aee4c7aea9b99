"""Compares answers part by part: lists, sets, tuples, intervals, matrices.

The rules are documented at each kind; `numbers`, `regions` and `values` compare
numbers with units, real sets and expressions. Texts are those of
`notation.plain`. Texts that are not parsed completely are never equal.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from r1jax.rewards.maths import (
  chains,
  formulas,
  matrices,
  numbers,
  ratios,
  regions,
  wording,
)
from r1jax.rewards.maths.notation import (
  END,
  GAP,
  OPEN,
  SET,
  SET_END,
  WORDS,
  closing,
  depths,
  squeezed,
)

_MAX_ITEMS = 40
_AND = re.compile(
    rf"\s*{WORDS}\s*(?:or|and|or else)\s*{END}\s*|\s+(?:or|and)\s+"
    r"|(?<=[\d)}])(?:or|and)(?=[A-Za-z\\(\d-])"
    rf"|\s*(?:或者?|以及|和|与)\s*|\\(?:or|cup)(?![A-Za-z])|[,;&]"
    rf"|{GAP}+\s*(?=[-+\d\\(A-Za-z{SET}])")
_LETTER = re.compile(r"\(?\s*([A-J])\s*\)?\.?")
_OPTION = re.compile(rf"{WORDS}?\s*\(\s*([A-J])\s*\)\s*[.:]?\s*{END}?\s*")
_LETTERS = re.compile(r"[A-J](?:[,\s]*[A-J])*")
_CIRCLED = re.compile(r"[①-⑳](?:[,;\s]|and|和|与|及|[①-⑳])*")


class Context(NamedTuple):
  """How to read an answer, from the question and the reference.

  Attributes:
    functions: letters that are functions before brackets.
    nouns: words that may follow a number.
    question: the question, see `notation.squeezed`.
  """

  functions: frozenset[str] = frozenset()
  nouns: frozenset[str] = frozenset()
  question: str = ""


class Interval(NamedTuple):
  """An interval with its ends as text; `name` is an inequality's variable."""

  left: str
  right: str
  left_open: bool
  right_open: bool
  name: str = ""


def equal(answer: str, gold: str, context: Context) -> str:
  """"correct", or the reason why not ("wrong", "two answers", ...).

  Several values (separated by commas, "and", "or", 或, ∪, or from ±) may be in
  any order; several values for one are "two answers", one for several is
  "wrong". A real set may be written in any way. A condition that only one side
  states (`n \\in \\mathbb{Z}`) is ignored.
  """
  answer, gold = wording.unlabelled(answer), wording.unlabelled(gold)
  if squeezed(answer) == squeezed(gold):
    return "correct"
  phrase = wording.phrase(gold)
  if phrase and phrase == wording.phrase(answer):
    return "correct"
  chosen = _options(answer, gold)
  if chosen is not None:
    return chosen
  if _circled(gold):
    return "correct" if _circled(answer) == _circled(gold) else "wrong"
  same_time = wording.times(answer, gold)
  if same_time is not None and (same_time or not ratios.SCALES.search(gold)):
    return "correct" if same_time else "wrong"
  if regions.signals(answer) or regions.signals(gold):
    wanted, region = regions.read(gold), regions.read(answer)
    if wanted and region:
      return "correct" if regions.same(region, wanted) else "wrong"
  value, condition = wording.split_condition(answer)
  gold_value, gold_condition = wording.split_condition(gold)
  if not wording.same_condition(condition, gold_condition):
    return "wrong"
  reason = _lists(split(value), split(gold_value), context)
  if reason != "correct" and "," in gold_value:
    # `100,200,300`: a list of three, or one number with grouped digits?
    parts = split(gold_value, grouped=False)
    if len(parts) > 1 and not any(re.match(r"\s*0\d", p) for p in parts):
      again = _lists(split(value, grouped=False), parts, context)
      reason = again if again == "correct" else reason
  if reason != "correct" and _decimal(value, gold_value):
    return "correct"
  return reason


def split(text: str, grouped: bool = True) -> list[str]:
  """The values that are listed in `text`, outside of brackets.

  Args:
    text: as `notation.plain` returns it.
    grouped: whether to read `1,000` as one number.
  """
  if "\\begin" in text or numbers.literal(text) is not None and grouped:
    return [text]
  if "and" in text and numbers.quantity(text) is not None:
    return [text]  # 3 and 1/2
  if not _AND.search(text):
    return _both_signs(text)
  parts, start = [], 0
  deep = depths(text)
  for match in _AND.finditer(text):
    at = match.start()
    if deep[at] or (grouped and match.group() == "," and re.match(
        r"\s?\d{3}(?!\d)", text[at + 1:at + 6]) and re.search(
            r"(?<![\d.])\d{1,3}(?:,\s?\d{3}){0,6}\Z", text[max(0, at - 30):at]
        ) and not (text[at + 1] == " ")):
      continue
    parts.append(text[start:at])
    start = match.end()
  parts = [p.strip() for p in [*parts, text[start:]]]
  if not parts[0] or not parts[-1]:
    return [text]  # begins or ends with a separator
  parts = [p for p in parts if p]  # nothing between a comma and "and"
  return [side for part in parts for side in _both_signs(part)]


def _both_signs(text: str) -> list[str]:
  """`1\\pm2` as two values. Inside braces that is done later."""
  if "\\pm" not in text and "\\mp" not in text or text[0] == SET:
    return [text]
  if regions.RELATION.search(text.rpartition("=")[0]):
    return [text]
  return [text.replace("\\pm", a).replace("\\mp", b)
          for a, b in (("+", "-"), ("-", "+"))]


def _decimal(value: str, gold: str) -> bool:
  """Whether the value is the gold with a decimal comma: `0,5` for 0.5."""
  wanted = numbers.literal(gold)
  return (wanted is not None and wanted.denominator > 1
          and numbers.decimal_comma(value) == wanted)


def _lists(answers: list[str], golds: list[str], context: Context) -> str:
  answers = _flat(answers)
  if len(golds) > 1 or len(answers) > 1:
    golds = _flat(golds)
    verdict = _assignments(answers, golds, context)
    if verdict:
      return verdict
    if len(answers) == 1 and len(golds) > 1:
      answers = _members(answers[0]) or answers
    if len(golds) == 1 and len(answers) > 1:
      golds = _members(golds[0]) or golds
  if len(golds) == 1 and len(answers) == 1:
    return single(answers[0], golds[0], context)
  if len(golds) == 1:
    unique = _unique(answers, context)
    if len(unique) > 1:
      return "two answers"
    return single(unique[0], golds[0], context)
  return matched(answers, golds, context)


def _flat(parts: list[str]) -> list[str]:
  """The members, if all parts are sets of one: `\\{1\\}, \\{2\\}`."""
  if len(parts) > 1 and all(p[:1] == SET for p in parts):
    inner = [_members(p) for p in parts]
    if all(inner) and all(len(m) == 1 for m in inner):
      return [m[0] for m in inner]
  return parts


def _members(text: str) -> list[str] | None:
  """The elements if `text` is a set in braces, with or without `x \\in`."""
  settled = chains.settled(text, frozenset())
  text = settled.value if settled else text
  if text[:1] == SET and closing(text) == len(text) - 1 and len(text) > 2:
    return split(text[1:-1])
  return None


def _assignments(answers: list[str], golds: list[str],
                 context: Context) -> str | None:
  """Compares assignments; None if there are none.

  `k=45, n=2` equals `(k,n)=(45,2)` and, in the gold's order, `(45,2)`.
  """
  wanted, named = _named(golds), _named(answers)
  if wanted and not named and len(answers) == 1:
    named = _tuple(answers[0], tuple(wanted))
  elif named and not wanted and len(golds) == 1:
    wanted = _tuple(golds[0], tuple(sorted(named)))
  elif wanted and not named and len(answers) == len(wanted) and not any(
      "=" in a for a in answers):
    named = dict(zip(wanted, answers))
  if not wanted or not named:
    return None
  same = wanted.keys() == named.keys() and all(
      single(named[name], wanted[name], context) == "correct"
      for name in wanted)
  return "correct" if same else "wrong"


def _named(parts: list[str]) -> dict[str, str] | None:
  """{name: value}, if every part is `name = value` and no name is repeated."""
  settled = [chains.settled(p, frozenset()) for p in parts]
  if len(parts) < 2 or not all(
      s and s.label and chains.is_name(s.label) for s in settled):
    return None
  named = {squeezed(s.label): s.value for s in settled}
  return named if len(named) == len(parts) else None


def _tuple(text: str, order: tuple[str, ...]) -> dict[str, str] | None:
  settled = chains.settled(text, frozenset())
  if not settled or _outer(settled.value) != "()":
    return None
  cells = split(settled.value[1:-1])
  if settled.label:
    if _outer(settled.label) != "()":
      return None
    order = tuple(squeezed(name) for name in split(settled.label[1:-1]))
  return dict(zip(order, cells)) if len(cells) == len(order) else None


def matched(answers: list[str], golds: list[str], context: Context) -> str:
  """Whether the answers are the golds in some order.

  An element that the answer repeats counts once, unless the gold repeats it.
  """
  if len(golds) > _MAX_ITEMS or len(answers) > 2 * _MAX_ITEMS:
    return "wrong"
  if len(answers) > len(golds):
    answers = _unique(answers, context)
  if len(answers) != len(golds):
    return "wrong"
  left = list(answers)
  for gold in golds:
    for at, answer in enumerate(left):
      if single(answer, gold, context) == "correct":
        del left[at]
        break
    else:
      return "wrong"
  return "correct"


def _unique(answers: list[str], context: Context) -> list[str]:
  unique: list[str] = []
  for answer in answers[:2 * _MAX_ITEMS]:
    if not any(single(answer, other, context) == "correct"
               for other in unique):
      unique.append(answer)
  return unique


def single(answer: str, gold: str, context: Context) -> str:
  """As `equal`, for a single value each."""
  if squeezed(answer) == squeezed(gold):
    return "correct"
  settled = chains.settled(answer, context.functions)
  wanted = chains.settled(gold, context.functions)
  if settled is None:
    return "wrong"
  wanted = wanted or chains.Settled("", gold)
  if settled.label and wanted.label:
    if chains.same_label(settled.label, wanted.label, context.functions):
      reason = _values(settled.value, wanted.value, context)
      return "correct" if reason == "wrong" and formulas.parameter(
          settled, wanted, context.functions) else reason
    return formulas.equations(answer, gold, settled, wanted, context.functions)
  if settled.label:
    if chains.names_answer(settled.label, context.question, context.nouns,
                           context.functions):
      return _values(settled.value, gold, context)
    node = formulas.read(settled.label, context.functions)
    return "unevaluated" if formulas.is_constant(node) else "wrong"
  if wanted.label:
    if not chains.names_quantity(wanted.label, context.functions):
      return "wrong"
    if settled.value == answer and "\\approx" in gold and chains.rounded(
        wanted.value, gold.rpartition("\\approx")[2], context.functions):
      return _values(answer, wanted.value, context)
    return _values(settled.value, wanted.value, context)
  if gold != wanted.value and "\\approx" in gold:
    # The gold gives an exact value and its decimals: either is correct.
    shown = gold.rpartition("\\approx")[2].strip()
    if _values(settled.value, shown, context) == "correct":
      return "correct"
  return _values(settled.value, wanted.value, context)


def _values(value: str, gold: str, context: Context) -> str:
  if squeezed(value) == squeezed(gold):
    return "correct"
  value, gold = _alone(value, gold), _alone(gold, value)
  wanted = numbers.quantity(gold, context.nouns)
  quantity = numbers.quantity(value, context.nouns)
  if quantity and wanted:
    if quantity.unit[:5] == "base " and not wanted.unit and (
        context.nouns and "base" not in context.nouns
        and not any("进制" in noun for noun in context.nouns)):
      return "wrong"  # 15_6 is not 15, unless the question is about bases
    return "correct" if numbers.same(quantity, wanted) else "wrong"
  if wanted and wanted.several and (spent := numbers.clock(value)):
    return "correct" if numbers.same(spent, wanted) else "wrong"
  verdict = _options(value, gold)
  if verdict is None:
    verdict = ratios.compare(value, gold, context.functions)
  if verdict is not None:
    return verdict
  if wanted and wanted.unit != "degree":
    return formulas.unevaluated(value, context.functions)
  for kind in (_matrices, _brackets, _prose):
    verdict = kind(value, gold, context)
    if verdict is not None:
      return verdict
  if quantity and quantity.unit == "degree":
    value = f"{quantity.value}^{{\\circ}}"
  return formulas.compare(value, gold, context.functions)


def _alone(text: str, other: str) -> str:
  """`\\{5\\}` and `(x)` without their brackets, unless the other has them."""
  while text[:1] in (SET, "(") and closing(text) == len(text) - 1 and (
      other[:1] != text[0] and len(split(text[1:-1])) == 1):
    inner = text[1:-1].strip()
    if not inner or regions.RELATION.search(inner):
      return text
    text = inner
  return text


def _options(value: str, gold: str) -> str | None:
  """Compares option letters; None if the gold is none.

  `(C) 12` names option C, `A, B` the options A and B.
  """
  wanted = _LETTER.fullmatch(squeezed(gold))
  if wanted:
    letter = _LETTER.fullmatch(squeezed(value))
    if letter:
      return "correct" if letter.group(1) == wanted.group(1) else "wrong"
    named = _OPTION.findall(value)
    if named and _OPTION.match(value):
      return "correct" if set(named) == {wanted.group(1)} else "wrong"
    return None
  short = squeezed(gold)
  if "," in short and _LETTERS.fullmatch(short) and (
      _LETTERS.fullmatch(squeezed(value))):
    letters = [sorted(c for c in squeezed(t) if c.isalpha())
               for t in (value, gold)]
    return "correct" if letters[0] == letters[1] else "wrong"
  return None


def _circled(text: str) -> list[str]:
  if not _CIRCLED.fullmatch(squeezed(text)):
    return []
  return sorted(set(re.findall("[①-⑳]", text)))


def _matrices(value: str, gold: str, context: Context) -> str | None:
  """Compares matrices cell by cell; None if neither is a matrix.

  A column may also be `(1,2)`, `\\langle 1,2\\rangle` or `i+2j`.
  """
  wanted, matrix = matrices.rows(gold), matrices.rows(value)
  if wanted is None and matrix is None and not any(
      t[:1] == "⟨" for t in (value, gold)):
    return None
  wanted = wanted or matrices.rows(gold, vectors=True)
  if matrix is None:
    matrix = matrices.rows(value, vectors=True)
  if wanted and not matrix and all(len(row) == 1 for row in wanted):
    return formulas.along_axes(value, [row[0] for row in wanted])
  if wanted is None or matrix is None or (
      [len(row) for row in wanted] != [len(row) for row in matrix]):
    return "wrong"
  same = all(_cells(a, g, context) for row, other in zip(matrix, wanted)
             for a, g in zip(row, other))
  return "correct" if same else "wrong"


def _cells(value: str, gold: str, context: Context) -> bool:
  return single(value, gold, context) == "correct" or formulas.compare(
      value, gold, context.functions) == "correct"


def _brackets(value: str, gold: str, context: Context) -> str | None:
  """Compares tuples, sets and intervals; None if the gold is none of them.

  `(1,2)` is ordered, `{1,2}` is not; open and closed ends of an interval
  differ. An inequality in one variable counts as its interval.
  """
  wanted, interval = _interval(gold), _interval(value)
  if wanted and interval:
    same = (
        interval[2:4] == wanted[2:4]
        and (interval.name == wanted.name or not interval.name
             or not wanted.name)
        and single(interval.left, wanted.left, context) == "correct"
        and single(interval.right, wanted.right, context) == "correct")
    if same or not (interval.name and wanted.name):
      return "correct" if same else "wrong"
  outer = _outer(gold)
  if outer is None:
    return "wrong" if _outer(value) is not None else None
  if _outer(value) != outer:
    return "wrong"
  answers, golds = split(value[1:-1]), split(gold[1:-1])
  if outer == SET + SET_END:
    return matched(answers, golds, context)
  same = len(answers) == len(golds) and all(
      single(a, g, context) == "correct" for a, g in zip(answers, golds))
  return "correct" if same else "wrong"


def _outer(text: str) -> str | None:
  """The pair of brackets around a whole list or set; None without one."""
  if not text or text[0] not in OPEN or text[0] == "{" or (
      closing(text) != len(text) - 1):
    return None
  if text[0] != SET and len(split(text[1:-1])) < 2:
    return None
  return text[0] + text[-1]


def _interval(text: str) -> Interval | None:
  text = text.strip()
  outer = _outer(text)
  if outer in ("()", "[]", "(]", "[)"):
    ends = split(text[1:-1])
    if len(ends) == 2:
      return Interval(*ends, outer[0] == "(", outer[1] == ")")
  parts = regions.sides(text)
  signs = parts[1::2]
  if not signs or any(s not in regions.FLIP for s in signs) or (
      not all(parts)):
    return None
  upward = {s in ("<", "\\le") for s in signs}
  if len(parts) == 5 and len(upward) == 1 and regions.is_name(parts[2]):
    low, high = parts[0], parts[4]
    if signs[0] in (">", "\\ge"):
      low, high = high, low
      signs = [regions.FLIP[s] for s in reversed(signs)]
    return Interval(low, high, signs[0] == "<", signs[1] == "<", parts[2])
  if len(parts) != 3:
    return None
  left, sign, right = parts
  if regions.is_name(right) and not regions.is_name(left):
    left, sign, right = right, regions.FLIP[sign], left
  if not regions.is_name(left):
    return None
  if sign in ("<", "\\le"):
    return Interval("-\\infty", right, True, sign == "<", left)
  return Interval(right, "\\infty", sign == ">", True, left)


def _prose(value: str, gold: str, context: Context) -> str | None:
  """Compares words, without case and punctuation; None if the gold is formulas.
  """
  if not wording.prose(gold):
    return None
  body, unit = numbers.split_unit(gold)
  if unit and formulas.read(body, context.functions):
    return None
  return "correct" if wording.same_words(value, gold) else "wrong"
