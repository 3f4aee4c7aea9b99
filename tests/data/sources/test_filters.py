import random
import time

import pytest

from r1jax.data.sources import filters
from r1jax.data.sources.filters import FilterConfig

CFG = FilterConfig()
GOOD = (
    "<think>\nThe tank holds 40 litres and loses 3 each hour. After 5 hours 15"
    " are gone.\n\nSo 40 - 15 = 25 remain. Let me check: 25 + 15 = 40, fine."
    "\n</think>\n\nThere are **25 litres** left.")


def prose(words, seed=0):
  rng = random.Random(seed)
  return " ".join(
      "".join(rng.choice("abcdefghij") for _ in range(rng.randint(3, 8)))
      for _ in range(words))


def thinking(thought, answer="Done."):
  return f"<think>\n{thought}\n</think>\n\n{answer}"


@pytest.mark.parametrize("text,language", [
    (GOOD, "en"), (GOOD, ""),
    (thinking("\n\n".join(prose(200, i) for i in range(20))), "en"),
    (thinking("先算每小时漏多少水，再乘以五。\n\n"
              "所以还剩 25 升，我用 Python 验证过。"), "zh"),
    (thinking("Try 0.333333333333 and \\(x_1\\), then `f(x)`.\n- one\n- two"),
     "en"),
    (thinking("| a | b |\n|---|---|\n| 1 | 2 |\n" + "-" * 80 + "\nfine."),
     "en"),
    (thinking("Да, это верно: $\\frac{1}{2}$ и $\\sqrt{2}$."), "ru"),
    (thinking("これは簡単な問題です。"), "ja")])
def test_good_rows_pass(text, language):
  assert filters.reason(text, language) is None


@pytest.mark.parametrize("thought,language,reason", [
    ("", "en", "empty thought"), (" \n . \n", "en", "empty thought"),
    ("Let me run it:\n```python\nprint(1)\n```", "en",
     "code block in the thought"),
    ("Run:\n  ~~~\nls\n~~~", "en", "code block in the thought"),
    (prose(301), "en", "long paragraph"),
    ("\n".join(prose(31, i) for i in range(10)), "en", "long paragraph"),
    ("好" * 481, "zh", "long paragraph"),
    ("The answer must be 三十五 because 我们 had five.", "en",
     "mixed language"),
    ("我们先看 the first number of this list 再说。", "zh", "mixed language"),
    ("It is five, а потом ещё шесть.", "en", "mixed language"),
    ("Wait, I know.\n\n" * 35 + "Yes.", "en", "word loop"),
    ("so " * 101, "en", "word loop"), ("ha" * 201, "en", "character loop"),
    ("哈" * 101, "zh", "word loop"), ("." * 401 + "So 4.", "en",
                                     "character loop"),
    ("".join(f"{prose(30, i)}\n\nNow let me check this again.\n\n"
             for i in range(21)), "en", "repeated line"),
    ("\n\n".join([prose(100)] * 3), "en", "repeated text")])
def test_every_filter_bites(thought, language, reason):
  assert filters.reason(thinking(thought), language) == reason


@pytest.mark.parametrize("thought,language,off", [
    ("", "en", dict(thinking=False)),
    ("Run:\n```\nls\n```", "en", dict(code_blocks=False)),
    (prose(301), "en", dict(paragraph_words=0)),
    (prose(301), "en", dict(paragraph_words=301)),
    ("the 三十五 one", "en", dict(language_share=0.0)),
    ("so " * 101, "en", dict(loop_words=0)),
    ("so " * 101, "en", dict(loop_words=101)),
    ("ha" * 201, "en", dict(loop_characters=0)),
    ("".join(f"{prose(30, i)}\n\nNow let me check this again.\n\n"
             for i in range(21)), "en", dict(line_repeats=21)),
    ("\n\n".join([prose(100)] * 3), "en", dict(repeated_share=0.7))])
def test_every_limit_can_be_moved(thought, language, off):
  assert filters.reason(thinking(thought), language) is not None
  cfg = FilterConfig(**off)
  assert filters.reason(thinking(thought), language, cfg) is None


def test_just_within_the_limits():
  assert filters.long_paragraph(prose(300)) is None
  assert filters.repetition("so " * 100) is None
  assert filters.repetition("ha" * 200) is None
  # A phrase of 30 words has to come eight times before it is a loop.
  assert filters.repetition(f"{prose(30)} " * 8) == "repeated text"
  assert filters.repetition(f"{prose(30)} " * 9) == "word loop"
  assert filters.mixed_language("one two six " * 3 + "三", "en") is None
  assert filters.mixed_language("one two six " * 3 + "三三", "en")


def test_only_the_answer_has_code_and_other_languages():
  text = thinking("Write a loop. Then say it in Chinese.",
                  "```python\nx = 1\n```\n" + "这是一个循环。")
  assert filters.reason(text, "en") is None


def test_rows_are_counted_by_reason():
  rows = [
      {"prompt": "a", "completion": GOOD},
      {"prompt": "b", "completion": "no thought"},
      {"messages": [{"role": "user", "content": "```x```"},
                    {"role": "assistant", "content": GOOD},
                    {"role": "user", "content": "so " * 300},
                    {"role": "assistant", "content": GOOD}]},
      {"messages": [{"role": "user", "content": "x"},
                    {"role": "assistant", "content": GOOD},
                    {"role": "user", "content": "y"},
                    {"role": "assistant", "content": thinking("so " * 300)}]},
      {"prompt": "c", "completion": GOOD, "language": "zh"}]
  kept, counts = filters.apply(rows)
  assert kept == [rows[0], rows[2]]
  assert counts == {
      "empty thought": 1, "mixed language": 1, "word loop": 1}
  assert filters.apply(rows, FilterConfig(language="zh", thinking=False))[
      0] == [rows[1]]


@pytest.mark.parametrize("text", [
    "a" * 200_000, "ab " * 66_000, "\n" * 200_000, " \n" * 100_000,
    "`" * 200_000, "$" * 200_000, "\\a" * 100_000, "$a" * 100_000,
    "<think>" * 28_000, "</think>" * 25_000, "小" * 200_000,
    "e\u0301\ud800" * 66_000, prose(30_000)])
def test_long_texts_take_linear_time(text):
  start = time.monotonic()
  filters.reason(text)
  for found in (filters.repetition(text), filters.long_paragraph(text),
                filters.mixed_language(text, "zh"), filters.code_block(text)):
    assert found is None or isinstance(found, str)
  assert time.monotonic() - start < 8


@pytest.mark.parametrize("bad", [
    dict(loop_words=-1), dict(repeated_share=1.5), dict(language="English"),
    dict(language_share=-0.1), dict(paragraph_words=-3)])
def test_config(bad):
  with pytest.raises(ValueError, match=f"{[*bad][0]}="):
    FilterConfig(**bad)
