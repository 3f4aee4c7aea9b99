"""Pairs of answers: drawn, judged, balanced by length, reported."""

import dataclasses

import numpy as np
import pytest

from r1jax.core.prompt import Prompt, ask
from r1jax.data.sources import preference_rows
from r1jax.rewards.judge import Pair, Preference
from r1jax.stages import labelling
from tests.data.streams.test_sft import write


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
