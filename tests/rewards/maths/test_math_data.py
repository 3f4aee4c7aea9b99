from __future__ import annotations

import csv
import fractions
import json

import pytest

from r1jax.core.prompt import Prompt, ask
from r1jax.rewards import response
from r1jax.rewards.maths import answer
from tests.shared import folder


def score(gold, completion, extract=None):
  prompt = Prompt(
      id=1, domain="math", source="test", messages=ask("?"), reference=gold,
      verifier="math", metadata={"extract": extract} if extract else {})
  return answer.verify(prompt, response.split("<think>", completion))


def jsonl(path):
  return [json.loads(line) for line in path.read_text().splitlines()]


def wrong_variants(gold):
  """A number's near misses: off by one, another sign, a digit more."""
  percent = "%" if gold.endswith("%") else ""
  gold = gold.removesuffix("%")
  value = fractions.Fraction(gold.replace(",", ""))
  off = f"{value + 1}{percent}"
  flipped = gold.removeprefix("-") if value < 0 else f"-{gold}"
  return [off, f"{gold}1{percent}", *([flipped + percent] if value else [])]


def test_gsm8k_references_are_rewarded_and_near_misses_are_not():
  count = 0
  for split in ("train", "test"):
    for row in jsonl(folder("gsm8k") / f"{split}.jsonl"):
      gold = row["answer"].rpartition("####")[2].strip()
      boxed = score(gold, f"x</think>\\boxed{{{gold}}}")
      assert boxed.value == 1.0, (gold, boxed)
      stated = score(gold, f"x</think>{row['answer']}", "last")
      assert stated.value == 1.0, (row["answer"], stated)
      assert boxed.answer == stated.answer
      for wrong in wrong_variants(gold):
        assert score(gold, f"x</think>\\boxed{{{wrong}}}").value == 0.0, wrong
        swapped = row["answer"].replace(f"#### {gold}", f"#### {wrong}")
        assert score(gold, f"x</think>{swapped}", "last").value == 0.0, wrong
      count += 1
  assert count == 8792


def test_cmath_golds_are_rewarded_and_near_misses_are_not():
  rows = jsonl(folder("cmath") / "cmath_dev.jsonl")
  assert len(rows) == 600
  for row in rows:
    gold = row["golden"]
    for text in (f"\\boxed{{{gold}}}", f"答案是{gold}。", f"一共有{gold}个。"):
      got = score(gold, f"x</think>{text}", "last")
      assert got.value == 1.0, (gold, text, got)
    for wrong in wrong_variants(gold):
      for text in (f"\\boxed{{{wrong}}}", f"答案是{wrong}。"):
        assert score(gold, f"x</think>{text}", "last").value == 0.0, text


def imo_golds():
  path = folder("imo_answerbench") / "answerbench_v2.csv"
  with path.open(newline="") as file:
    return [row["Short Answer"] for row in csv.DictReader(file)]


def respelled(gold):
  """The same answer in other TeX."""
  bare = gold.strip().rstrip(".")
  yield f"${bare.replace('$', '')}$"
  yield bare.replace("\\frac", "\\dfrac").replace(" ", "  ") + "."
  yield bare.replace("\\frac", "\\tfrac").replace("\\geq", "\\ge")


def test_imo_answerbench_golds_equal_themselves_in_other_spellings():
  golds = imo_golds()
  assert len(golds) == 400
  for gold in golds:
    assert score(gold, f"x</think>\\boxed{{{gold}}}").value == 1.0, gold
  missed = [(gold, text) for gold in golds for text in respelled(gold)
            if answer.compare(text, gold) != "correct"]
  assert not missed


@pytest.mark.parametrize("shift", [
    1, *(pytest.param(s, marks=pytest.mark.slow) for s in (7, 50, 133))])
def test_imo_answerbench_golds_do_not_equal_one_another(shift):
  """No two golds that differ as text are equal: true of every pair here."""
  golds = imo_golds()
  rotated = golds[shift:] + golds[:shift]
  rewarded = [
      (gold, other) for gold, other in zip(golds, rotated)
      if gold.strip("$ \n") != other.strip("$ \n")
      and answer.compare(other, gold) == "correct"]
  assert set(rewarded) <= TRUE_COLLISIONS, rewarded


TRUE_COLLISIONS = {(a, b) for a in ("$\\frac{1}{2}$", "0.5")
                   for b in ("$\\frac{1}{2}$", "0.5")}
