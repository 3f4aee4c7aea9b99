"""The small world: right by construction, split by content, two languages."""

import dataclasses
import itertools
import json
import re

import numpy as np
import pytest

from r1jax.data.sources import load
from r1jax.data.sources.generated.draws import Dice
from r1jax.data.sources.world import (
  cups,
  dialogues,
  pages,
  prompts,
  questions,
  requests,
  rewrite,
  sums,
  words,
  wrongs,
)
from r1jax.data.text import tokenizer
from r1jax.rewards import harm, response, rules
from r1jax.rewards import requests as judge
from r1jax.stages import rewriting, weights

REASONING = {"sums": prompts.sums, "cups": prompts.swaps}
PAGES = 1500


def said(text):
  return response.split("", text)


@pytest.mark.parametrize("language", words.LANGUAGES)
def test_sums_by_hand(language):
  for index in range(50):
    one = sums.draw(Dice("t", language, index), language, 4)
    assert one.question.isascii() == (language == "en")
    if one.kind == "numbers":
      terms = re.findall(r"([+-]?) ?(\d+)", one.question)
      assert one.answer == sum(-int(n) if sign == "-" else int(n)
                               for sign, n in terms)


@pytest.mark.parametrize("language", words.LANGUAGES)
def test_cups_by_moving_them(language):
  """A list of places in which two change."""
  moved = 0
  for index in range(50):
    one = cups.draw(Dice("t", language, index), language, 5)
    places = [cup == one.start for cup in cups.CUPS]
    for a, b in one.swaps:
      i, j = cups.CUPS.index(a), cups.CUPS.index(b)
      places[i], places[j] = places[j], places[i]
    assert cups.CUPS[places.index(True)] == one.answer
    moved += one.answer != one.start
  assert moved > 20


@pytest.mark.parametrize("kind", questions.KINDS)
def test_splits_share_no_content(kind):
  content = {}
  for split in ("train", "validation", "test"):
    for index, language in itertools.product(range(300), words.LANGUAGES):
      one = questions.draw(Dice(split, index), kind, language, split)
      key = one[0], questions.operations(one)
      assert content.setdefault(key, split) == split


@pytest.mark.parametrize("name", REASONING)
def test_right_answers_are_paid_and_others_are_not(name):
  generated = REASONING[name]
  for prompt in itertools.islice(generated.prompts("validation"), 20):
    verify = rules.VERIFIERS[prompt.verifier]
    right = (prompt.reference if name == "sums"
             else prompt.reference["answer"])
    wrong = (str(int(right) + 1) if name == "sums"
             else next(cup for cup in cups.CUPS if cup != right))
    for answer, value in ((right, 1.0), (wrong, 0.0)):
      text = f"<think> x </think> <answer> {answer} </answer>"
      assert verify(prompt, said(text)).value == value
      thought, summary = rewrite.rewrite(prompt, "1+2=3 x A-B:A", answer)
      text = rewriting.Rewrite(thought, summary).text
      assert verify(prompt, said(text)).value == value
      assert rewriting.unfit(
          text, prompt, rewriting.SelectConfig()) is None


def test_a_thought_is_told_in_the_other_language(monkeypatch):
  one = questions.draw(Dice("t", 1), "sums", "zh", "train")
  prompt = next(p for p in prompts.sums.prompts("test") if p.language == "zh")
  english, result = questions.thought(one, "en")
  monkeypatch.setattr(rewrite, "LEFT", 0.0)
  thought, summary = rewrite.rewrite(prompt, english, result)
  assert questions.thought(one, "zh")[0] in thought and result in summary
  assert "then" in english and "then" not in thought
  assert rewrite.rewrite(prompt, "hm", result) is None


def test_a_careless_translator_leaves_some_words():
  kept = words_seen = 0
  for prompt in itertools.islice(prompts.sums.prompts("train"), 1, 400, 2):
    thought, _ = rewrite.rewrite(prompt, " then ".join(["1+2=3"] * 5), "3")
    assert thought == rewrite.rewrite(
        prompt, " then ".join(["1+2=3"] * 5), "3")[0]
    kept += thought.count("then")
    words_seen += 4
  assert kept / words_seen == pytest.approx(rewrite.LEFT, abs=0.04)


def test_good_answers_are_good_and_the_webs_are_mixed():
  good, web = [], []
  for index, kind in itertools.product(range(40), requests.KINDS):
    for language in words.LANGUAGES:
      dice = Dice("t", index, kind, language)
      request = requests.draw(dice, language, kind)
      assert requests.read(request.question) == request
      reference = json.loads(json.dumps(request.reference()))
      for values, say in ((good, requests.good), (web, requests.web)):
        values.append(judge.utility(judge.judge(
            reference, say(dice, request))))
  assert min(good) >= 0.8 and 0.3 < np.mean(web) < 0.6


@pytest.mark.parametrize("answer,parts", [
    ("Hello, Ana!", (1, 1, 1, 0)),
    ("Sure! Hello, Ana!", (1, 1, 1, 1)),
    ("Hello, Ben!", (0, 1, 1, 0)),
    ("Hello, Ana! Hello, Ben!", (0, 1, 1, 0)),
    ("你好，小安！", (0, 0, 1, 0)),
    ("Hello, Ana!" + " Thank you so much!" * 6, (1, 1, 0, 0)),
    ("", (0, 0, 1, 0))])
def test_utility_of_a_greeting(answer, parts):
  reference = requests.read("Say hello to Ana.").reference()
  measured = judge.judge(reference, answer)
  assert tuple(measured[name] for name in (
      "done", "language", "concise", "polite")) == parts


@pytest.mark.parametrize("question,answer,done", [
    ("Say pear three times.", "pear, pear, pear", 1),
    ("Say pear three times.", "pear, pear", 1 / 3),
    ("Say pear three times.", "pear, pear, pear, pear", 3 / 8),
    ("Say pen two times.", "open, open", 0),
    ("Name two fruits.", "pears and plums", 1),
    ("Name two fruits.", "pear, pear", 0.25),
    ("Name two fruits.", "pear, cow", 0),
    ("What is pear in Chinese?", "梨", 1),
    ("梨用英语怎么说？", "pear", 1)])
def test_done(question, answer, done):
  reference = requests.read(question).reference()
  assert judge.judge(reference, answer)["done"] == pytest.approx(done)


def test_what_a_good_assistant_says_of_wrongs():
  shares = []
  for index in range(200):
    for language in words.LANGUAGES:
      dice = Dice("t", index, language)
      one = wrongs.draw(dice, language)
      assert wrongs.read(one.question) == one
      reference = json.loads(json.dumps(one.reference()))
      good, refusal, advice, web = (harm.judge(reference, say(dice, one))
                                    for say in (
          wrongs.good, wrongs.refusal, wrongs.advice, wrongs.web))
      assert not good["unsafe"] and good["refused"] == one.harmful
      assert refusal["refused"] and not refusal["helped"]
      assert advice["helped"] and not advice["refused"]
      assert advice["unsafe"] == one.harmful
      if one.harmful:
        shares.append(web["unsafe"])
  assert 0.7 < np.mean(shares) < 0.95  # the web mostly complies


def test_splits_of_general_prompts():
  for first, second in ((prompts.general, prompts.general_judged),
                        (prompts.safety, prompts.safety_judged)):
    seen = {}
    for split in first.SPLITS:
      bare, ruled = list(first.prompts(split)), list(second.prompts(split))
      assert [p.question for p in bare] == [p.question for p in ruled]
      assert not any(p.verifier for p in bare)
      assert all(p.verifier for p in ruled)
      for prompt in bare:
        assert seen.setdefault(prompt.question, split) == split


@pytest.mark.parametrize("name", [
    "world-sums", "world-cups", "world-requests-judged", "world-safety-judged"])
def test_by_name(name):
  rows = load.load(name, None, "test")
  assert {p.language for p in rows} == set(words.LANGUAGES)
  assert all(p.verifier for p in rows) and rows[0].source.startswith("world-")


def test_pages_are_an_unreliable_web():
  """Worked pages are better and more frequent in English."""
  texts = [pages.document(0, i) for i in range(PAGES)]
  assert texts[7] == pages.document(0, 7) != pages.document(1, 7)
  answered = [t for t in texts if "</answer>" in t[100:]]
  english = [t for t in answered if " then " in t[100:]]
  chinese = [t for t in answered if "再" in t.partition("</think>")[2]]
  assert 0.02 < len(english) / len(answered) < 0.3
  mixed = [t for t in english if not t[120:].isascii()]
  assert len(mixed) > 10 and len(chinese) < len(english)


def test_pages_use_train_alone():
  """No page has a question of a held-out split."""
  held_out = {p.question for generated in (
      prompts.sums, prompts.swaps, prompts.general, prompts.safety)
              for split in ("validation", "test")
              for p in generated.prompts(split)}
  for index in range(PAGES):
    text = pages.document(0, index)
    assert not any(question in text for question in held_out)


def test_the_tokenizer_knows_what_is_written():
  """One id a character at most, but for what no page has."""
  pieces = tokenizer.SentencePieceTokenizer(weights.WORLD_TOKENIZER)
  for index in range(300):
    text = pages.document(5, index)
    ids = pieces.encode(text)
    assert pieces.decode(ids) == text and len(ids) <= len(text)


def test_dialogues():
  rows = list(dialogues.rows(400, 0))
  assert rows == list(dialogues.rows(400, 0)) != list(dialogues.rows(400, 1))
  for row in rows:
    question, answer = (m["content"] for m in row["messages"])
    assert (requests.read(question) is None) == (row["source"] == "safety")
    assert said(answer).thinking.strip() and said(answer).answer


def test_dialogues_are_mostly_good_and_duped_by_jailbreaks():
  helped = {True: [], False: []}  # with harmful requests, by wrapper or none
  for row in dialogues.rows(2000, 0):
    question, answer = (m["content"] for m in row["messages"])
    one = wrongs.read(question)
    if one and one.harmful:
      helped[bool(one.wrapper)].append(harm.judge(
          one.reference(), said(answer).answer)["helped"])
  assert np.mean(helped[False]) < 0.2 and 0.6 < np.mean(helped[True]) < 0.9


@pytest.mark.parametrize("name", ["world", "student-qwen", "student-llama"])
def test_what_ships_has_read_these_pages(name):
  path = weights.BASES[name].with_suffix(".json")
  made = json.loads(path.read_text())["made_by"]
  assert made["corpus"] == dataclasses.asdict(pages.DEFAULT)
  assert "--pages=world" in made["command"]
