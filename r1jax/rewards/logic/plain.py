"""One spelling for short answers that say the same."""

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
  """One spelling for texts that say the same.

  Compatibility forms (full width), case, runs of white space, TeX's `\\text`,
  Markdown emphasis, quotes and punctuation at the ends do not count, nor the
  brackets of `(A)`, commas behind words, thousands' commas, a plus sign and
  zeros behind a decimal point; in a text without letters and digits white space
  does not count at all (`] )` is `])`).
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
