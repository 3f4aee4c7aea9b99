from __future__ import annotations

import time
import unicodedata

import pytest

from r1jax.core import scripts

# How the names of a script's characters begin, where not with its own name.
NAMES = {
    "Latin": ("LATIN", "FULLWIDTH LATIN", "FEMININE", "MASCULINE", "MODIFIER"),
    "Greek": ("GREEK", "COPTIC"),
    "Georgian": ("GEORGIAN", "MODIFIER LETTER GEORGIAN"),
    "Kana": ("HIRAGANA", "KATAKANA", "HALFWIDTH KATAKANA"),
    "Hangul": ("HANGUL", "HALFWIDTH HANGUL"),
    "Han": ("CJK", "IDEOGRAPHIC"),
}


@pytest.mark.parametrize("text,counts", [
    ("", {}),
    ("12 + 3.5 = 15.5 !? _ ½ x² ① Ⅳ", {"Latin": 1}),
    ("It's the naïve way, don’t you think", {"Latin": 7}),
    ("rock 'n' roll ' '", {"Latin": 3}),
    ("cafe\u0301 cafe\u0301s", {"Latin": 2}),
    ("Привет, мир hello", {"Cyrillic": 2, "Latin": 1}),
    ("однаword", {"Cyrillic": 1, "Latin": 1}),
    ("数学很难。", {"Han": 4}),
    ("コンピューターを使う", {"Kana": 9, "Han": 1}),
    ("한국어 문장", {"Hangul": 5}),
    ("สวัสดี", {"Thai": 6}),
    ("हिन्दी में पाठ १२।", {"Devanagari": 3}),
    ("বাংলা ভাষা ১২", {"Bengali": 2}),
    ("తెలుగు భాష", {"Telugu": 2}),
    ("مرحبا بالعالم ١٢، نعم", {"Arabic": 3}),
    ("שלום עולם", {"Hebrew": 2}),
    ("Η απάντηση είναι", {"Greek": 3}),
    ("𝐛𝐨𝐥𝐝 ᚠᚢ", {"Other": 2}),
    ("\ud800\udfff", {}),
])
def test_words(text, counts):
  assert scripts.words_by_script(text) == counts


def test_short_runs_are_left_out():
  text = "x и я I am π 和 ² 𝑥"
  assert scripts.words_by_script(text, 2) == {"Latin": 1, "Han": 1}


def test_scripts_against_the_names_of_characters():
  """Independent of the table: what Unicode calls each letter."""
  wrong, found = [], dict.fromkeys(scripts.SCRIPTS, 0)
  for code in [*range(0x3400), *range(0x9f00, 0xac10), *range(0xd700, 0x10000),
               *range(0x20000, 0x20010)]:
    letter = chr(code)
    if not unicodedata.category(letter).startswith("L"):
      continue
    ((script, count),) = scripts.words_by_script(letter).items()
    if script != scripts.OTHER:
      found[script] += count
      name = unicodedata.name(letter, "")
      if not name.startswith(NAMES.get(script, (script.upper(),))):
        wrong.append((script, hex(code), name))
  assert not wrong
  assert all(n >= 30 for n in found.values()), found


def test_what_is_common_is_not_other():
  """Every letter of today's alphabets is in its script, not in OTHER."""
  blocks = {
      "Latin": range(0xc0, 0x250), "Cyrillic": range(0x400, 0x482),
      "Arabic": range(0x620, 0x6d4), "Devanagari": range(0x904, 0x940),
      "Thai": range(0xe01, 0xe47), "Kana": range(0x3041, 0x3100),
      "Han": range(0x4e00, 0x9fff), "Hangul": range(0xac00, 0xd7a4)}
  for script, block in blocks.items():
    letters = [chr(c) for c in block if chr(c).isalpha()]
    counts = scripts.words_by_script(" ".join(letters))
    assert set(counts) == {script}
    assert sum(counts.values()) == len(letters)


def test_keep():
  assert scripts.keep("Ja, 是 das ist 对的 12!", {"Latin"}) == (
      "Ja,   das ist   12!")
  assert scripts.keep("Ja, 是", {"Han", "Kana"}) == " , 是"


@pytest.mark.parametrize("piece", [
    "word ", "字", "a'", "'", "a字", "\u0301", "²", "𝑥", "é\u0301"])
def test_time_is_linear(piece):
  text = piece * (200_000 // len(piece))
  start = time.perf_counter()
  scripts.words_by_script(text)
  assert time.perf_counter() - start < 2
