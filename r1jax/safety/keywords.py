"""Finds keywords in users' messages, however they are spelled.

  keywords = Keywords(["bomb", "zha dan", "炸弹"])
  keywords.find("a Ｂ０mb, a zhadan, a 炸*弹")  # all three

Keywords and text are normalised: width and case (NFKC, casefold), invisible
characters, and signs between characters. In scripts that separate words by
spaces a keyword matches whole words only, so that "rapist" is not found in
"therapist"; in others it matches anywhere.
"""

from __future__ import annotations

import functools
import importlib.resources
import itertools
import os
import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

import ahocorasick_rs
from etils import epath

from r1jax.core import scripts
from r1jax.core.config import check

# Our own lists in the package; the second one is for the small world.
LISTS = {"default": "keywords.txt", "world": "keywords_world.txt"}
# Signs and digits read as letters. "1" can be i or l, so l is mapped to i in
# this reading.
_LEET = {"0": "o", "1": "i", "l": "i", "3": "e", "4": "a", "5": "s", "7": "t",
         "8": "b", "9": "g", "@": "a", "$": "s", "!": "i", "|": "i", "+": "t"}
_SIGNS = frozenset(_LEET) - {"l"}
_TONES = "12345"
# Invisible characters outside category Cf, and lone surrogates.
_UNSEEN = re.compile(
    r"[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u3164\ufe00-\ufe0f\uffa0"
    r"\ud800-\udfff\U000e0100-\U000e01ef]")
_CHARACTER = re.compile("[" + "".join(
    scripts.SCRIPTS[name] for name in sorted(scripts.BY_CHARACTER)) + "]")
# A superset of the syllables of Hanyu Pinyin.
_SYLLABLE = re.compile(
    r"(?:[zcs]h|[bpmfdtnlgkhjqxrzcsyw])?(?:iang|iong|uang|iao|ian|uai|uan|ang"
    r"|eng|ing|ong|ai|ei|ui|ao|ou|iu|ie|ue|ve|er|an|en|in|un|vn|ia|ua|uo"
    r"|[aeiouv])")
_SPELLED = 3  # the fewest separated letters that count as a spelled-out word


class _Keyword(NamedTuple):
  """A normalised keyword.

  Attributes:
    text: as given.
    letters: its letters and digits, folded.
    gaps: indices of `letters` before which the keyword has something else.
    more: whether the word may go on (before the keyword, after it).
  """

  text: str
  letters: str
  gaps: frozenset[int]
  more: tuple[bool, bool]


class _View(NamedTuple):
  """A folded text reduced to letters and digits.

  Attributes:
    text: the folded text.
    letters: its letters and digits, with signs replaced in the leet reading.
    at: the index of each letter in `text`.
    gaps: indices of `letters` before which `text` has something else.
  """

  text: str
  letters: str
  at: list[int]
  gaps: frozenset[int]


class Keywords:
  """Finds which of many keywords a text contains (Aho-Corasick)."""

  def __init__(self, keywords: Iterable[str]):
    """Builds the automata.

    Args:
      keywords: a space in one matches any spaces and signs, or none (write
        pinyin with a space between syllables). A `*` at an end lets the word go
        on there: `bomb*` is found in "bombing".

    Raises:
      ValueError: a keyword has no letter and no digit.
    """
    self._keywords = [_keyword(text) for text in dict.fromkeys(keywords)]
    self._latin = {k for k in self._keywords if k.letters.isascii()}
    self._plain = _Automaton(self._keywords, lambda letters: letters)
    self._leet = _Automaton(
        [k for k in self._keywords if k in self._latin], _unsigned)

  def __len__(self) -> int:
    return len(self._keywords)

  def find(self, text: str) -> tuple[str, ...]:
    """The keywords that a text contains, as given and in their order.

    They are found as spelled; with signs for letters ("b0mb"); as pinyin with
    tones ("zhàdàn", "zha4 dan4") or with other diacritics; letter by letter
    ("b o m b"); and in syllables ("zha dan" for `zhadan`).
    """
    folded = fold(text)
    plain = _plain(folded)
    found = set(self._plain.find(plain))
    if not _SIGNS.isdisjoint(folded):
      found |= set(self._leet.find(_leet(folded), _mixed))
    toneless = _toneless(unicodedata.normalize("NFD", folded))
    if toneless.letters != plain.letters:
      found |= self._latin & set(self._plain.find(toneless))
    return tuple(k.text for k in self._keywords if k in found)


class _Automaton:
  """An Aho-Corasick automaton of the keywords in one reading."""

  def __init__(self, keywords: Sequence[_Keyword],
               written: Callable[[str], str]):
    self._by_form: dict[str, list[_Keyword]] = {}
    for keyword in keywords:
      self._by_form.setdefault(written(keyword.letters), []).append(keyword)
    self._forms = list(self._by_form)
    self._automaton = ahocorasick_rs.AhoCorasick(self._forms)

  def find(self, view: _View, allowed: Callable[[str], bool] = lambda text: True
           ) -> Iterator[_Keyword]:
    """Yields the keywords in a view, once per occurrence.

    Args:
      view: the text.
      allowed: whether a substring of the text may be a match.
    """
    for number, start, end in self._automaton.find_matches_as_indexes(
        view.letters, overlapping=True):
      if not allowed(view.text[view.at[start]:view.at[end - 1] + 1]):
        continue
      for keyword in self._by_form[self._forms[number]]:
        if _whole(keyword, view, start, end) and _joined(
            keyword, view, start, end):
          yield keyword


def fold(text: str) -> str:
  """Normalises width and case, and removes invisible characters.

  NFKC, casefold and NFKC again; format characters (category Cf: zero-width
  characters, soft hyphens, text directions), variation selectors, fillers and
  lone surrogates are removed.
  """
  folded = unicodedata.normalize("NFKC", _seen(text)).casefold()
  return _seen(unicodedata.normalize("NFKC", folded))


def read(names: Iterable[str | os.PathLike]) -> list[str]:
  """Reads keyword files: one keyword a line, `#` begins a comment.

  Args:
    names: paths, or names in LISTS.

  Raises:
    ValueError: a file cannot be read, is not UTF-8, has no keyword, or has one
      without letters and digits; the message names the line.
  """
  return [keyword for name in names for keyword in _lines(os.fspath(name))]


def _lines(name: str) -> Iterator[str]:
  own = LISTS.get(name)
  path = (importlib.resources.files("r1jax.safety") / own if own
          else epath.Path(name))
  try:
    text = path.read_bytes().decode("utf-8-sig")
  except (OSError, UnicodeDecodeError) as error:
    raise ValueError(
        f"keywords {name} cannot be read ({error}); give a UTF-8 file with one"
        f" keyword a line, or {', '.join(LISTS)}") from error
  count = 0
  for number, line in enumerate(text.splitlines(), 1):
    keyword = line.partition("#")[0].strip()
    if not keyword:
      continue
    try:
      _keyword(keyword)
    except ValueError as error:
      raise ValueError(f"{name}:{number}: {error}") from error
    count += 1
    yield keyword
  check(count > 0, f"keywords {name}: the file has none; write one per line")


def _keyword(text: str) -> _Keyword:
  folded = fold(text).strip()
  more = folded.startswith("*"), folded.endswith("*")
  view = _plain(folded)
  check(bool(view.letters), f"keyword {text!r} has no letter and no digit;"
        " remove it")
  return _Keyword(text, view.letters, view.gaps - {0}, more)


def _seen(text: str) -> str:
  if text.isascii():
    return text
  return _UNSEEN.sub("", "".join(
      character for character in text if _category(character) != "Cf"))


_category = functools.lru_cache(1 << 16)(unicodedata.category)


def _is_letter(character: str) -> bool:
  """Whether it is a letter, a digit, or a combining mark, such as a vowel sign.
  """
  return character.isalnum() or _category(character)[0] == "M"


def _view(text: str, letters: Iterable[str | None]) -> _View:
  """A view of a text.

  Args:
    text: folded.
    letters: for each character the letter that it is read as; "" skips it, None
      makes a gap.
  """
  kept, at, gaps, apart = [], [], set(), False
  for place, letter in enumerate(letters):
    if letter:
      if apart:
        gaps.add(len(kept))
      kept.append(letter)
      at.append(place)
      apart = False
    elif letter is None:
      apart = True
  return _View(text, "".join(kept), at, frozenset(gaps))


def _plain(folded: str) -> _View:
  return _view(folded, (c if _is_letter(c) else None for c in folded))


def _leet(folded: str) -> _View:
  return _view(folded, (
      _LEET.get(c) or (c if _is_letter(c) else None) for c in folded))


def _unsigned(letters: str) -> str:
  return "".join(_LEET.get(letter, letter) for letter in letters)


def _mixed(text: str) -> bool:
  """Whether a text has both signs and letters; 455 is a number, not "ass"."""
  return not _SIGNS.isdisjoint(text) and any(map(str.isalpha, text))


def _toneless(decomposed: str) -> _View:
  """A view without diacritics on Latin letters and tone numbers after them."""
  def letters():
    after = False  # a Latin letter
    for character in decomposed:
      if after and (character in _TONES or _category(character)[0] == "M"):
        after = character not in _TONES  # one tone
        yield ""
        continue
      after = character.isascii() and character.isalpha()
      yield character if _is_letter(character) else None

  return _view(decomposed, letters())


def _whole(keyword: _Keyword, view: _View, start: int, end: int) -> bool:
  """Whether a match begins and ends at word boundaries, as its keyword needs.
  """
  before = (keyword.more[0] or start == 0 or start in view.gaps
            or _parted(view, start - 1, start))
  return before and (
      keyword.more[1] or end == len(view.letters) or end in view.gaps
      or _parted(view, end, end - 1))


def _parted(view: _View, beside: int, edge: int) -> bool:
  """Whether the character beside a match's edge is no part of its word."""
  other, own = (view.text[view.at[place]] for place in (beside, edge))
  if _CHARACTER.match(other) or _CHARACTER.match(own):
    return True  # a script without spaces between words
  if other.isdigit():
    return not own.isdigit()  # "bomb2"
  return not _is_letter(other)  # a sign that might stand for a letter


def _joined(keyword: _Keyword, view: _View, start: int, end: int) -> bool:
  """Whether the gaps within a match are allowed.

  Gaps are allowed between characters of scripts without spaces and where the
  keyword has a gap too; elsewhere only if the word is spelled letter by letter
  or in syllables.
  """
  letters = view.letters[start:end]
  cuts = [place for place in range(1, len(letters))
          if start + place in view.gaps and place not in keyword.gaps
          and not _CHARACTER.match(letters[place])
          and not _CHARACTER.match(letters[place - 1])]
  if not cuts:
    return True
  ends = sorted({0, *keyword.gaps, len(letters)})
  for first, last in itertools.pairwise(ends):
    inside = [first, *(c for c in cuts if first < c < last), last]
    parts = [letters[a:b] for a, b in itertools.pairwise(inside)]
    spelled = len(parts) >= _SPELLED and len(parts) == last - first
    if len(parts) > 1 and not spelled and not all(
        map(_SYLLABLE.fullmatch, parts)):
      return False
  return True
