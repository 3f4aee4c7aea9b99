"""Normalises the spelling of short answers."""

from __future__ import annotations

import re
import unicodedata

from r1jax.rewards.logic.literals import MAX_CHARS

TEX = re.compile(r"\\(?:text(?:bf|tt|it|rm)?|math(?:rm|bf|tt))\s*"
                  r"\{([^{}]*)\}")
_NUMBER = re.compile(r"[-+]?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?", re.ASCII)
ENDS = " \t\r\n.,;:!?、*_`\"'“”‘’$"
BULLET = re.compile(r"\A\s*(?:[-*•]|\d{1,3}[.)])\s+")


def plain(text: str) -> str:
  """`text` in normalised spelling, so that texts that mean the same are equal.

  Removed or unified are: compatibility forms (full width), case, runs of white
  space, TeX's `\\text`, Markdown emphasis, quotes and punctuation at the ends,
  the brackets of `(A)`, commas after words, thousands separators, a plus sign,
  and trailing zeros after a decimal point. In a text without letters and digits
  all white space is removed (`] )` becomes `])`).
  """
  if len(text) > MAX_CHARS:
    return text
  text = unicodedata.normalize("NFKC", TEX.sub(r"\1", text)).casefold()
  text = re.sub(r"\\[$()\[\]]", "", text.replace("−", "-").replace("。", "."))
  text = " ".join(re.sub(r"[,;](?=\s)", " ", text).split())
  text = text.rstrip(ENDS).lstrip(ENDS.replace("!", "")) or text
  if len(text) > 2 and text[0] == "(" and text[-1] == ")" and (
      text[1:-1].strip().isalnum()):
    text = text[1:-1].strip()
  if not any(map(str.isalnum, text)):
    return text.replace(" ", "")
  if _NUMBER.fullmatch(text):
    text = text.replace(",", "").removeprefix("+")
    if "." in text:
      text = text.rstrip("0").rstrip(".")
  return text
