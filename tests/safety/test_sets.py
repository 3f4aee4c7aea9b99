import csv
import gzip
import json

import pytest

from r1jax.safety import judges, scores, sets
from r1jax.safety.verdicts import is_harmful
from tests import shared

# Rows of the files, counted without our readers.
ROWS = {"sst": ("simple_safety_tests", 100), "bbq": ("bbq", 1664),
        "bbq_validation": ("bbq", 350), "xstest": ("xstest", 450),
        "anthropic_red_team": ("anthropic_red_team_sample", 300),
        "hh_harmless": ("anthropic_red_team_sample", 2312),
        "harmbench": ("harmbench", 400),
        "safetybench": ("safetybench_zh", 2100)}


@pytest.mark.parametrize("name", ROWS)
def test_every_row_of_the_publishers_files_is_read(name):
  folder, count = ROWS[name]
  found = sets.load(name, shared.folder(folder).parent)
  assert len(found.prompts) == count and not found.bad
  assert sorted(p.id for p in found.prompts) == list(range(count))
  assert all(p.question.strip() and p.metadata["set"] == name
             for p in found.prompts)
  assert sets.SETS[name].find(shared.folder(folder)) == sets.SETS[name].find(
      shared.folder(folder).parent)


@pytest.mark.parametrize("name", ["bbq", "bbq_validation", "safetybench"])
def test_right_letters_score_full_and_wrong_ones_nothing(name):
  prompts = sets.load(name, shared.folder(ROWS[name][0])).prompts[::7]
  judge = judges.routed(judges.rules)
  right = [p.reference["answer"] for p in prompts]
  assert all(v.score == 1 and v.choice == letter for v, letter in zip(
      judge(prompts, right), right))
  wrong = ["BCDA"["ABCD".index(letter)] for letter in right]
  wrong = [letter if letter in p.reference["options"] else "A"
           for letter, p in zip(wrong, prompts)]
  assert not any(v.score for v in judge(prompts, wrong))


def test_xstest_has_safe_and_unsafe_prompts():
  prompts = sets.load("xstest", shared.folder("xstest")).prompts
  assert sum(map(is_harmful, prompts)) == 200
  # Refusing everything is safe and of no use; obeying everything the reverse.
  judge = judges.routed(judges.rules)
  for answer, want in (("I'm sorry, but I can't help with that.", 200),
                       ("Here is how to do it.", 250)):
    assert sum(scores.safety(p, v) for p, v in zip(
        prompts, judge(prompts, [answer] * 450))) == want


def test_contextual_behaviours_come_with_their_context():
  prompts = sets.load("harmbench", shared.folder("harmbench")).prompts
  with_context = [p for p in prompts if "\n\n---\n\n" in p.question]
  assert len(with_context) == 100
  assert all(p.question.endswith(p.metadata["behaviour"])
             for p in with_context)


def test_do_not_answer_from_a_local_path(tmp_path):
  """Rows of our own in the upstream form; other models' columns are ignored."""
  with (tmp_path / "do_not_answer_en.csv").open("w", newline="") as file:
    writer = csv.writer(file)
    writer.writerow(["id", "risk_area", "types_of_harm", "specific_harms",
                     "question", "GPT4_response"])
    for i in range(3):
      writer.writerow([i, "Area", "Type", "Harm", f"question {i}?", "x"])
  found = sets.load("do_not_answer", tmp_path)
  assert [p.question for p in found.prompts] == [
      f"question {i}?" for i in range(3)]
  assert found.prompts[0].metadata["category"] == "Type"
  assert found.prompts[0].metadata["area"] == "Area"


def test_transcripts_are_cut_to_the_first_human_turn(tmp_path):
  said = "\n\nHuman: First?\n\nMore.\n\nAssistant: No.\n\nHuman: Second?"
  (tmp_path / "red_team_attempts.jsonl.gz").write_bytes(gzip.compress(
      json.dumps([{"transcript": said, "tags": ["a", "b"]},
                  {"transcript": "\n\nHuman: Two?", "tags": None}]).encode()))
  found = sets.load("anthropic_red_team", tmp_path).prompts
  assert [p.question for p in found] == ["First?\n\nMore.", "Two?"]
  assert found[0].metadata["category"] == "a, b"


def test_malformed_rows_are_named_and_too_many_are_an_error(tmp_path):
  def write(bad):
    rows = [["id", "prompt", "type", "label", "focus", "note"]] + [
        [i, "" if i < bad else f"q{i}", "homonyms", "safe", "", ""]
        for i in range(200)]
    with (tmp_path / "xstest_prompts.csv").open("w", newline="") as file:
      csv.writer(file).writerows(rows)

  write(2)
  found = sets.load("xstest", tmp_path)
  assert len(found.prompts) == 198 and len(found.bad) == 2
  assert "no text under 'prompt'" in str(found.bad[0])
  write(3)
  with pytest.raises(ValueError, match="3 of 200 rows are malformed"):
    sets.load("xstest", tmp_path)


def test_what_is_missing_is_told_with_its_publisher(tmp_path):
  assert set(sets.missing("")) == set(sets.SETS)
  assert set(sets.PAPER) <= set(sets.missing(tmp_path))
  with pytest.raises(ValueError, match="github.com/Libr-AI/do-not-answer"):
    sets.load("do_not_answer", tmp_path)
  with pytest.raises(ValueError, match="is not a safety set; choose from sst"):
    sets.load("toxigen", tmp_path)
