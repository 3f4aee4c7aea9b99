"""Pairs of answers: drawn, judged, balanced by length, reported."""

import dataclasses

import numpy as np
import pytest

from r1jax.core.types import Prompt, ask
from r1jax.data import preference_rows
from r1jax.rewards import judge
from r1jax.rewards.judge import Pair, Preference
from r1jax.rollout.engine import Engine
from r1jax.rollout.sampling import SamplingConfig
from r1jax.stages import labelling
from tests.data.test_sft import write
from tests.stages import cases


def preference(number, lead, chosen=0, votes=(2, 2), swapped=(False, True)):
  """The chosen answer is `lead` characters longer."""
  texts = ["x" * (100 + lead), "x" * 100]
  pair = Pair(id=number, messages=ask("q"), first=texts[chosen],
              second=texts[1 - chosen])
  return Preference(pair=pair, votes=votes, swapped=swapped,
                    delta=2.0 - 4 * chosen, chosen=chosen)


def test_lengths_are_balanced_in_every_class():
  rng = np.random.default_rng(0)
  kept = [preference(i, int(lead), chosen=i % 2) for i, lead in enumerate(
      np.rint(rng.normal(15, 30, 400)).astype(int))]
  used = labelling.balanced(kept, 0)
  before, after = (labelling.report(kept, kept, part)["after"]
                   for part in (kept, used))
  assert before["longer_is_chosen"] > 0.6
  assert after["longer_is_chosen"] == 0.5
  assert before["length_correlation"] > 0.2
  assert abs(after["length_correlation"]) < 0.05
  assert 150 < len(used) < 400
  assert {id(one) for one in used} <= {id(one) for one in kept}
  assert labelling.balanced(kept, 0) == used != labelling.balanced(kept, 1)
  # Equal lengths teach nothing about length and stay.
  assert len(labelling.balanced([preference(i, 0) for i in range(3)], 0)) == 3
  assert labelling.balanced([preference(0, 5)], 0) == []


def test_the_report_counts_everything_once():
  tie = dataclasses.replace(
      preference(0, 1, votes=(2, -2)), delta=0.0, chosen=None)
  lost = dataclasses.replace(
      preference(1, 1, votes=(2, None)), delta=0.0, chosen=None)
  judged = [preference(2, 3), preference(3, -3), tie, lost]
  kept = judged[:2]
  found = labelling.report(judged, kept, kept[:1])
  assert (found["pairs"], found["kept"], found["ties"], found["no_verdict"],
          found["written"]) == (4, 2, 1, 1, 1)
  assert (found["queries"], found["unparsed"]) == (8, 1)
  # Votes for what was shown first: (2, -2), (2, -2), (2, 2), (2).
  assert found["position_bias"] == pytest.approx(6 / 7)
  assert found["before"]["longer_is_chosen"] == 0.5
  assert found["after"]["longer_is_chosen"] == 1


def test_pairs_are_of_different_answers_and_addressed():
  prompts = [Prompt(id=i, domain="general", source="s", messages=ask(str(i)),
                    reference=None, verifier="") for i in range(5)]
  texts = [["a", "b", "a"], ["c", "c"], [" ", "d"], ["e", "f", "g", "h"], []]
  pairs = labelling.draw_pairs(prompts, texts, 2, 0)
  assert [p.messages[0]["content"] for p in pairs] == ["0", "3", "3"]
  assert len({p.id for p in pairs}) == 3
  assert all(p.first != p.second for p in pairs)
  assert labelling.draw_pairs(prompts, texts, 2, 0) == pairs
  assert len(labelling.draw_pairs(prompts, texts, 99, 0)) == 1 + 6


def test_a_row_is_read_back(tmp_path):
  row = labelling.row(preference(0, 4, chosen=1), "mine")
  ((_, (found,)),) = preference_rows.read(write(tmp_path / "a.jsonl", row))
  assert [len(side[-1]["content"]) for side in found.sides] == [104, 100]
  assert (found.label, found.source) == (2.0, "mine")


def test_what_is_compared_is_the_summary_or_everything():
  text = "<think>\nlong\n</think>\n\nShort. "
  assert labelling.shown(text, "summary") == "Short."
  assert labelling.shown(text, "text") == text.strip()
  assert labelling.shown("<think>endless", "summary") == ""


@pytest.fixture(scope="module")
def writer():
  policy = cases.policy(cases.DENSE)
  engine = Engine(policy.model, SamplingConfig(max_new_tokens=6),
                  cases.tokenizer().eos_ids)
  return labelling.Writer(engine, policy, cases.tokenizer(), "plain", batch=4,
                          seed=0)


def test_a_model_answers_whatever_it_is_asked_with(writer):
  questions = [ask(f"What is {i}?") for i in range(6)]
  got = writer.samples(questions, range(6), 2)
  assert all(len(texts) == 2 for texts in got)
  assert any(a != b for a, b in got)
  # In other batches the same question has the same answers.
  again = writer.samples(questions[4:], [4, 5], 2)
  assert again == got[4:]
  programs = writer.engine.compilations()
  writer.samples(questions[:3], range(3), 2)
  assert writer.engine.compilations() == programs  # one shape
  got = writer.samples([ask("word " * 400), questions[0]], [9, 0], 2)
  assert got[0] is None and len(got[1]) == 2  # too long is no answer
  assert writer.engine.compilations() == programs


def test_a_judge_whose_context_is_too_short_decides_nothing(writer):
  pairs = [Pair(id=0, messages=ask("q"), first="a", second="b")]
  found, = judge.compare(writer, pairs, seed=0, queries=2)
  assert found.chosen is None and found.unparsed == 2
  assert labelling.report([found], [], [])["no_verdict"] == 1
