"""The number or formula that a text gives as its answer.

For data sets whose answers are numbers at the end of a text without a box.
Texts are untrusted and may be long: every pattern here takes linear time.
"""

from __future__ import annotations

import re

from r1jax.rewards.answers import denial, statements

_LINE = 400  # characters of a statement
_SENTENCE = re.compile(r"[。；！?？]|(?<!\d)!|\.(?:\s|\*|$)")
_PIECE = re.compile(
    r"\$[^$\n]{1,300}\$|\\\([^\n]{1,300}?\\\)|"
    r"(?<![\w.\\{}^])[-−–]?\s?(?:\\?\$|[¥￥€£])?\s?-?"
    r"\d+(?:(?:,|\{,\})\d{3}(?!\d))*(?:\.\d+)?(?:/\d+)?\s?(?:\\?%)?", re.ASCII)
# Text that may follow a number as a part of it: 24!, 24^2, 24 thousand, 24万.
_TAIL = re.compile(
    r"(?<=\d)[A-Za-z]\w{0,12}"
    r"|(?![*_]{1,3}(?:[\s.,;:!?)。，；]|$))"  # the end of bold or italics
    r"[ \t]?(?:[\^!_*/+=×÷(][^\s,.;。，；]{0,40}"
    r"|(?:and a half|hundreds?|thousands?|millions?|billions?|trillions?"
    r"|dozens?|score|per ?cent (?:less|more|off|higher|lower|of)|half|halves"
    r"|thirds?|quarters?|[a-z]{2,12}ths?|fifths?|squared|cubed|factorial"
    r"|repeating|recurring|below|above|negative|or (?:more|less|fewer|so)|point"
    r"|over|plus|minus|times|divided|mod|(?:in )?base)\b|[½⅓⅔¼¾]"
    r"|[-−–]\s?[A-Za-z](?![A-Za-z])"
    r"|(?=[\u4e00-\u9fff]{0,3}[半折成倍万亿千百分余多])[\u4e00-\u9fff]{1,4}"
    r"|(?:以[上下内外]|左右|上下|的[^\s。，,.;；]{1,10}))",
    re.IGNORECASE)
# Text right before a number that changes its value: "half of 24".
_CHANGED = re.compile(
    r"(?:\b(?:half|halves|thirds?|quarters?|fourths?|fifths?|tenths?|twice"
    r"|thrice|double|triple|quadruple|square|cube|root|reciprocal|inverse"
    r"|opposite|multiples?|factors?|divisors?|powers?|logarithm|factorial"
    r"|negative|minus|plus|times|multiplied|divided|per ?cent|percentage|nearly"
    r"|almost|close|approaching)\s+(?:(?:of|by|to|from|the|a|an|number)\s+)*"
    r"|%\s*of\s+(?:the\s+)?|\b(?:log|ln|lg|sin|cos|tan|exp|sqrt)[\s(]*"
    r"|(?<![A-Za-z])[A-Za-z]\(|√\(?\s*|\d\s*\*\s*|[\w)]\s*[+/×÷^]\s*"
    r"|\b(?:says?|said|claims?|claimed|thinks?|thought|believes?|believed"
    r"|guess|guesses|guessed)\s*:?\s*(?:(?:that|it|is|was)\s+)*"
    r"|[负近约]|接近|差不多)\s*(?:\\?\$)?\Z", re.IGNORECASE)
# Words before or after a number that make it no answer.
_DENIED = re.compile(
    r"\b(?:not|never|cannot|neither|nor|than|at least|at most|under|over|below"
    r"|above|up to|exceeds?|instead of|wrong|incorrect|about|around|roughly"
    r"|false|untrue|doubt|no longer|hardly|far from|anything but|all but"
    r"|except|opposite|if|suppose|assum\w{1,3}|whether|unless|could|might|may"
    r"|is (?:it|the answer)|non|contrary|(?:some|many|they|people) (?:\w+ )?"
    r"(?:say|think|believe))\b|n['’]t\b|[≠<>≤≥]|\\(?:neq?|leq?|geq?)\b"
    r"|不|并非|小于|大于|超过|至少|至多|最多|少于|多于|而非|大约|约为|如果|假如|假设|若|是否"
    r"|错误|[¬~]|\\\\[xb]?cancel|\\\\sout|\\(?:neg|lnot)\b|非\s*$",
    re.IGNORECASE)
_DENIED_AFTER = re.compile(
    r"[^\n,.;:，。；]{0,12}?[ \t]{0,3}(?:(?:is|was|are|would be)[ \t]{1,3}"
    r"(?:not|never|wrong|incorrect|false|untrue|too|impossible"
    r"|an? (?:wrong|lower|upper))|(?:is|was|does|do)n['’]t|(?:does|do) not"
    r"|fails|cannot|unless|不是|不对|是错|[?？]|吗)|[\s,—–-]{1,4}(?:or|no)\b",
    re.IGNORECASE)
_CLAUSE = re.compile(
    r"[,;:，；：。!?\n]|\.\s|\b(?:so|but|hence|thus)\b")
_REASON = re.compile(
    r"\s*\((?:since|because|as|i\.e\.|from|using|因为)[^()]{0,200}\)")
_BECAUSE = re.compile(
    r"\s*,?\s*(?:\b(?:because|since)\b|因为|由于)", re.IGNORECASE)
_LISTED = re.compile(
    r"[\s,;、，；/|]*(?:\b(?:or|and|maybe|perhaps|possibly)\b|或者?|和|又或)?"
    r"[\s,;、，；/|]*(?:\b(?:maybe|perhaps|possibly)\b)?\s*", re.IGNORECASE)


def stated(text: str) -> tuple[list[str], str]:
  """The answers that the text states, in order.

  They are the texts after "the answer is" and the like, up to the end of the
  sentence; or, if there is none, the last number or formula. A number in a list
  of numbers is returned as the whole list, so that "3 or 4" is not read as 4.

  Returns:
    (answers, reason): the reason says why there is no answer although something
    is stated, else it is "".
  """
  holding, left, reason = statements.claimed(text)
  answers = []
  for one in holding:
    if one.marked:
      answers.append(one.rest.partition("\n")[0].strip())
      continue
    line = _REASON.sub("", one.rest[:_LINE].partition("\n")[0])
    sentence = _SENTENCE.split(line, maxsplit=1)[0].strip(" *_:：")
    sentence = _BECAUSE.split(sentence, maxsplit=1)[0]
    pieces = list(_PIECE.finditer(sentence))
    if sentence:
      one = len({p.group().strip() for p in pieces}) == 1
      answers.append(_with_tail(sentence, pieces[0]) if one else sentence)
  if answers or reason and not left.strip():
    return answers, "" if answers else reason
  pieces = list(_PIECE.finditer(left))
  if not pieces:
    return [], reason
  if denial.retracted(left, pieces[-1].end()):
    return [], "denied"
  first = len(pieces) - 1
  while first and _LISTED.fullmatch(
      left, pieces[first - 1].end(), pieces[first].start()):
    first -= 1
  if first == len(pieces) - 1:
    return [_with_tail(left, pieces[-1])], ""
  return [left[pieces[first].start():pieces[-1].end()].strip()], ""


def _with_tail(text: str, piece: re.Match[str]) -> str:
  """A number with its suffix; its clause (never equal to it) if it is denied.
  """
  before = text[max(0, piece.start() - 60):piece.start()]
  clause = _CLAUSE.split(denial.PHRASES.sub(" not ", before))[-1]
  tail = _TAIL.match(text, piece.end())
  if before.endswith("!") or _DENIED.search(clause) or (
      _CHANGED.search(before) or _DENIED_AFTER.match(text, piece.end())
      or denial.taken_back(text, piece.end())):
    return f"{clause}{piece.group()} ..."
  value = piece.group().strip()
  left, equals, right = value.rpartition("=")
  if equals and value[0] in "$\\" and not re.search(
      r"[A-Za-z]", re.sub(r"\\[A-Za-z]+", "", left)):
    value = right.strip("$ ").removesuffix("\\)").strip()  # 2 * 12 = 24
  return value + (tail.group() if tail else "")
