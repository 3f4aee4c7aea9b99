"""Addressed draws, and what holds for every generator."""

import json
import os
import pathlib
import subprocess
import sys
from collections import Counter

import pytest

from r1jax.core.prompt import Prompt, ask
from r1jax.data.sources.generated import draws
from tests.data.sources.generated import cases

DOMAINS = {"math", "code", "stem", "logic", "general"}
QUICK = [name for name in cases.MODULES if name != "gym"]
# reasoning-gym takes long to import and its puzzles long to make, so one split
# of it stands for the others here; the slow test has all.
CHECKED = [(name, split) for name in QUICK
           for split in cases.module(name).SPLITS] + [("gym", "test")]


@pytest.mark.parametrize("name,split", CHECKED)
def test_rows(name, split):
  rows = cases.rows(name, split)
  assert len(rows) == cases.module(name).SPLITS[split]
  assert [p.id for p in rows] == list(range(len(rows)))
  assert len({p.question for p in rows}) == len(rows)
  for p in rows:
    assert p.domain in DOMAINS and p.source.split("/")[0] == name
    # What JSON would change would not come back from a file as it was.
    for value in (list(p.messages), p.reference, p.metadata):
      assert json.loads(json.dumps(value)) == value


@pytest.mark.parametrize("name", QUICK)
def test_splits_share_no_question(name):
  _disjoint(name)


@pytest.mark.slow
def test_splits_of_gym_share_no_question():
  _disjoint("gym")


def _disjoint(name):
  splits = cases.module(name).SPLITS
  seen = Counter(p.question for split in splits
                 for p in cases.rows(name, split))
  assert len(seen) == sum(splits.values())
  assert max(seen.values()) == 1


@pytest.mark.parametrize("name", cases.MODULES)
def test_unknown_split(name):
  with pytest.raises(ValueError, match="'tset': choose from train, val"):
    cases.module(name).prompts("tset")


def test_rows_are_the_same_in_another_process():
  env = os.environ | {"PYTHONHASHSEED": "12345"}
  done = subprocess.run(
      [sys.executable, "-m", "tests.data.sources.generated.cases",
       *cases.MODULES],
      cwd=pathlib.Path(__file__).parents[4], env=env, check=True,
      capture_output=True, text=True)
  want = {name: cases.digest(name, "test") for name in cases.MODULES}
  assert json.loads(done.stdout.splitlines()[-1]) == want


@pytest.mark.parametrize("name", cases.MODULES)
def test_first_question_is_frozen(name):
  """Changing one means a new version of the data set."""
  assert next(cases.module(name).prompts("train")).question == GOLDEN[name]


def test_dice_depend_on_the_address_alone():
  def draw(*address):
    dice = draws.Dice(*address)
    return [dice.below(1000) for _ in range(5)]

  assert draw("a", "train", 0) == draw("a", "train", 0)
  different = [draw("a", "train", 0), draw("a", "train", 1),
               draw("a", "test", 0), draw("b", "train", 0)]
  assert len(set(map(tuple, different))) == 4
  assert draw("knights", "train", 0) == [326, 120, 732, 258, 492]


def test_dice_are_fair_and_keep_their_bounds():
  dice = draws.Dice("fair")
  counts = Counter(dice.between(3, 7) for _ in range(5000))
  assert sorted(counts) == [3, 4, 5, 6, 7]
  assert all(abs(n - 1000) < 150 for n in counts.values())  # 5 sigma
  firsts = Counter(dice.shuffled("abc")[0] for _ in range(3000))
  assert all(abs(firsts[c] - 1000) < 150 for c in "abc")
  assert sorted(dice.sample(range(9), 9)) == list(range(9))


def test_shares():
  counts = Counter(draws.share(["x", i]) for i in range(10000))
  assert abs(counts["test"] - 1000) < 150  # 5 sigma
  assert abs(counts["validation"] - 1000) < 150
  assert counts.total() == 10000 and len(counts) == 3


def test_too_few_questions():
  def make(dice, split, index):
    return Prompt(
        id=index, domain="logic", source="s", messages=ask(str(dice.below(3))),
        reference="", verifier="exact")

  assert len(list(draws.distinct("s", {"train": 3}, "train", make))) == 3
  rows = draws.distinct("s", {"train": 4}, "train", make)
  with pytest.raises(RuntimeError, match="row 3 in 2000 draws; ask for fewer"):
    list(rows)


GOLDEN = {
    "knights": (
        "Knights always tell the truth and knaves always lie.\n"
        "Noah says: \"Cleo and I are of the same kind.\"\n"
        "Cleo says: \"Noah and I are of the same kind.\"\n"
        "Who is what? Answer one line per person, as \"name: knight\" or "
        "\"name: knave\"."),
    "zebra": (
        "3 houses stand in a row, numbered 1 to 3 from left to right. They "
        "differ in:\npet: bird, fish, zebra\ndrink: cocoa, tea, water\n"
        "music: flute, harp, piano\n"
        "- The fish owner's house is somewhere to the left of the bird owner's "
        "house.\n"
        "- The zebra owner's house is somewhere to the left of the house with "
        "the flute.\n"
        "- The water drinker's house is house 2.\n"
        "- The tea drinker's house is the house with the piano.\n"
        "- The fish owner's house is directly next to the water drinker's "
        "house.\n"
        "Answer as JSON: {\"House 1\": {\"pet\": \"...\", \"drink\": "
        "\"...\", \"music\": \"...\"}, ...}"),
    "gym": "Solve for r: 151 - 85*r = -4099",
    "functions": (
        "Write a Python function f(x) that returns True if x is divisible by 7 "
        "or by 2, else False."),
    "units": (
        "How many amino acids do 567 bases of coding RNA stand for, stop "
        "codons aside?\nA) 192 B) 1701 C) 283.5 D) 189\n"
        "Answer with the letter."),
    "constraints": (
        "Write about the moon. Use these words: moon, basket, finger, open."
        " Use at least 25 different words."),
    "ciphers": "Write these words in reverse order: olive apple square",
}
