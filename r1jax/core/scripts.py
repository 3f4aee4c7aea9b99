"""Counts words by Unicode script, without a table of the whole of Unicode.

  words_by_script("Привет, world! 你好")
  # {"Cyrillic": 1, "Latin": 1, "Han": 2}
"""

from __future__ import annotations

import re
from collections.abc import Collection

# Letters, and the marks that combine with them, as ranges of code points
# (Unicode 15). Historic scripts count as OTHER.
SCRIPTS: dict[str, str] = {
    "Latin": (r"A-Za-z\xaa\xba\xc0-\xd6\xd8-\xf6\xf8-\u02af\u1d00-\u1d25"
              r"\u1e00-\u1eff\u2c60-\u2c7f\ua722-\ua787\ua78b-\ua7ff"
              r"\uab30-\uab5a\ufb00-\ufb06\uff21-\uff3a\uff41-\uff5a"),
    "Greek": (r"\u0370-\u0373\u0376-\u037d\u037f\u0386\u0388-\u03ff"
              r"\u1f00-\u1fff"),
    "Cyrillic": (r"\u0400-\u0481\u048a-\u052f\u1c80-\u1c88\ua640-\ua66e"
                 r"\ua680-\ua69b"),
    "Armenian": r"\u0531-\u0556\u0560-\u0588\ufb13-\ufb17",
    "Hebrew": (r"\u0591-\u05bd\u05bf\u05c1\u05c2\u05c4\u05c5\u05c7"
               r"\u05d0-\u05f2\ufb1d-\ufb4f"),
    "Arabic": (r"\u0620-\u065f\u066e-\u06d3\u06d5-\u06ef\u06fa-\u06ff"
               r"\u0750-\u077f\u08a0-\u08ff\ufb50-\ufbb1\ufbd3-\ufdfb"
               r"\ufe70-\ufefc"),
    "Devanagari": r"\u0900-\u0963\u0971-\u097f\ua8e0-\ua8ff",
    "Bengali": r"\u0980-\u09e3\u09f0\u09f1\u09fc-\u09fe",
    "Gurmukhi": r"\u0a01-\u0a5e\u0a70-\u0a75",
    "Gujarati": r"\u0a81-\u0ae3\u0af9-\u0aff",
    "Oriya": r"\u0b01-\u0b63\u0b71",
    "Tamil": r"\u0b82-\u0bd7",
    "Telugu": r"\u0c00-\u0c63",
    "Kannada": r"\u0c80-\u0ce3\u0cf1-\u0cf3",
    "Malayalam": r"\u0d00-\u0d63\u0d7a-\u0d7f",
    "Sinhala": r"\u0d81-\u0ddf\u0df2\u0df3",
    "Thai": r"\u0e01-\u0e3a\u0e40-\u0e4e",
    "Lao": r"\u0e81-\u0ece\u0edc-\u0edf",
    "Tibetan": r"\u0f00\u0f40-\u0fbc",
    "Myanmar": (r"\u1000-\u103f\u1050-\u108f\ua9e0-\ua9ef\ua9fa-\ua9fe"
                r"\uaa60-\uaa7f"),
    "Georgian": r"\u10a0-\u10ff\u1c90-\u1cbf\u2d00-\u2d2d",
    "Ethiopic": r"\u1200-\u135f\u1380-\u138f\u2d80-\u2dde\uab01-\uab2e",
    "Khmer": r"\u1780-\u17d3\u17d7\u17dc\u17dd",
    "Mongolian": r"\u1820-\u18aa",
    "Hangul": (r"\u1100-\u11ff\u3131-\u318e\ua960-\ua97c\uac00-\ud7a3"
               r"\ud7b0-\ud7fb\uffa1-\uffdc"),
    "Kana": (r"\u3041-\u3096\u309d-\u309f\u30a1-\u30fa\u30fc-\u30ff"
             r"\u31f0-\u31ff\uff66-\uff9f"),
    "Han": (r"\u3005-\u3007\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
            r"\U00020000-\U000323af"),
}
OTHER = "Other"  # every other letter, styled mathematical ones among them
# Scripts without (reliable) spaces between words: every character is a word.
BY_CHARACTER = frozenset(
    {"Thai", "Lao", "Tibetan", "Myanmar", "Khmer", "Hangul", "Kana", "Han"})

MARKS = r"\u0300-\u036f\u1ab0-\u1aff\u1dc0-\u1dff\u20d0-\u20ff\ufe20-\ufe2f"
_KNOWN = "".join(SCRIPTS.values())
_RUN = re.compile("|".join(
    [f"(?P<{name}>[{ranges}][{ranges}{MARKS}]*"
     + ("" if name in BY_CHARACTER else
        rf"(?:['\u2019][{ranges}][{ranges}{MARKS}]*)*") + ")"
     for name, ranges in SCRIPTS.items()]
    + [rf"(?P<{OTHER}>[^\W\d_{_KNOWN}][^\W\d_{_KNOWN}{MARKS}]*)"]))


def words_by_script(text: str, shortest: int = 1) -> dict[str, int]:
  """Counts words: runs of letters of one script.

  In Han, Kana, Hangul, Thai and the like every character is a word. An
  apostrophe within a word belongs to it. Digits, symbols and combining marks
  are not words.

  Args:
    text: any text; the time is linear in its length.
    shortest: minimum length of a word in characters, in scripts that are not
      counted by character. 2 leaves out the variables of mathematics, and the
      English "I" and "a".

  Returns:
    {script: number of words}; the keys are those of `SCRIPTS` and `OTHER`,
    without zero counts.
  """
  counts: dict[str, int] = {}
  for run in _RUN.finditer(text):
    script, length = run.lastgroup, run.end() - run.start()
    if script in BY_CHARACTER:
      counts[script] = counts.get(script, 0) + length
      continue
    if script == OTHER:  # superscript digits and fractions are not letters
      length = sum(map(str.isalpha, run.group()))
    if length >= max(1, shortest):
      counts[script] = counts.get(script, 0) + 1
  return counts


def keep(text: str, scripts: Collection[str]) -> str:
  """The text with every run of letters of other scripts replaced by a space."""
  return _RUN.sub(
      lambda run: run.group() if run.lastgroup in scripts else " ", text)


_BY_SCRIPTS = {  # ISO 639-1 codes by scripts
    ("Latin",): (
        "af az bs ca cs cy da de en eo es et eu fi fr ga gl hr hu id is it jv"
        " la lt lv ms mt nb nl nn no pl pt ro sk sl so sq sv sw tl tr uz vi xh"
        " yo zu"),
    ("Cyrillic",): "be bg kk ky mk mn ru tg uk",
    ("Cyrillic", "Latin"): "sr",
    ("Greek",): "el",
    ("Arabic",): "ar fa ps sd ug ur",
    ("Hebrew",): "he yi",
    ("Devanagari",): "hi mr ne sa",
    ("Bengali",): "as bn",
    ("Gurmukhi",): "pa",
    ("Gujarati",): "gu",
    ("Oriya",): "or",
    ("Tamil",): "ta",
    ("Telugu",): "te",
    ("Kannada",): "kn",
    ("Malayalam",): "ml",
    ("Sinhala",): "si",
    ("Thai",): "th",
    ("Lao",): "lo",
    ("Tibetan",): "bo",
    ("Myanmar",): "my",
    ("Khmer",): "km",
    ("Georgian",): "ka",
    ("Armenian",): "hy",
    ("Ethiopic",): "am ti",
    ("Hangul", "Han"): "ko",
    ("Kana", "Han"): "ja",
    ("Han",): "zh",
}
LANGUAGES: dict[str, tuple[str, ...]] = {
    code: names for names, codes in _BY_SCRIPTS.items()
    for code in codes.split()}


def of_language(language: str) -> tuple[str, ...]:
  """The scripts that a language (an ISO 639-1 code) is written in.

  Raises:
    ValueError: an unknown code.
  """
  if language not in LANGUAGES:
    raise ValueError(
        f"language={language!r} has no known script; it must be one of"
        f" {', '.join(sorted(LANGUAGES))}")
  return LANGUAGES[language]
