from __future__ import annotations

import random
import time
import types

import pytest

from r1jax.rewards import response, shaping


def judge(rule, text, limit=1000):
  metadata = {} if limit is None else {shaping.LIMIT: limit}
  prompt = types.SimpleNamespace(id=7, metadata=metadata)
  score = rule(prompt, response.split("", text))
  assert score.valid
  return score


@pytest.mark.parametrize("n,value", [
    (0, 1), (250, 0.8535534), (500, 0.5), (750, 0.1464466), (1000, 0),
    (5000, 0)])
def test_length(n, value):
  score = judge(shaping.length, "x" * n)
  assert score.value == pytest.approx(value, abs=1e-6)
  assert score.parts == {"characters": n}


@pytest.mark.parametrize("limit", [None, 0, -1, "9", float("nan"),
                                   float("inf")])
def test_no_limit_is_an_error(limit):
  with pytest.raises(ValueError, match="prompt 7 .*max_characters"):
    judge(shaping.length, "x", limit)


WORDS = [f"w{i}" for i in range(60)]


@pytest.mark.parametrize("tokens,value,ngrams", [
    ([], 0, 0),
    (WORDS[:19], 0, 0),
    (WORDS[:20], 0, 1),
    (WORDS, 0, 41),
    (["wait"] * 119, -0.99, 100),
    # The second time around, 20 n-grams in 60 + 60 - 19 are new: those that
    # span the seam number 19, and the others are as before.
    (WORDS + WORDS, 60 / 101 - 1, 101),
    (WORDS[:10] * 3, 10 / 11 - 1, 11),
])
def test_repetition(tokens, value, ngrams):
  score = judge(shaping.repetition, " ".join(tokens))
  assert score.value == pytest.approx(value)
  assert score.parts == {"ngrams": ngrams}


@pytest.mark.parametrize("text,ngrams", [
    ("数学是很难的问题我们先看一看再想一想吧好了", 2),
    ("a+b=c, " * 5, 11),  # six tokens each
    ("日本語 and words " * 5, 6),  # three characters and two words each
])
def test_tokens(text, ngrams):
  assert judge(shaping.repetition, text).parts == {"ngrams": ngrams}


def test_repetition_against_counting_by_hand():
  random_ = random.Random(0)
  for _ in range(50):
    tokens = [random_.choice("ab") for _ in range(random_.randrange(20, 200))]
    grams = [tuple(tokens[i:i + shaping.NGRAM])
             for i in range(len(tokens) - shaping.NGRAM + 1)]
    repeated = sum(gram in grams[:i] for i, gram in enumerate(grams))
    assert judge(shaping.repetition, " ".join(tokens)).value == pytest.approx(
        -repeated / len(grams))


@pytest.mark.parametrize("piece", ["x", "x ", "字", "+", " "])
@pytest.mark.parametrize("rule", [shaping.length, shaping.repetition])
def test_large_texts_take_no_time(rule, piece):
  text = piece * (200_000 // len(piece))
  start = time.perf_counter()
  assert -1 <= judge(rule, text).value <= 1
  assert time.perf_counter() - start < 2


@pytest.mark.parametrize("text", [
    "a" * 5000, "0." + "3" * 5000, "그래서답은삼이다" * 60, "哈" * 500,
    "ha" * 2000])
def test_runs_without_spaces_repeat_themselves(text):
  assert judge(shaping.repetition, text).value < -0.5
