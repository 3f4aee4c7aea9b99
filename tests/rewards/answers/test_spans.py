"""DROP's F1, to the cases that its publisher's own evaluator is tested by."""

import itertools

import numpy as np
import pytest

from r1jax.core.prompt import Prompt, ask
from r1jax.rewards import response
from r1jax.rewards.answers import spans

# (predicted, gold, exact match, F1 to two places): the outcomes that
# allenai/allennlp-reading-comprehension@02bc7a4 holds its evaluator to.
PUBLISHED = [
    (["78"], ["78.0"], 1, 1), (["td"], ["td", "td"], 0, 0.5),
    (["td", "td"], ["td"], 0, 0.5),
    (["the", "fat", "cat", "the fat", "fat cat", "the fat cat"], ["cat"], 0,
     0.17),
    (["cat"], ["the", "fat", "cat", "the fat", "fat cat", "the fat cat"], 0,
     0.17),
    (["the", "fat", "cat", "the fat", "fat cat", "the fat cat"],
     ["cat", "cat dog"], 0, 0.25),
    (["td"], ["the td"], 1, 1),
    (["the a NOT an ARTICLE the an a"], ["NOT ARTICLE"], 1, 1),
    (["John Elton"], ["Elton John"], 0, 1), (["50 yard"], ["yard 50"], 0, 1),
    (["Per.i.o.d...."], [".P....e.r,,i;;;o...d,,"], 1, 1),
    (["78-yard"], ["78 yard"], 1, 1), (["78"], ["78-yard"], 0, 0.67),
    (["78-yard"], ["78"], 0, 0.67),
    (["This was a triumph"], ["tHIS Was A TRIUMPH"], 1, 1),
    (["Green", "bay", "packers"], ["Green", "bay", "packers"], 1, 1),
    ([""], ["army"], 0, 0), (["packers"], ["Green bay packers"], 0, 0.5),
    (["packers"], ["Green bay"], 0, 0), (["yard"], ["36 yard td"], 0, 0),
    (["23 yards"], ["43 yards"], 0, 0), (["56 yards"], ["56 yd"], 0, 0.5),
    (["26"], ["26 yard td"], 0, 0.5),
    (["78-yard", "56", "28", "40", "44", "touchdown"],
     ["78-yard", "56 yard", "1 yard touchdown"], 0, 0.28),
    (["23", "23 yard"], ["23-yard", "56 yards"], 0, 0.5),
    (["John Karman", "Joe Hardy"], ["Joe Karman", "John Hardy"], 0, 0.5),
    (["ottoman", "Kantakouzenous"], ["ottoman", "army of Kantakouzenous"], 0,
     0.75),
    (["a"], ["a", "b"], 0, 0.5), (["b"], ["b", "a"], 0, 0.5),
]


@pytest.mark.parametrize("predicted,gold,exact,f1", PUBLISHED)
def test_the_publishers_cases(predicted, gold, exact, f1):
  found = spans.measured(predicted, gold)
  assert found[0] == exact and round(found[1], 2) == f1


@pytest.mark.parametrize("text,same", [
    ("12.0", "12.000"), ("12.0", "  1.2e1  "), ("S.K. Singh", "sk singh"),
    ("12.0 persons", "12 persons")])
def test_normal_forms(text, same):
  assert spans.normal(text) == spans.normal(same)


def test_spans_are_paired_as_the_best_of_all_pairings():
  rng = np.random.default_rng(0)
  words = "red green blue 1 2 3".split()
  for _ in range(60):
    ours, theirs = ([" ".join(rng.choice(words, rng.integers(1, 4)))
                     for _ in range(rng.integers(1, 5))] for _ in range(2))
    longer = max(len(ours), len(theirs))
    padded = ours + [None] * (longer - len(ours))
    best = max(
        sum(f1(a, b) for a, b in zip(theirs, order) if b is not None)
        for order in itertools.permutations(padded)) / longer
    assert spans.measured(ours, theirs)[1] == pytest.approx(best, abs=5.1e-5)


def f1(gold, predicted):
  a, b = set(gold.split()), set(predicted.split())
  numbers = {w for w in a if w.isdigit()}
  if numbers and not numbers & b:
    return 0.0
  shared = len(a & b)
  if not shared:
    return 0.0
  precision, recall = shared / len(b), shared / len(a)
  return 2 * precision * recall / (precision + recall)


def score(text, answers):
  prompt = Prompt(id=1, domain="general", source="drop", messages=ask("?"),
                  reference={"answers": answers}, verifier="drop")
  return spans.verify(prompt, response.split("<think>", f"x</think>{text}"))


@pytest.mark.parametrize("text,answers,value,exact", [
    ("So many.\nAnswer: 17 August", [["17 August"], ["17"]], 1, 1),
    ("Answer: Bears | Packers", [["Packers", "Bears"]], 1, 1),
    ("Answer: Packers", [["Packers", "Bears"], ["Bears"]], 0.5, 0),
    ("<answer> 36-yard </answer>", [["36 yards"], ["36 yard"]], 1, 1),
    ("Answer: 36 yards", [["36"]], 0.6667, 0),
    ("Answer: 35", [["36"]], 0, 0), ("", [["36"]], 0, 0),
    ("Answer: " + "x" * 3000, [["x"]], 0, 0),
])
def test_verdicts(text, answers, value, exact):
  got = score(text, answers)
  assert got.value == pytest.approx(value, abs=1e-4) and got.valid
  assert got.parts == {"exact": exact}


def test_answers_vote_by_their_normal_form():
  assert score("Answer: The Bears | 3", [["3"]]).answer == score(
      "Answer: 3.0 | bears", [["3"]]).answer
