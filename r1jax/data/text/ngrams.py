"""Word n-grams of text in any script, as 64-bit hashes.

A text is split into tokens: runs of letters and digits, casefolded, without
accents and punctuation; in scripts without spaces between words (Chinese,
Japanese, Thai, Lao, Burmese, Khmer) every character is a token. From each token
an n-gram is the shortest run that counts at least n words, where a word counts
1, a Chinese or Japanese character 5/8 and a character of the other scripts
without spaces 1/4. So a 10-gram is 10 English words, 16 Chinese characters or
40 Thai ones, and texts that mix scripts need no language detection.
"""

from __future__ import annotations

import functools
import hashlib
import re
import sys
import unicodedata
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

_HAN = ("\u3005-\u3007\u3041-\u3096\u30a1-\u30fa\u30fc-\u30ff\u3400-\u4dbf"
        "\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff")
_THAI = "\u0e01-\u0edf\u1000-\u109f\u1780-\u17ff"
_TOKEN = re.compile(f"[{_HAN}{_THAI}]|[^\\W_{_HAN}{_THAI}]+")
_IS_HAN, _IS_THAI = re.compile(f"[{_HAN}]"), re.compile(f"[{_THAI}]")

# How many eighths of a word a token counts, by the lowest two bits of its hash.
_WORD = 8
_WORTH = np.array([_WORD, 5, 2, 0], np.int64)
_KIND = np.uint64(3)
# Invisible characters, which would split a word: soft hyphens, zero-width
# spaces and joiners, direction marks, byte-order marks.
_INVISIBLE = re.compile("[\u00ad\u200b-\u200f\u2060-\u2064\ufeff]")
_BITS = 2**64
# 2**64 / golden ratio; odd, so it has an inverse modulo 2**64.
_FACTOR = 0x9E3779B97F4A7C15


def tokens(text: str) -> list[str]:
  """The tokens of a text, in order; see the module's docstring."""
  if not text.isascii():
    text = _INVISIBLE.sub("", text)
    text = _marks().sub("", unicodedata.normalize("NFKD", text))
  return _TOKEN.findall(text.casefold())


def words(text: str) -> float:
  """The length of a text in words; a character may count less than one."""
  return float(_WORTH[_hashed(tokens(text)) & _KIND].sum() / _WORD)


class Grams(NamedTuple):
  """The n-grams of a list of texts, in order.

  Attributes:
    hashes: uint64.
    owners: int64, the index of each n-gram's text.
    starts, ends: int64, its token range [start, end) in the text.
  """

  hashes: np.ndarray
  owners: np.ndarray
  starts: np.ndarray
  ends: np.ndarray


def grams(texts: Sequence[str], n: int) -> Grams:
  """The n-grams of a list of texts; texts shorter than `n` words have none.

  Args:
    texts: fastest with hundreds per call.
    n: length in words.
  """
  tokenized = [tokens(text) for text in texts]
  sizes = np.array([len(f) for f in tokenized], np.int64)
  last = np.cumsum(sizes)
  hashes = _hashed([token for f in tokenized for token in f])
  owners = np.repeat(np.arange(len(texts)), sizes)
  worth = _WORTH[hashes & _KIND]
  before = np.concatenate([[0], np.cumsum(worth)])
  starts = np.arange(len(hashes))
  ends = np.searchsorted(before, before[:-1] + n * _WORD)
  whole = ends <= last[owners] if len(texts) else np.zeros(0, bool)
  starts, ends, owners = starts[whole], ends[whole], owners[whole]
  first = (last - sizes)[owners]
  return Grams(_runs(hashes, starts, ends), owners, starts - first,
               ends - first)


def common(hashes: np.ndarray, owners: np.ndarray, limit: float) -> np.ndarray:
  """The hashes that more than `limit` different owners have, sorted."""
  order = np.lexsort((owners, hashes))
  hashes, owners = hashes[order], owners[order]
  if not len(hashes):
    return hashes
  new = np.ones(len(hashes), bool)
  new[1:] = (hashes[1:] != hashes[:-1]) | (owners[1:] != owners[:-1])
  values, counts = np.unique(hashes[new], return_counts=True)
  return values[counts > limit]


def contains(table: np.ndarray, hashes: np.ndarray) -> np.ndarray:
  """bool for each of `hashes`: whether it is in the sorted `table`."""
  if not len(table):
    return np.zeros(len(hashes), bool)
  at = np.searchsorted(table, hashes)
  return table[np.minimum(at, len(table) - 1)] == hashes


def plain(text: str) -> str:
  """A text in Unicode's NFC with runs of spaces collapsed.

  Invisible characters, spaces at line ends and blank lines at both ends are
  removed. Case, punctuation and indentation stay, since they matter in code and
  formulas.
  """
  lines = unicodedata.normalize("NFC", _INVISIBLE.sub("", text)).split("\n")
  return "\n".join(map(_spaced, lines)).strip("\n")


def _spaced(line: str) -> str:
  line = line.rstrip()
  body = line.lstrip()
  return line[:len(line) - len(body)] + " ".join(body.split())


def _runs(hashes, starts, ends) -> np.ndarray:
  """A hash of each hashes[start:end]: a polynomial hash mod 2**64, mixed."""
  powers, inverses = (
      np.multiply.accumulate(np.concatenate([
          np.ones(1, np.uint64),
          np.full(max(len(hashes) - 1, 0), factor, np.uint64)]))
      for factor in (_FACTOR, pow(_FACTOR, -1, _BITS)))
  prefix = np.concatenate([
      np.zeros(1, np.uint64),
      np.cumsum(hashes * powers[:len(hashes)], dtype=np.uint64)])
  return mix((prefix[ends] - prefix[starts]) * inverses[starts])


def mix(x: np.ndarray) -> np.ndarray:
  """MurmurHash3's 64-bit finalizer of each uint64."""
  for factor in (0xFF51AFD7ED558CCD, 0xC4CEB9FE1A85EC53):
    x = (x ^ (x >> np.uint64(33))) * np.uint64(factor)
  return x ^ (x >> np.uint64(33))


def _hashed(strings: Iterable[str]) -> np.ndarray:
  strings = list(strings)
  return np.fromiter(map(_KNOWN.__getitem__, strings), np.uint64, len(strings))


class _Tokens(dict):
  """Cache from token to hash, whose lowest two bits are its script's class.

  BLAKE2, because Python's `hash` differs between processes.
  """

  _MOST = 2_000_000  # tokens cached, about 200 MB

  def __missing__(self, token: str) -> int:
    digest = hashlib.blake2b(token.encode("utf-8", "replace"), digest_size=8)
    kind = 1 if _IS_HAN.match(token) else 2 if _IS_THAI.match(token) else 0
    value = int.from_bytes(digest.digest(), "little") & ~3 | kind
    if len(self) < self._MOST:
      self[token] = value
    return value


_KNOWN = _Tokens()


@functools.cache
def _marks() -> re.Pattern[str]:
  """Accents and vowel signs that combine with a character."""
  return re.compile("[" + "".join(
      c for c in map(chr, range(0x300, sys.maxunicode))
      if unicodedata.category(c)[0] == "M") + "]+")
