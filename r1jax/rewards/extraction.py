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
_SENTENCE = re.compile(r"[。；!！?？]|\.(?:\s|\*|$)")
_PIECE = re.compile(
    r"\$[^$\n]{1,300}\$|\\\([^\n]{1,300}?\\\)|"
    r"(?<![\w.\\{}^])[-−]?\s?(?:\\?\$|[¥￥€£])?\s?-?"
    r"\d+(?:,\d{3})*(?:\.\d+)?(?:/\d+)?\s?(?:\\?%)?", re.ASCII)
_LISTED = re.compile(
    r"[\s,;、，；/|]*(?:\b(?:or|and|maybe|perhaps|possibly)\b|或者?|和|又或)?"
    r"[\s,;、，；/|]*(?:\b(?:maybe|perhaps|possibly)\b)?\s*", re.IGNORECASE)


def boxes(text: str) -> tuple[list[str], bool]:
  """Contents of the `\\boxed{...}` whose braces balance, as they end in `text`.

  Returns:
    the contents, stripped, outermost boxes only, and whether any box lies in
    another one.
  """
  found: list[str] = []
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
          found.append(text[start:match.start()].strip())
    elif token.endswith("{") and token != "\\{":
      is_box = len(token) > 1
      opened.append(match.end() if is_box else None)
      depth += is_box
  return found, nested


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
  found = []
  starts = list(_STATEMENT.finditer(text))
  ends = [m.start() for m in starts[1:]] + [len(text)]
  for match, end in zip(starts, ends):
    line = text[match.end():min(end, match.end() + 400)].partition("\n")[0]
    sentence = _SENTENCE.split(line, maxsplit=1)[0].strip(" *_:：")
    pieces = [p.group().strip() for p in _PIECE.finditer(sentence)]
    if sentence:
      found.append(pieces[0] if len(set(pieces)) == 1 else sentence)
  if found:
    return found
  pieces = list(_PIECE.finditer(text))
  if not pieces:
    return []
  first = len(pieces) - 1
  while first and _LISTED.fullmatch(
      text, pieces[first - 1].end(), pieces[first].start()):
    first -= 1
  return [text[pieces[first].start():pieces[-1].end()].strip()]
