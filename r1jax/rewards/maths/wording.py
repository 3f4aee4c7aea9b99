"""Words around an answer: labels, conditions, remarks, fixed phrases."""

from __future__ import annotations

import re

from r1jax.rewards.maths import expressions, regions
from r1jax.rewards.maths.notation import (
  END,
  FUNCTIONS,
  GAP,
  WORDS,
  closing,
  depths,
  squeezed,
)
from r1jax.rewards.maths.trees import names

_PHRASES = {
    "none": """no solution;no solutions;there is no solution;there are no
      solutions;none;no real solution;no real solutions;empty set;the empty set
      ;\\emptyset;does not exist;dne;no such number;无解;空集;no roots""",
    "infinite": """infinitely many;infinite;there are infinitely many;infinity
      ;infinitely many solutions;there are infinitely many solutions;无穷多
      ;无数;an infinite number;\\infty;无限多""",
    "yes": "yes;true;是;正确;对",
    "no": "no;false;否;错误;错",
    "reals": """all real numbers;all reals;\\mathbb{r};all real values
      ;all real values of x;every real number;any real number;(-\\infty,\\infty)
      ;all real x;全体实数;所有实数;the set of all real numbers
      ;all real numbers x""",
}
_PHRASE = {re.sub(r"\s+", " ", phrase).strip(): name
           for name, spellings in _PHRASES.items()
           for phrase in re.split(r"\s*;", spellings.strip())}
_PHRASE |= {"-\\infty": "-infinite", "-infinity": "-infinite",
            "negative infinity": "-infinite", "+\\infty": "infinite",
            "inf": "infinite", "-inf": "-infinite", "+infinity": "infinite"}
_LABEL = re.compile(
    rf"\s*(?:{WORDS}\s*)?(?:the\s+)?(?:final\s+)?(?:answers?|ans\.?|result"
    r"|solutions?|total|value|答案|结果|答)"
    rf"(?:\s+is)?\s*(?:{END}\s*)?[:：=]?\s*(?:{END}\s*)?(?:is\s)?\s*[=:]?\s*"
    r"(?=\S)", re.IGNORECASE)
_REMARK = re.compile(
    rf"\s*[,;]?\s*(?:{WORDS}\s*)?[(\[]?\s*(?:{WORDS}\s*)?"
    r"(?:approximately|approx\.?|exactly|only|double root|repeated root"
    r"|a double root|multiplicity \d|with multiplicity \d|doubled"
    r"|is the only (?:(?:real|integer|possible|positive|such) )?"
    r"(?:solution|root|value|answer|possibility)|约|近似)"
    rf"\s*(?:{END})?\s*[)\]]?\s*(?:{END})?\s*\Z", re.IGNORECASE)
_REMARKED = ("approx", "exactly", "only", "root", "multiplicity", "doubled",
             "约", "近似")
_ONLY = re.compile(
    rf"\s*(?:{WORDS}\s*)?(?:only|exactly|just|仅|只有)\s*(?:{END}\s*)?(?=\S)",
    re.IGNORECASE)
_CLAUSE = re.compile(
    rf"\s*[,;，；]?\s*[(\[]?\s*(?:{WORDS}\s*|{GAP}\s*)*[(\[]?\s*(?:for\s+"
    r"(?:all|any|every|each|some)\b|for\b|where\b|when\b|whenever\b|with\b"
    r"|if\b|provided(?:\s+that)?\b|such that\b|\\forall(?![A-Za-z])|其中"
    r"|对任意|对所有|对一切|当)\s*", re.IGNORECASE)
_STARTS = re.compile(
    rf"[,;，；({GAP}]|\\forall|其中|对|当|\b(?:for|where|when|with|if|provided"
    r"|such)", re.IGNORECASE)
_CONDITION = re.compile(
    r"\s*(?:\\forall\s*)?([A-Za-z]|\\[a-z]+)(?:_\w)?\s*"
    r"(?:\\in(?![A-Za-z])|\\ne(?![A-Za-z])|\\le|\\ge|[<>]|为|是"
    rf"|{WORDS}\s*(?:is|are)\b|is\b)")
_CHAINED = re.compile(
    r"[^<>=,]{1,30}(?:<|>|\\le|\\ge)\s*([A-Za-z]|\\[a-z]+)\s*"
    r"(?:(?:<|>|\\le|\\ge)[^<>=,]{1,30})?")
_CONDITIONS = frozenset(
    "all any every each some real integer integers nonnegative non negative"
    " positive natural number numbers constant constants rational is are an and"
    " with in odd even prime arbitrary where for the of whole fixed be being"
    " not zero nonzero when if such that".split())
_CONDITIONS_CJK = re.compile(
    "[其中为是正负非整数实有理自然常任意所一切对当时的且与和或不等于零大小若任何某个取均都]+")
_SAID = re.compile(r"[^\W\d_\u4e00-\u9fff]{2,}|[\u4e00-\u9fff]+")
_INTEGER = re.compile(
    r"\\mathbb\{?[ZN]\}?|integer|natural|整数|自然数|whole number")
_SET_OF = re.compile(r"\\mathbb\{?([RQC])\}?")
_PUNCTUATION = re.compile(r"[\s.,;!?\"`*]+")
_ORDINAL = re.compile(r"(?<=\d)(?:st|nd|rd|th)\b")
_NOON = re.compile(r"(?<=\d)\s*([ap])\.?\s?m\b\.?", re.IGNORECASE)
_TIME = re.compile(r"(\d{1,2})(?:\s?:\s?(\d\d))?\s*(?:([ap])\.?\s?m\b\.?)?",
                   re.IGNORECASE)
_WORDY = re.compile(r"[^\W\d_]{3,}|[\u4e00-\u9fff]")
_COMMAND = re.compile(r"\\[A-Za-z]+")
_NAMES = FUNCTIONS | {"sqrt", "cbrt", "xyz", "abc"}


def unlabelled(text: str) -> str:
  """`text` without "Answer:", "only", "(double root)", "(approximately)"."""
  if match := _LABEL.match(text):
    text = text[match.end():]
  if match := _ONLY.match(text):
    text = text[match.end():]
  lower = text.casefold()
  if any(word in lower for word in _REMARKED) and (
      match := _REMARK.search(text)):
    text = text[:match.start()]
  return text.strip()


def split_condition(text: str) -> tuple[str, str]:
  """(statement, condition), or (text, "") without a condition.

  `2n+1, n \\in \\mathbb{Z}`, `\\sqrt{x} \\text{ when } x>0`, `... for all x`.
  The condition must be on a variable of the statement.
  """
  if not _STARTS.search(text):
    return text, ""
  deep = depths(text)
  for at, character in enumerate(text):
    start = None
    if not deep[at] and at:
      clause = _CLAUSE.match(text, at)
      if character == "(" and closing(text, at) != len(text) - 1:
        continue
      if clause and clause.end() < len(text):
        start = clause.end()
      elif character in ",;(" + GAP:
        start = at + 1
    if start is None:
      continue
    main = text[:at].strip(" ,;" + GAP)
    rest = text[start:].strip(" ,;" + WORDS + END + GAP)
    if character == "(" and rest.endswith(")") or rest.count(
        ")") > rest.count("("):
      rest = rest.removesuffix(")").strip(" " + WORDS + END)
    if main and _conditional(main, rest, start > at + 1):
      return main, rest
  return text, ""


def same_condition(a: str, b: str) -> bool:
  """Whether two conditions agree; True if one of them is missing."""
  if not a or not b or squeezed(a) == squeezed(b):
    return True
  if _INTEGER.search(a) and _INTEGER.search(b):
    return True
  x, y = regions.read(a), regions.read(b)
  if x and y:
    return regions.same(x, y)
  return _words(a) == _words(b)


def _conditional(main: str, rest: str, worded: bool) -> bool:
  said = _SAID.findall(
      _COMMAND.sub(" ", rest).replace(WORDS, " ").replace(END, " "))
  if "!" in rest or "'" in rest or not all(
      word.casefold() in _CONDITIONS or _CONDITIONS_CJK.fullmatch(word)
      for word in said):
    return False  # unknown words may mean anything
  if regions.RELATION.search(main) and "=" not in main or "\\in" in main:
    return False
  match = _CONDITION.match(rest) or _CHAINED.match(rest)
  name = match.group(1) if match else ""
  if not match and worded:
    variable = re.match(
        r"(?:(?:all|any|every|each|some|real|integers?|nonnegative|positive"
        r"|natural|numbers?|constants?|正?整数|实数)\s*)*"
        r"([A-Za-z]|\\[a-z]+)(?![A-Za-z])", rest)
    name = variable.group(1) if variable else ""
    if not name and _INTEGER.search(rest):
      return True
  if not name:
    return False
  return re.search(rf"(?<![A-Za-z\\]){re.escape(name)}(?![a-z])",
                   main) is not None or name in _letters(main)


def _letters(main: str) -> frozenset[str]:
  node = expressions.read(main.rpartition("=")[2].strip())
  return names(node) if node else frozenset()


def phrase(text: str) -> str:
  """The fixed phrase that a text is ("none", "reals", ...), or ""."""
  short = " ".join(text.replace(WORDS, " ").replace(END, " ").casefold()
                   .replace("{ }", "").split()).strip(" .!")
  if not short or len(short) > 60:
    return ""
  return _PHRASE.get(short) or _PHRASE.get(short.replace(" ", ""), "")


def times(value: str, gold: str) -> bool | None:
  """Whether two times of day agree; None if the gold is not a time.

  For a gold without a.m. or p.m. both are right; `4:30` may be 16:30.
  """
  wanted, time_of_day = _time(gold), _time(value)
  if wanted is None or not (wanted[2] or wanted[1] is not None):
    return None
  if time_of_day is None or time_of_day[1] is None and not time_of_day[2]:
    return False if wanted[2] else None
  (h, m, noon), (h2, m2, noon2) = wanted, time_of_day
  if (m or 0) != (m2 or 0) or noon and noon2 and noon != noon2:
    return False
  if noon and not noon2:
    return h2 == h % 12 + 12 * (noon == "p") and (h2 > 12 or noon == "p")
  return h == h2 or h < 13 and h2 == h % 12 + 12 and not noon2


def _time(text: str) -> tuple[int, int | None, str] | None:
  bare = text.replace(WORDS, " ").replace(END, " ").strip()
  match = _TIME.fullmatch(" ".join(bare.split()))
  if not match:
    return None
  hour, minute, noon = match.groups()
  if int(hour) > 24 or minute and int(minute) > 59:
    return None
  return int(hour), int(minute) if minute else None, (noon or "").lower()


def prose(text: str) -> bool:
  """Whether a text consists of words rather than mathematics."""
  bare = _COMMAND.sub(" ", text.replace(WORDS, " ").replace(END, " "))
  words = set(_WORDY.findall(bare)) - _NAMES
  return bool(words) or _words(text) == "no"


def same_words(value: str, gold: str) -> bool:
  """Whether texts are equal up to case, punctuation, articles, "14th" for "14".
  """
  return _words(value) == _words(gold)


def _words(text: str) -> str:
  text = text.replace(WORDS, " ").replace(END, " ")
  text = _NOON.sub(r"\1m", _ORDINAL.sub("", text))
  text = _PUNCTUATION.sub(" ", text).strip().casefold()
  for article in ("the ", "a ", "an "):
    text = text.removeprefix(article)
  return text
