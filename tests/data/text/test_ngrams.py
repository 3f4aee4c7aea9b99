import time

import numpy as np
import pytest

from r1jax.data.text import ngrams


@pytest.mark.parametrize("text,tokens", [
    ("It's 3,5 + x_1!", ["it", "s", "3", "5", "x", "1"]),
    ("Café STRASSE straße", ["cafe", "strasse", "strasse"]),
    ("小明有3个苹果。", list("小明有3个苹果")),
    ("用Python写", ["用", "python", "写"]),
    ("ガギ", ["カ", "キ"]), ("ﾊﾟ", ["ハ"]), ("한국어 문장", None),
    ("\ud800 a", ["a"]), ("", [])])
def test_tokens(text, tokens):
  found = ngrams.tokens(text)
  assert len(found) == 2 if tokens is None else found == tokens


@pytest.mark.parametrize("text,words", [
    ("one two three", 3), ("小明有苹果了吗你", 5), ("a 小明有苹果了吗你 b", 7),
    ("", 0)])
def test_lengths_in_words(text, words):
  assert ngrams.words(text) == words


# Of "a" and "b".
HASHES = ["0x425c97371069f9fe", "0x508cab853a02c5d7"]


def slow(text, n):
  """Every n-gram of a text without unspaced scripts, as tuples."""
  found = ngrams.tokens(text)
  return [tuple(found[i:i + n]) for i in range(len(found) - n + 1)]


def test_equal_grams_have_equal_hashes_and_others_not():
  rng = np.random.default_rng(0)
  texts = [" ".join(map(str, rng.integers(0, 3, size)))
           for size in (0, 1, 4, 5, 6, 200, 0, 300)]
  got = ngrams.grams(texts, 5)
  want = [(i, gram) for i, text in enumerate(texts) for gram in slow(text, 5)]
  assert [int(i) for i in got.owners] == [i for i, _ in want]
  by_hash = {}
  for value, (_, gram), start, end in zip(
      got.hashes, want, got.starts, got.ends, strict=True):
    assert by_hash.setdefault(int(value), gram) == gram
    assert end - start == 5
  assert len(by_hash) == len({gram for _, gram in want}) > 200


def test_unspaced_scripts_take_more_tokens():
  han = "".join(chr(0x4e00 + i) for i in range(17))
  got = ngrams.grams([han, han[:15], "ก" * 41], 10)
  assert [int(x) for x in got.ends - got.starts] == [16, 16, 40, 40]
  assert list(got.owners) == [0, 0, 2, 2]


def test_hashes_do_not_depend_on_the_process():
  # Python's own hash of a string does.
  assert [hex(x) for x in ngrams.grams(["a b"], 1).hashes] == HASHES


def test_common_counts_owners_not_occurrences():
  hashes = np.array([5, 5, 5, 9, 9, 7], np.uint64)
  owners = np.array([0, 0, 0, 1, 2, 1])
  assert list(ngrams.common(hashes, owners, 1)) == [9]
  assert list(ngrams.contains(np.array([9], np.uint64), hashes)) == [
      False, False, False, True, True, False]


@pytest.mark.parametrize("a,b,same", [
    ("a  b ", "a b", True), ("e\u0301", "é", True), ("a\n\n", "a", True),
    ("A", "a", False), ("3 + 4", "3 - 4", False), ("5²", "52", False),
    ("  x", "x", False)])
def test_plain_text_keeps_what_means_something(a, b, same):
  assert (ngrams.plain(a) == ngrams.plain(b)) is same


@pytest.mark.parametrize("text", [
    "a" * 200_000, "a " * 100_000, "小" * 200_000, " " * 200_000,
    "\n" * 200_000, "e\u0301" * 100_000, "__" * 100_000])
def test_long_texts_take_linear_time(text):
  start = time.monotonic()
  ngrams.grams([text], 10)
  ngrams.plain(text)
  assert time.monotonic() - start < 5


def test_what_is_not_seen_hides_nothing():
  hidden = "What is the \u200bsum of\u00ad the fi\u200drst\ufeff primes"
  bare = "What is the sum of the first primes"
  assert ngrams.tokens(hidden) == ngrams.tokens(bare)
  assert ngrams.plain(hidden) == ngrams.plain(bare)
