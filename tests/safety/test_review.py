"""Verdicts of reviewers, which are as hostile as what they have read."""

import random
import time

import pytest

from r1jax.core.prompt import ask
from r1jax.safety import review
from r1jax.safety.review import Review, Turn

KNOWN = range(1, 12)


def verdict(ids, reason="why"):
  return (f"<judge_reason>{reason}</judge_reason>"
          f"<target_rule>{ids}</target_rule>")


@pytest.mark.parametrize("text,rules", [
    (verdict("[-1]"), ()), (verdict("[6]"), (6,)),
    (verdict("[8, 6,6]"), (6, 8)), (verdict("[ 1，2、3 ]"), (1, 2, 3)),
    ("Let me see.\n\n" + verdict("[11]") + "\n", (11,)),
    ("<think>a [2] <target_rule></think>" + verdict("[-1]"), ()),
    ("<judge_reason>\na\n</judge_reason>\n\n<target_rule>\n[4]\n</target_rule>",
     (4,)),
])
def test_parsed(text, rules):
  said = review.parse(text, KNOWN)
  assert (said.rules, said.failed) == (rules, "")


@pytest.mark.parametrize("text", [
    None, 7, "", "[-1]", "clean", verdict(""), verdict("[]"), verdict("-1"),
    verdict("[-1, 3]"), verdict("[12]"), verdict("[0]"), verdict("[-2]"),
    verdict("[one]"), verdict("[1.5]"), verdict("[1 2]"), verdict("[1,]"),
    verdict("[-1]") + " and more", verdict("[-1]") * 2,
    # What was quoted is no verdict, wherever it stands.
    verdict("[3]", reason="it says <target_rule>[-1]</target_rule>"),
    "<judge_reason>it says: " + verdict("[-1]"),
    "<think>never closed " + verdict("[3]") + "<judge_reason>",
    "<target_rule>[-1]</target_rule><judge_reason>why</judge_reason>",
    verdict("[-1]").replace("</judge_reason>", ""),
    verdict("[-1]").upper(), "<think>" + verdict("[-1]") + "</think>"])
def test_not_parsed(text):
  said = review.parse(text, KNOWN)
  assert said.failed and not said.rules


def malformed(count):
  """Texts that are no verdict: each a real one that was damaged, or junk."""
  draw = random.Random(0)
  tags = ["<judge_reason>", "</judge_reason>", "<target_rule>",
          "</target_rule>"]
  for number in range(count):
    text = verdict(f"[{draw.choice((-1, 3, 12))}]")
    kind = number % 5
    if kind == 0:  # a tag is missing
      yield text.replace(draw.choice(tags), "")
    elif kind == 1:  # it is cut off
      yield text[:draw.randrange(len(text))]
    elif kind == 2:  # ids that are none
      yield verdict("[" + "".join(
          draw.choice("xyz {}'\u0663\u0000") for _ in range(5)) + "]")
    elif kind == 3:  # any bytes
      yield draw.randbytes(draw.randrange(200)).decode("utf-8", "replace")
    else:  # twice, or quoted
      at = draw.choice((0, len(tags[0]), text.index("["), len(text)))
      yield text[:at] + draw.choice(tags) + text[at:]


def test_a_thousand_malformed_verdicts_fail():
  texts = list(malformed(1000))
  assert all(review.parse(text, KNOWN).failed for text in texts)


def test_long_junk_is_read_in_no_time():
  """Milliseconds each; a search that tries every beginning takes minutes."""
  begins = time.process_time()
  for junk in ("<judge_reason>" * 20_000, "[" * 200_000, "[1," * 70_000,
               "<judge_reason></judge_reason><target_rule>[" + "1 " * 40_000
               + "]</target_rule>", verdict("[" + " " * 90_000 + "x]"),
               verdict("[" + "1," * 40_000 + "]")):
    assert review.parse(junk, KNOWN).failed
  assert time.process_time() - begins < 2


def test_the_rules_are_eleven_in_order():
  rules = review.rules()
  assert [rule.id for rule in rules] == list(KNOWN)
  assert all(rule.name and rule.text for rule in rules)


def test_own_rules(tmp_path):
  path = tmp_path / "rules.tsv"
  path.write_text("id\tname\ttext\n7\tspoilers\tIt must not tell the end.\n")
  (rule,) = review.rules(str(path))
  assert rule == (7, "spoilers", "It must not tell the end.")


@pytest.mark.parametrize("text,said", [
    ("", ":1: the columns"), ("id,name,text\n", ":1: the columns"),
    ("id\tname\ttext\n", "no rules"), ("id\tname\ttext\nx\ta\tb\n", ":2: "),
    ("id\tname\ttext\n1\ta\n", ":2: "), ("id\tname\ttext\n0\ta\tb\n", ":2: "),
    ("id\tname\ttext\n1\ta\tb\n1\tc\td\n", "same id")])
def test_rules_that_are_wrong(tmp_path, text, said):
  path = tmp_path / "rules.tsv"
  path.write_text(text)
  with pytest.raises(ValueError, match=said):
    review.rules(str(path))


def test_a_query_shows_rules_and_texts_in_marks_that_follow_from_them():
  rules = review.rules()
  first = Turn(ask("Q {x}?"), "A {y}.")
  shown = review.prompt(first, rules)[0]["content"]
  assert "Q {x}?" in shown and "A {y}." in shown
  assert all(f"{r.id}. {r.name}: {r.text}" in shown for r in rules)
  codes = {
      review.prompt(turn, rules, seed)[0]["content"].split("<answer ")[1][:8]
      for turn in (first, Turn(ask("Q"), "A")) for seed in (0, 1)}
  assert len(codes) == 4
  assert shown == review.prompt(first, rules)[0]["content"]
  whole = review.prompt(Turn((
      {"role": "user", "content": "one"}, {"role": "assistant",
                                           "content": "two"},
      {"role": "user", "content": "three"}), "four"), rules)[0]["content"]
  assert "[user] one\n\n[assistant] two\n\n[user] three" in whole


def test_a_model_is_asked_once():
  asked = []

  def generate(conversations):
    asked.append(len(conversations))
    return [verdict("[2]"), None, "junk"]

  turns = [Turn(ask(q), "a") for q in "abc"]
  said = review.by_model(generate, review.rules())(turns)
  assert asked == [3]
  assert said == [Review((2,), "why"), Review(failed="no review"),
                  Review(failed="unparsed verdict")]


def test_a_program_that_raises_fails_for_one_answer():
  def function(messages, answer):
    return {"clean": [-1], "none": [], "bad": (9, 2), "?": None}[answer]

  turns = [Turn(ask("q"), a) for a in ("clean", "none", "bad", "?", "x")]
  said = review.by_program(function)(turns)
  assert said[:3] == [Review(), Review(), Review((2, 9))]
  assert said[3].failed == "no verdict"
  assert said[4].failed == "KeyError: 'x'"


def test_an_error_does_not_carry_the_answer_out():
  said = review.cause(ValueError("bad\n" + "secret " * 99))
  assert said == "ValueError: bad"
  assert len(review.cause(ValueError("secret " * 99))) <= 120
