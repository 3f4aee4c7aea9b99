"""Accuracy of mathematics: whether the final answer equals the reference.

Answers are compared in three ways, cheapest first: as text; as exact numbers;
by structure, part by part, with expressions compared by their values
(`structure`). Answers that are not parsed completely are "unparsed" and never
equal. Completions are untrusted: `values` bounds every operation beforehand.

Rules of equality (the paper gives none):

  * Numbers are compared exactly: 0.5 = 1/2, but 0.33 is not 1/3 and 3.14 is not
    pi, whatever the number of digits. For rounded results the reference has the
    rounded number.
  * A unit that only one side has is ignored. 5 cm is neither 5 m nor 50 mm, but
    2 h 30 min, written with two units, is 150 min. `%` may be left out or
    evaluated (50% = 0.5). A word that is neither a known unit nor a noun of the
    question or the reference is no unit.
  * `x = 5` equals 5. The order of lists, braces and unions does not matter,
    that of tuples does. Real sets may be written in any way. `\\log` without a
    base equals no other logarithm. 30 degrees equal pi/6.
"""

from __future__ import annotations

import functools
import re
from typing import TYPE_CHECKING

from r1jax.rewards.answers import boxes, last_number
from r1jax.rewards.maths import (
  expressions,
  letters,
  notation,
  numbers,
  structure,
  trees,
  units,
)
from r1jax.rewards.maths.structure import Context
from r1jax.rewards.score import Score

if TYPE_CHECKING:
  from r1jax.core.prompt import Prompt
  from r1jax.rewards.response import Response

MAX_CHARS = 300  # longest answer; MATH's longest have about 150
_MAX_CANDIDATES = 8
_MAX_QUESTION = 20_000
_BETWEEN_WORDS = r"|\s+(?=[A-Za-z]{2})|(?<=[A-Za-z]{2})\s+"
_FORMULA = re.compile(
    r"\$([^$]{1,300})\$|\\\((.{1,300}?)\\\)|\\\[(.{1,300}?)\\\]"
    r"|([\w\d(|√\\{][\w\d()\[\]{}^*/+\-=.|√\\ ]{1,120})", re.DOTALL)
_FRACTION = re.compile(r"\s*\\frac\{(\d+)\}\{(\d+)\}")
_COMMAS = re.compile(r"(?<=\d)(?:,|\{,\})(?=\d{3})")
_NAMES = re.compile(r"(?<![\\A-Za-z])[^\W\d_]{2,}")
_SIGN = re.compile(r"(=|[<>]|\\[lg]e(?![A-Za-z]))")
_OPERATION = re.compile(
    r"[-+*/^!]|\\(?:times|cdot|div|frac|sqrt|binom)|[a-z]\(")
_RESTATE = re.compile(
    r"\b(?:simplif|convert|express|write|rewrit|reduc|round|change"
    r"|scientific notation|lowest terms|standard form|as a (?:decimal|fraction"
    r"|percent|mixed|power|product))|化简|约分|科学记数|写成|写为|表示|改写|化成|化为|换算",
    re.IGNORECASE)


def verify_last(prompt: Prompt, response: Response) -> Score:
  """As `verify`, with `extract: last` for every data set."""
  return verify(prompt, response, last=True)


def verify(prompt: Prompt, response: Response, *, last: bool = False) -> Score:
  """1 if the final answer equals `prompt.reference`, else 0.

  The final answer is the last `\\boxed{}` of the answer (several boxes may
  form a list); else the whole `<answer>` element; else, only if the prompt's
  metadata say `extract: last` (or with `last`), the last answer that the text
  states.

  Reasons: "correct", "wrong", "no answer", "empty box", "nested boxes",
  "denied" (the text calls it wrong), "two answers" (boxes or statements that
  differ, or several values for a single one), "copied" (the question's own
  expression), "unevaluated" (an arithmetic expression instead of its value, or
  many more operations than the reference has), "too large" (too long for an
  answer), "unparsed" (not parsed completely).
  """
  candidates, reason = boxes.claimed(response.answer)
  if reason:
    return Score(0.0, True, reason)
  if candidates and not candidates[-1]:
    return Score(0.0, True, "empty box")
  if not candidates and response.marked:
    candidates = [response.answer]
  elif not candidates and (
      last or prompt.metadata.get("extract") == "last"):
    candidates, reason = last_number.stated(response.answer)
  if not candidates or not candidates[-1].strip():
    return Score(0.0, True, reason or "no answer")
  answer, reference = candidates[-1], prompt.reference
  if len(answer) > MAX_CHARS and answer != reference:
    return Score(0.0, True, "too large")
  if not _agree(candidates):
    together = ", ".join(dict.fromkeys(candidates[-2 * _MAX_CANDIDATES:]))
    if len(structure.split(notation.plain(reference))) < 2 or compare(
        together, reference, prompt.question) != "correct":
      return Score(0.0, True, "two answers", answer=canonical(answer))
    return Score(1.0, True, "correct", answer=canonical(together))
  reason = compare(answer, reference, prompt.question)
  if reason == "correct" and _copied(answer, reference, prompt.question):
    reason = "copied"
  return Score(float(reason == "correct"), True, reason,
               answer=canonical(answer))


def canonical(answer: str) -> str:
  """A canonical spelling for majority votes: equal for equal texts or numbers.
  """
  if len(answer) > MAX_CHARS:
    return answer[:MAX_CHARS]
  parts = structure.split(notation.plain(answer))
  spelled = sorted(map(_spelled, parts)) if len(parts) > 1 else [
      _spelled(parts[0])]
  return ", ".join(spelled)


def compare(answer: str, reference: str, question: str = "") -> str:
  """The reason of `verify` for a bare answer; "correct" if they are equal.

  The question is used for the nouns that may follow a number, and for the
  letters that are factors, not functions, before brackets.
  """
  if answer == reference:
    return "correct"
  if len(answer) > MAX_CHARS or len(reference) > 5 * MAX_CHARS:
    return "too large"
  plain, gold = notation.plain(answer), notation.plain(reference)
  if notation.squeezed(plain) == notation.squeezed(gold):
    return "correct"
  if not plain:
    return "wrong"
  number, wanted = numbers.literal(plain), numbers.literal(gold)
  if number is not None and wanted is not None:
    if number == wanted or "," not in gold:
      return "correct" if number == wanted else "wrong"
  return structure.equal(plain, gold, _context(gold, question))


@functools.lru_cache(maxsize=256)
def _context(gold: str, question: str) -> Context:
  asked = question[:_MAX_QUESTION]
  formulas = " ".join(next(filter(None, m.groups()[:3]), "")
                      for m in _FORMULA.finditer(asked))
  return Context(
      letters.applied(gold, notation.plain(formulas)),
      units.words(asked) | units.words(
          gold.replace(notation.WORDS, " ").replace(notation.END, " ")),
      notation.squeezed(notation.plain(asked)))


def _spelled(part: str) -> str:
  settled = structure.chains.settled(part, frozenset())
  value = settled.value if settled else part
  quantity = numbers.quantity(value)
  if quantity is None:
    # Words after a number are taken as the counted noun, whatever the question.
    match = re.match(r"([+-]?\d+(?:\.\d+)?)\s+[A-Za-z ]+\Z", value)
    return match.group(1) if match else notation.squeezed(value)
  return f"{quantity.value}{'%' if quantity.unit == '%' else ''}"


def _agree(candidates: list[str]) -> bool:
  """Whether all candidates equal the last one."""
  last = candidates[-1]
  others = list(dict.fromkeys(c for c in candidates[:-1] if c != last))
  return len(others) <= _MAX_CANDIDATES and all(
      "correct" in (compare(other, last), compare(last, other))
      for other in others)


def _copied(answer: str, reference: str, question: str) -> bool:
  """Whether the answer only repeats the question, and the reference does not.

  "Expand (x+1)(x+2)" must not be answered with (x+1)(x+2), nor with
  1(x+2)(x+1); "Simplify 13/26" not with 13/26; "Write 602000 in scientific
  notation" not with 602000.
  """
  plain, gold = notation.plain(answer), notation.plain(reference)
  short, wanted = notation.squeezed(plain), notation.squeezed(gold)
  if short == wanted or not question:
    return False
  asked = question[:_MAX_QUESTION]
  there = notation.squeezed(notation.plain(asked))
  if numbers.quantity(plain) is not None:
    return _same_digits(plain, gold, asked) or (
        "^" in short and "^" not in wanted and short in there)
  if short in there and (
      _OPERATION.search(short) or ":" in short and _RESTATE.search(asked)
      or _relates(short)):
    return True
  if not (written := _expressions(asked)):
    return False
  node, gold_node = (expressions.read(t, frozenset()) for t in (plain, gold))
  if node is None or not trees.size(node):
    return False
  mine = trees.arranged(node)
  if gold_node is not None and trees.arranged(gold_node) == mine:
    return False
  return trees.size(node) > 1 and mine in written


def _relates(short: str) -> bool:
  """Whether this is a relation, but not merely `name = value`."""
  left, sign, right = _SIGN.search(short) and _SIGN.split(short, 1) or 3 * [""]
  return bool(sign) and not (
      structure.chains.is_name(left) or structure.chains.is_name(right))


def _same_digits(plain: str, gold: str, question: str) -> bool:
  """Whether a number is as in the question, which asks for another form."""
  if not _RESTATE.search(question):
    return False
  short, wanted = _flat(plain), _flat(gold)
  if short == wanted or not re.search(
      rf"(?<![\d.]){re.escape(short)}(?![\d.]*\d)",
      _flat(notation.plain(question))):
    return False
  return "/" in short or _form(short) != _form(wanted)


def _flat(text: str) -> str:
  """The text with numbers without commas and fractions as `a/b`."""
  text = _FRACTION.sub(r" \1/\2", _COMMAS.sub("", text))
  return notation.squeezed(text.replace(notation.DOLLAR, ""))


def _form(text: str) -> str:
  """The form of a number: its text without unit, and with digits as 0."""
  return re.sub(r"\d+", "0", _NAMES.sub("", text)).strip("-+ ")


@functools.lru_cache(maxsize=256)
def _expressions(question: str) -> frozenset[trees.Node]:
  """The expressions in a question and their parts, see `trees.arranged`."""
  nodes: set[trees.Node] = set()
  for match in _FORMULA.finditer(question):
    text = next(filter(None, match.groups()))
    words = _BETWEEN_WORDS if match.lastindex == 4 else ""
    for piece in re.split(rf"=|[<>,]|\\[lg]e(?![A-Za-z]){words}", text):
      node = expressions.read(notation.plain(piece))
      if node is not None:
        _gather(node, nodes)
  return frozenset(nodes)


def _gather(node: trees.Node, nodes: set[trees.Node]) -> None:
  if len(nodes) > 500:
    return
  nodes.add(trees.arranged(node))
  for part in node[1:]:
    if isinstance(part, tuple):
      _gather(part, nodes)
