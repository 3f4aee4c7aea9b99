"""Where the final answer stands in a text: boxes, statements, the last number.

Texts are hostile and may be long: every pattern here is linear.
"""

from __future__ import annotations

import re

_BRACE = re.compile(r"\\f?boxed\s*\{|\\.|[{}]", re.DOTALL)
_MARK = re.compile(r"####([^\n]*)")
_STATEMENT = re.compile(
    r"(?:\banswer\s?(?:is\s?:?|:|=)|答案(?:是|为|：|:)|(?:因此|所以|综上)答案)"
    r"[\s:：*_]*", re.IGNORECASE)
_SENTENCE = re.compile(r"[。；！?？]|(?<!\d)!|\.(?:\s|\*|$)")
_PIECE = re.compile(
    r"\$[^$\n]{1,300}\$|\\\([^\n]{1,300}?\\\)|"
    r"(?<![\w.\\{}^])[-−–]?\s?(?:\\?\$|[¥￥€£])?\s?-?"
    r"\d+(?:(?:,|\{,\})\d{3})*(?:\.\d+)?(?:/\d+)?\s?(?:\\?%)?", re.ASCII)
# What may follow a number, and is part of it: 24!, 24^2, 24 thousand, 24万.
_TAIL = re.compile(
    r"(?<=\d)[A-Za-z]\w{0,12}"
    r"|(?![*_]{1,3}(?:[\s.,;:!?)。，；]|$))"  # the end of bold or italics
    r"[ \t]?(?:[\^!_*/+=×÷(][^\s,.;。，；]{0,40}"
    r"|(?:and a half|hundreds?|thousands?|millions?|billions?|trillions?"
    r"|dozens?|score|percent (?:less|more|off|higher|lower|of)|half|halves"
    r"|thirds?|quarters?|[a-z]{2,12}ths?|fifths?|squared|cubed|factorial"
    r"|repeating|recurring|below|above|negative|or (?:more|less|fewer)|point"
    r"|over|plus|minus|times|divided|mod|base)\b"
    r"|(?=[\u4e00-\u9fff]{0,3}[半折成倍万亿千百分余多])[\u4e00-\u9fff]{1,4})",
    re.IGNORECASE)
# A number is not the answer where the words before or after it deny it.
_DENIED = re.compile(
    r"\b(?:not|never|cannot|neither|nor|than|at least|at most|under|over|below"
    r"|above|up to|exceeds?|instead of|wrong|incorrect|about|around|roughly)\b"
    r"|n['’]t\b|[≠<>≤≥]|\\(?:neq?|leq?|geq?)\b|不是|不等于|并非|小于"
    r"|大于|不到|超过|至少|至多|最多|少于|多于|而非|不为|不可能|大约|约为",
    re.IGNORECASE)
_DENIED_AFTER = re.compile(
    r"[^\n,.;:，。；]{0,12}?[ \t]{0,3}(?:(?:is|was|are|would be)[ \t]{1,3}"
    r"(?:not|never|wrong|incorrect|too|an? (?:wrong|lower|upper))"
    r"|(?:is|was)n['’]t|不是|不对|是错)",
    re.IGNORECASE)
_CLAUSE = re.compile(
    r"[,;:，；：。!?\n]|\.\s|\b(?:so|but|hence|thus)\b")
_REASON = re.compile(
    r"\s*\((?:since|because|as|i\.e\.|from|using|因为)[^()]{0,200}\)")
_LISTED = re.compile(
    r"[\s,;、，；/|]*(?:\b(?:or|and|maybe|perhaps|possibly)\b|或者?|和|又或)?"
    r"[\s,;、，；/|]*(?:\b(?:maybe|perhaps|possibly)\b)?\s*", re.IGNORECASE)


def boxes(text: str) -> tuple[list[str], bool]:
  """Contents of the `\\boxed{...}` whose braces balance, as they end in `text`.

  Returns:
    the contents, stripped, outermost boxes only, and whether any box lies in
    another one.
  """
  contents: list[str] = []
  nested = False
  opened: list[int | None] = []  # where each open brace's box starts, if a box
  depth = 0  # boxes open
  for match in _BRACE.finditer(text):
    token = match.group()
    if token == "}":
      start = opened.pop() if opened else None
      if start is not None:
        depth -= 1
        nested = nested or depth > 0
        if not depth:
          contents.append(text[start:match.start()].strip())
    elif token.endswith("{") and token != "\\{":
      is_box = len(token) > 1
      opened.append(match.end() if is_box else None)
      depth += is_box
  return contents, nested


def stated(text: str) -> list[str]:
  """What the text says that its answer is, the last one last.

  The lines after `####`; or else what follows "the answer is", "答案是" and the
  like up to the end of the sentence; or else the last number or formula. A
  number that stands in a list of numbers brings the whole list, so that
  "3 or 4" is not taken for 4.
  """
  marks = [m.group(1).strip() for m in _MARK.finditer(text)]
  if marks:
    return [mark for mark in marks if mark]
  statements = []
  starts = list(_STATEMENT.finditer(text))
  ends = [m.start() for m in starts[1:]] + [len(text)]
  for match, end in zip(starts, ends):
    line = text[match.end():min(end, match.end() + 400)].partition("\n")[0]
    line = _REASON.sub("", line)
    sentence = _SENTENCE.split(line, maxsplit=1)[0].strip(" *_:：")
    pieces = list(_PIECE.finditer(sentence))
    if not pieces and end < min(len(text), match.end() + 40):
      continue  # "Final Answer: The final answer is ..."
    if sentence:
      one = len({p.group().strip() for p in pieces}) == 1
      statements.append(_with_tail(sentence, pieces[0]) if one else sentence)
  if statements:
    return statements
  pieces = list(_PIECE.finditer(text))
  if not pieces:
    return []
  first = len(pieces) - 1
  while first and _LISTED.fullmatch(
      text, pieces[first - 1].end(), pieces[first].start()):
    first -= 1
  if first == len(pieces) - 1:
    return [_with_tail(text, pieces[-1])]
  return [text[pieces[first].start():pieces[-1].end()].strip()]


def _with_tail(text: str, piece: re.Match[str]) -> str:
  """A number with what belongs to it; its clause where that denies it."""
  before = text[max(0, piece.start() - 60):piece.start()]
  clause = _CLAUSE.split(before)[-1]
  tail = _TAIL.match(text, piece.end())
  if _DENIED.search(clause) or _DENIED_AFTER.match(text, piece.end()):
    return f"{clause}{piece.group()} ..."
  value = piece.group().strip()
  left, equals, right = value.rpartition("=")
  if equals and value[0] in "$\\" and not re.search(
      r"[A-Za-z]", re.sub(r"\\[A-Za-z]+", "", left)):
    value = right.strip("$ ").removesuffix("\\)").strip()  # 2 * 12 = 24
  return value + (tail.group() if tail else "")
