"""What becomes of sampled answers."""

import collections

import pytest

from r1jax.core.prompt import Prompt, ask
from r1jax.data.sources import selection
from r1jax.data.sources.filters import FilterConfig
from r1jax.data.sources.selection import Sample, SelectConfig

GOOD = "<think>I add {} and one.</think> The answer is {}."


def prompt(number=7, language="en"):
  return Prompt(id=number, domain="math", source="toy", messages=ask("1 + 1?"),
                reference="2", verifier="math", language=language)


def sample(text=GOOD, **changes):
  return Sample(**dict(text=text, accuracy=1.0, format=1.0, valid=True,
                       reason="correct", truncated=False, tokens=9) | changes)


def fates(*samples, language="en", seed=0, **cfg):
  return selection.fates(
      prompt(language=language), samples, SelectConfig(**cfg), seed)


LONG = "<think>" + "many words here " * 200 + "</think> 2"


@pytest.mark.parametrize("one,fate", [
    (sample(), "kept"),
    (sample(valid=False), "no verdict"),
    (sample(valid=False, accuracy=None), "no verdict"),
    (sample(accuracy=None), selection.NO_RULE),
    (sample(truncated=True), "truncated"),
    (sample(accuracy=0.5), "wrong"),
    (sample(format=0.0), "other form"),
    (sample(format=None), "kept"),
    (sample("The answer is 2."), "empty thought"),
    (sample("<think>我把一和一加起来</think> 2"), "mixed language"),
    (sample(LONG), "long paragraph"),
    (sample("<think>so\n```\n1 + 1\n```\nyes</think> 2"),
     "code block in the thought")])
def test_each_reason(one, fate):
  assert fates(one) == [fate]


def test_limits_that_are_off_keep():
  off = FilterConfig(code_blocks=False, paragraph_words=0, language_share=0,
                     repeated_share=0, loop_words=0, loop_characters=0,
                     thinking=False)
  texts = ["2.", LONG, "<think>我把一和一加起来</think> 2"]
  assert fates(*(sample(t, format=0.0) for t in texts), form=False,
               filters=off) == ["kept"] * 3


def test_the_language_is_the_questions():
  text = "<think>我把一和一加起来</think> 二"
  assert fates(sample(text), language="zh") == ["kept"]


def test_rates_are_of_the_answers_with_a_verdict():
  right, wrong = sample(), sample(accuracy=0.0)
  none, long = sample(valid=False), sample(truncated=True)
  four = [right, wrong, none, wrong, long]  # 1 of 4
  assert fates(*four, min_rate=0.25, max_rate=0.25)[0] == "kept"
  assert fates(*four, min_rate=0.26)[0] == "too hard a question"
  assert fates(*four, max_rate=0.24)[0] == "too easy a question"
  assert fates(*four, max_rate=0.24)[1:] == [
      "wrong", "no verdict", "wrong", "truncated"]


def test_copies_count_once_and_the_first_stays():
  assert fates(sample("<think>so</think> 2"), sample(" <think>so</think> 2\n")
               ) == ["kept", "copy of another"]


def test_as_many_as_asked_stay_by_an_addressed_draw():
  many = [sample(GOOD.format(i, i)) for i in range(12)]
  found = fates(*many, keep=5)
  assert collections.Counter(found) == {"kept": 5, "beyond 5 a question": 7}
  assert fates(*many, keep=5) == found != fates(*many, keep=5, seed=1)
  kept = {i for i, fate in enumerate(found) if fate == "kept"}
  assert kept != set(range(5))  # the first are not preferred
  # Another answer that fails takes no part in the draw of those that pass.
  out = next(i for i in range(12) if i not in kept)
  many[out] = sample(accuracy=0.0)
  again = fates(*many, keep=5)
  assert {i for i, fate in enumerate(again) if fate == "kept"} == kept


def test_the_report_counts_and_draws_the_papers_table():
  report = selection.Report()
  report.fell("math", ["kept", "wrong", "wrong"])
  report.fell("logic", ["kept"])
  report.wrote("math", 1, 10)
  report.wrote("logic", 2, 21)
  report.wrote("logic", 1, 20)
  lines = [line.split() for line in report.counts().split("\n")]
  assert lines[0] == ["answers", "logic", "math", "total"]
  assert lines[2:] == [["wrong", "0", "2", "2"], ["kept", "1", "1", "2"]]
  lines = [line.split() for line in report.table().split("\n")][2:]
  assert lines == [["logic", "2", "1.5", "20.5"], ["math", "1", "1.0", "10.0"],
                   ["total", "3", "1.3", "17.0"]]
  assert report.to_json()["answers"]["math"] == {"kept": 1, "wrong": 2}


@pytest.mark.parametrize("bad", [
    dict(keep=0), dict(min_rate=0.7, max_rate=0.6), dict(max_rate=1.1)])
def test_bad_settings(bad):
  with pytest.raises(ValueError, match="keep=|min_rate="):
    SelectConfig(**bad)
