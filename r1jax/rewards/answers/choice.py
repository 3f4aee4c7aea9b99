"""Accuracy of multiple choice: one option, named by its letter or its text."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING

from r1jax.rewards.answers import boxes, denial, statements
from r1jax.rewards.score import Score

if TYPE_CHECKING:
  from r1jax.core.prompt import Prompt
  from r1jax.rewards.response import Response

_MAX_CHARS = 2000  # longest box or marked answer that may name an option
_MAX_STATEMENTS = 50
_FULL_WIDTH = str.maketrans(
    {chr(0xFEE0 + code): chr(code) for code in range(0x21, 0x7F)}
    | {"。": ".", "、": ",", "【": "[", "】": "]", "“": '"', "”": '"'})
_STYLE = re.compile(
    r"\\(?:text|textbf|mathrm|mathbf|textit|mbox|boldsymbol)\b\s*|"
    r"\\[()\[\],;:! ]|\\q?quad\b|[*_`{}$]|(?<=\w)~")
_BARE = re.compile(r"\s*[(\[]?\s*([A-Ja-j])\s*[)\]]?\s*[.,:;]?\s*", re.ASCII)
_LABEL = re.compile(
    r"\s*(?:(?:either|both|probably|most likely|likely|clearly|simply)\s+)?"
    r"(?:(?:option|choice|answer|选项|选)\s*:?\s*)?[\"'(\[]*\s*"
    r"([A-J])(?![A-Za-z0-9'’^_=+-])\s*([\"')\].,:;]*)\s*", re.IGNORECASE)
_ALSO = re.compile(
    r"[\s\"')\].;,:]*(?:\b(?:and|or|maybe|perhaps|possibly|both|either|plus"
    r"|as well as|along with|together with|unless|except(?: when| if)?)\b|或者?"
    r"|和|及|与|/|&|,|;|\||\s|\.)*\s*(?:(?:option|choice|选项)\s*)?[\"(\[]*"
    r"([A-J])(?![A-Za-z0-9'’])", re.ASCII)
_STATED = re.compile(
    rf"(?=[aocs答因所综故正错符选#])(?:{statements.ANSWER}"
    r"|\b(?:option|choice|conclusion|statement|claim|assertion)"
    r"(?:\s+(?:that|which)\s+(?:is|are)\s+(?:not\s+)?\w{2,12})?\s*"
    r"(?:is|would be|must be|should be|:|=)\s*:?"
    r"|\banswer\s+(?:[-–—]+\s*)?(?=\(?[A-J]\b\)?\s*(?:[.\n]|$))"
    r"|\b(?:choose|select)\s+(?:(?:option|choice|answer)\s+)?"
    r"(?=[\"(\[]?[A-J][\")\]]?\s*(?:[.,;\n]|$|because|since))"
    r"|(?:正确|错误|符合题意)的?\s*(?:选项|说法|一项|结论)?\s*(?:是|为|:)\s*:?"
    r"|(?<![不可])选\s*(?:择)?\s*:?\s*"
    r"(?=[\"(\[]?[A-J](?![a-z])))", re.IGNORECASE)
_CONFIRMED = re.compile(
    r"(?<![A-Za-z0-9'’])[(\[]?([A-J])[)\]]?\s+(?:is|must be)\s+(?:the\s+"
    r"|clearly\s+|therefore\s+)*(?:only\s+)?(?:correct|right|best|true)\b"
    r"|([A-J])\s*(?:选项)?\s*(?:是正确|正确)(?!吗|与)")
_LINE = re.compile(
    r"^[ \t]*[(\[]?([A-J])(?:[)\]][.:]?|[.:])?[ \t]*$"
    r"|^[ \t]*(?:\(([A-J])\)|\[([A-J])\]|([A-J])[).:])[ \t]*(\S[^\n]*)$",
    re.MULTILINE)
_SENTENCE = re.compile(r"\n|\.\s+(?=[A-Z][a-z]|[\u4e00-\u9fff])|[!?](?:\s|$)")
_REJECTED = re.compile(
    r"(?:is|was|are|seems)\s+(?:not|incorrect|wrong|false|never|im|un)"
    r"|isn|cannot|can't|incorrect|wrong|(?:是|选项)?\s*(?:错|不)|吗|or\b|或",
    re.IGNORECASE)
_CONDITIONAL = re.compile(
    r"[\s,]*(?:only\s+)?(?:if|when|provided)\b.{1,80}?\b(?:otherwise|else"
    r"|if not)\b|[\s,]*如果.{1,40}?否则", re.IGNORECASE)
_ARTICLE = re.compile(r" (?!or\b|and\b)[A-Za-z]{2,}")
_REASONS = re.compile(r"\b(?:because|since|not|as|while|whereas|so|but)\b")
_LISTED = re.compile(
    r"(?:[,;]|\bor\b|\band\b|或|和)\s*\(?([B-H])\b(?:[).:]|\s+(?!is\b)[a-z])")
_LEADS_ON = re.compile(r"\s*(?:→|⇒|->|=>|\\(?:to|[rR]ightarrow)\b)")
_AS_GOOD = re.compile(
    r"\b([A-J])\s+(?:is|may be|could be|might be)\s+(?:also|equally|just as)\b")
_SPACES = re.compile(r"[\s.,;:!?\"'()\[\]]+")


def verify(prompt: Prompt, response: Response) -> Score:
  """1 if the one option that the answer settles on is the reference's.

  The reference is {"answer": "B", "options": {"A": text, ...}}. A box is used
  if there is one, else an `<answer>` element, else what the text states ("the
  answer is (B)", 故选B, "B is correct", a line that is only "B"). An option's
  whole text counts as its letter if no other option has the same text. Letters
  inside words and the article "A" do not count.

  Reasons: "correct", "wrong", "no answer", "nested boxes", "two answers"
  (several letters, or a letter with another option's text) and "no such
  option".
  """
  gold, options = prompt.reference["answer"], prompt.reference["options"]
  contents, reason = boxes.claimed(response.answer)
  if reason:
    return Score(0.0, True, reason)
  if contents:
    letters: set[str] = set()
    for content in contents:
      letters |= _piece(content, options)
    # A box may hold an intermediate formula; what is stated after it counts.
    last = boxes.boxes(response.answer)[0][-1]
    after = _clean(response.answer[last.end:])
    letters |= _explicit(after, options)[0] if letters else _stated(
        after, options)
    if letters and not _piece(contents[-1], options) and not _stated(
        after, options):
      return Score(0.0, True, "no answer")
  else:
    text = _clean(response.answer)
    letters = _piece(text, options) if response.marked else set()
    letters = letters or _stated(text, options)
  if not letters:
    return Score(0.0, True, "no answer")
  if len(letters) > 1:
    return Score(0.0, True, "two answers")
  (letter,) = letters
  if options and letter not in options:
    return Score(0.0, True, "no such option", answer=letter)
  right = letter == gold
  return Score(float(right), True, "correct" if right else "wrong",
               answer=letter)


def _clean(text: str) -> str:
  return _STYLE.sub(" ", text.translate(_FULL_WIDTH)).strip()


def _piece(text: str, options: Mapping[str, str],
           loose: bool = False) -> set[str]:
  """The letters of the options that a short text names.

  If nothing says that the text is the answer (`loose`), a letter must be marked
  by a bracket, a full stop or the word "option".
  """
  if match := _BARE.fullmatch(text):
    return {match.group(1).upper()}
  text = _clean(text)
  if len(text) > _MAX_CHARS:
    return set()
  if match := _BARE.fullmatch(text):
    return {match.group(1).upper()}
  if letters := _texts(text, options):
    return letters
  if re.fullmatch(r"[A-J]{2,10}", text):
    return set(text)  # several options at once
  match = _LABEL.match(text)
  if not match or match.group(1).islower() and not match.group(2):
    return set()
  letter, mark = match.group(1).upper(), match.group(2)
  rest = text[match.end():]
  if letter in "AI" and not mark and re.match(r"[a-z]", rest) and (
      text.lstrip()[0] in "AI" and not _is_verb(rest)):
    return set()  # the article, the pronoun
  if _normal(rest) == _normal(options.get(letter, "")) != "":
    return {letter}
  if _LEADS_ON.match(rest):
    return set()
  named_letters = {letter}
  at = match.end(1)
  while also := _ALSO.match(text, at):
    other = also.group(1)
    if other == "A" and _ARTICLE.match(text, also.end()) or (
        options and other not in options):
      break
    named_letters.add(other)
    at = also.end()
  if loose and len(named_letters) == 1 and not mark and rest and (
      match.start(1) == 0):
    return set()  # a line that happens to begin with a letter
  if len(named_letters) == 1 and _REJECTED.match(rest):
    return {letter, ""} if rest[:2] in ("or", "或") else set()
  if _CONDITIONAL.match(rest):
    return {letter, ""}
  reasons = _REASONS.search(rest)
  listed = _LISTED.findall(rest[:reasons.start()] if reasons else rest)
  return named_letters | _texts(rest, options) | set(listed) | set(
      _AS_GOOD.findall(rest))


def _is_verb(rest: str) -> bool:
  return re.match(r"(?:is|because|since|as|and|or|which)\b", rest) is not None


def _texts(text: str, options: Mapping[str, str]) -> set[str]:
  """The option with exactly this text; none if several have it."""
  wanted = _normal(text)
  if not wanted or not options:
    return set()
  letters = {letter for letter, option in options.items()
             if option and len(option) < len(text) + 40
             and _normal(option) == wanted}
  return letters if len(letters) == 1 else set()


def _normal(text: str) -> str:
  return _SPACES.sub(" ", _clean(text)).strip().casefold()


def _stated(text: str, options: Mapping[str, str]) -> set[str]:
  """The letters that the text gives as its answer, in all statements."""
  letters, left = _explicit(text, options)
  return letters or _implied(left, options)


def _explicit(text: str, options: Mapping[str, str]) -> tuple[set[str], str]:
  """(letters after "the answer is" and the like, the text to search else)."""
  letters: set[str] = set()
  holding, left, _ = statements.claimed(
      text, _STATED, map(_clean, options.values()))
  for one in holding[-_MAX_STATEMENTS:]:
    line = one.rest[:300].strip().partition("\n")[0]
    sentence = _SENTENCE.split(line, maxsplit=1)[0]
    label = _LABEL.match(line)
    # A full stop inside the option's own text ends no sentence.
    own = label and options.get(label.group(1).upper(), "")
    letters |= _piece(line if own and _normal(own) == _normal(
        line[label.end():]) else sentence, options)
  return letters, left


def _implied(text: str, options: Mapping[str, str]) -> set[str]:
  """Letters in "B is correct", a line that is only a letter, the last line."""
  letters: set[str] = set()
  for match in list(_CONFIRMED.finditer(text))[-_MAX_STATEMENTS:]:
    before = text[max(0, match.start() - denial.REACH):match.start()]
    if denial.denied(before, block=True) or before.rstrip().endswith(
        ("if", "whether", "that")):
      continue
    if denial.retracted(text, match.end()):
      return set()
    letters.add(match.group(1) or match.group(2))
  if letters:
    return letters
  lines = list(_LINE.finditer(text))
  last = text.rstrip().rpartition("\n")[2].strip()
  if lines and lines[-1].end() >= len(text.rstrip()):
    full = lines[-1].group(1) is None  # "B. mitochondria", not "B"
    for line in lines:
      letter = line.group(1) or line.group(2) or line.group(3) or line.group(4)
      if full or line.group(1):
        letters.add(letter)
    return letters | _piece(last, options, True)
  bare = {line.group(1) for line in lines if line.group(1)}
  first = text.partition("\n")[0]
  if len(bare) == 1 and _BARE.fullmatch(first) and not (
      denial.retracted(text, len(first))):
    return bare  # a letter, then reasons
  return _piece(last, options, True)
