"""Finds statements such as "the answer is ..." in English and Chinese texts.

Texts are untrusted and may be long: every pattern here takes linear time.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import NamedTuple

from r1jax.rewards.answers import denial

# Text between "answer" and "is": "the answer to the first question is". Whether
# it denies the answer ("the answer that is wrong is") is checked elsewhere.
_MIDDLE = r"(?P<middle>[^\n.:：=?!,，;]{0,40}?)"
_COPULA = (
    r"(?:\s*\b(?:is|are|was|equals|(?:must|should|would|will|can only|has to"
    r"|have to|ought to|turns out to|may well|can) be|comes (?:out )?to)\b"
    r"(?!\s+to\b)\s*[:：]?|\s*(?:\*\*|__)?[:：=])"
    r"(?:\s*\b(?:therefore|thus|hence|then|so|clearly|simply|indeed|just"
    r"|definitely|exactly|obviously|of course|now|in fact|still|really|surely"
    r"|certainly|probably|likely|most likely)\b[,:]?){0,3}")
_ZH_COPULA = (
    r"\s*(?:\*\*|__)?(?:就是|应该?是|应当是|应为|应该?选|应选|就选|便是|乃是|即为|是|为"
    r"|即|选|等于|[:：=])\s*[:：]?")
_EDGE = r"[\s:：]*(?:\*\*|__)?[\s:：]*"
ANSWER = (
    rf"\b(?:answers?|ans)\b\.?{_MIDDLE}{_COPULA}{_EDGE}"
    rf"|答案(?P<zh>[^\n。:：=，,？?！!]{{0,20}}?){_ZH_COPULA}{_EDGE}"
    r"|(?:因此|所以|综上|故)[，,]?答案\s*(?=[\d$\\(（A-J-])"
    # The last line of GSM8K's solutions.
    r"|(?<![^\n])(?P<mark>####)(?!#)[ \t]*(?=[^\n]*\S)")
# The lookahead at the first letter makes the search twice as fast.
_ANSWER = re.compile(rf"(?=[a答因所综故#])(?:{ANSWER})", re.IGNORECASE)
_NAMED = re.compile(r"ans|答案", re.IGNORECASE)
_ADJECTIVE = re.compile(
    r"\b(?:wrong|incorrect|false|untrue|invalid)\s*\Z", re.IGNORECASE)
_LEAD = re.compile(  # "Final answer: The final answer is"
    r"[\s*_#]*(?:so|thus|therefore|hence)?[,\s]*(?:the|my|our)?\s*(?:final"
    r"|correct|right|best)?[\s*_#]*|[\s*_#]*(?:所以|因此|综上|故)?[，,]?(?:最终"
    r"|正确)?的?[\s*_#]*", re.IGNORECASE)
_NOT_BUT = re.compile(
    r"(?:certainly |clearly |surely |definitely )?not\b[^\n.。]{0,80}?"
    r"(?:[,;]?\s+but(?:\s+(?:rather|instead|is|it is))?\s+|[,;]\s+it is\s+)",
    re.IGNORECASE)
_NOT = re.compile(r"\s*(?:not|never|neither)\b", re.IGNORECASE)
_ZH_NOT_BUT = re.compile(r"[^\n。]{0,40}?[，,]?\s*而是")
_ZH_DENIED = re.compile(r"[不非没未无]|错误")
_SENTENCE = re.compile(r"[。；！？?]|(?<!\d)!|\.(?=[\s*\"')\]]|\Z)|\n")
MOST = 200  # number of statements of a text, the last ones, that are considered
_CLOSINGS = {"`": "`", "'": "'", '"': '"', "“": "”", "[": "]", "{": "}"}
_ASKED = 60  # longest statement, in characters, that "?" makes a question
_BESIDE = re.compile(
    r"(?:[\s*_`]{0,4}[,;]\s{0,4}|[\s*_`]{1,4})(?:(?:and|but)\s+)?(?:(?:not"
    r"|rather than|instead of|as opposed to)\s+[^\s.!]|because\b|since\b).*"
    r"|\s{0,4}[,，;；]?\s{0,4}(?:而不是|而非|不是|因为|由于).*",
    re.IGNORECASE | re.DOTALL)
_HEDGED = re.compile(
    r"\b(?:or|maybe|perhaps|possibly|could|might|may|yes|no|true|false|not|wrong"
    r"|actually|instead|rather|but|however|answer|unless|if|also|and)\b|n['’]t\b",
    re.IGNORECASE)


class Statement(NamedTuple):
  """One place where a text states an answer.

  Attributes:
    rest: the text after "the answer is", up to the next such place.
    below: whether "the answer is" ends its line.
    end: index in the text of the end of the first sentence of `rest`.
    denied: whether the text denies or only supposes the answer.
    marked: whether #### introduces it: the rest of the line is the answer.
  """

  rest: str
  below: bool
  end: int
  denied: bool
  marked: bool


def stated(text: str, marks: re.Pattern[str] = _ANSWER) -> list[Statement]:
  """The statements of a text, in order.

  Args:
    text: to search.
    marks: pattern that introduces a statement, with the groups of `ANSWER`; by
      default "the answer is", "答案是" and the like, and #### in the last line.
  """
  matches = list(marks.finditer(text))[-MOST:]
  marked = matches and matches[-1]["mark"] and (
      "\n" not in text[matches[-1].end():].strip())
  # #### in the last line marks the answer, whatever was stated before it.
  # Elsewhere such lines are headings.
  matches = [match for match in matches if bool(match["mark"]) == bool(marked)]
  ends = [match.start() for match in matches[1:]] + [len(text)]
  return [
      _statement(text, match, end) for match, end in zip(matches, ends)
      if not _LEAD.fullmatch(text, match.end(), min(end, match.end() + 60))
      or end > match.end() + 60]


def claimed(text: str, marks: re.Pattern[str] = _ANSWER,
            options: Iterable[str] = ()) -> tuple[list[Statement], str, str]:
  """The statements that are not denied.

  Args:
    text: to search.
    marks: as in `stated`.
    options: texts of options that may follow a letter: "A. No, never" is no
      retraction if that is the text of option A.

  Returns:
    (statements that hold, text to search otherwise, reason why none holds or
    ""). The second is the text after the last statement if all are denied, ""
    if the last one is retracted, else the whole text.
  """
  found = stated(text, marks)
  holding = [one for one in found if not one.denied]
  if len(holding) > 1:  # a single one may be "not enough information"
    holding = [one for one in holding if not _NOT.match(one.rest)] or holding
  if holding and denial.retracted(text, _behind(
      text, holding[-1].end, options)):
    return [], "", "denied"
  if holding or not found:
    return holding, text, ""
  return [], text[found[-1].end:], "denied"


def _behind(text: str, end: int, options: Iterable[str]) -> int:
  """The end of an option's text that follows `end`, else `end`."""
  rest = text[end:end + 400].casefold()
  start = len(rest) - len(rest.lstrip(" .,:;)]\n–—-"))
  for option in options:
    if option and rest.startswith(option.casefold(), start):
      return end + start + len(option)
  return end


def beside(text: str) -> str:
  """An answer without appendices such as ", not 5" and "because ...".

  A further sentence is removed too, unless it may change the answer.
  """
  first, stop, more = text.partition(". ")
  if stop and more[:1].isupper() and not _HEDGED.search(more):
    text = first
  match = _BESIDE.search(text)
  return text[:match.start()] if match and match.start() else text


def _statement(text: str, match: re.Match[str], end: int) -> Statement:
  names = match.groupdict()
  start = match.end()
  before = text[max(0, match.start() - denial.REACH):match.start()]
  if _NAMED.match(match.group()):
    denied = denial.wrong_answer(before)
  else:  # "the wrong statement is B" may be what the question asks for
    denied, before = False, _ADJECTIVE.sub("", before)
  denied = not names["mark"] and (
      denied or denial.denied(before)
      or denial.denied(names.get("middle") or "", block=True))
  if _ZH_DENIED.search(names.get("zh") or ""):
    other = _ZH_NOT_BUT.match(text, start, end)
    denied, start = denied or not other, other.end() if other else start
  elif other := _NOT_BUT.match(text, start, end):
    start = other.end()
  rest = text[start:end]
  first = len(rest) - len(rest.lstrip())
  # A quotation or a literal may contain full stops and any words.
  closing = _CLOSINGS.get(rest[first:first + 1])
  if closing:
    line = rest.find("\n", first)
    first = max(first, rest.rfind(
        closing, first + 1, line if line >= 0 else len(rest)))
  stop = _SENTENCE.search(rest, first)
  at = start + (stop.start() if stop else len(rest))
  denied = denied or at - start < _ASKED and denial.asked(text, at)
  return Statement(
      rest, "\n" in match.group(), at, denied, bool(names["mark"]))
