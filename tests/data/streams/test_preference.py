"""From preference rows to packed ids; what is not used is counted and named."""

import gzip
import json

import numpy as np
import pytest

from r1jax.data.sources import preference_rows
from r1jax.data.streams import preference, sft
from tests import shared
from tests.data.streams.test_sft import write
from tests.stages import cases

USER = {"role": "user", "content": "Hi"}
GOOD, BAD = ({"role": "assistant", "content": x} for x in ("Hello!", "No."))


def conversation(*answers, question="Hi"):
  return tuple((
      {"role": "user", "content": question},
      {"role": "assistant", "content": answer}) for answer in answers)


PAIR = [preference_rows.Row(conversation("Hello!", "No."), 0.0, "")]
FORMS = {
    "prompt": ({"prompt": "Hi", "chosen": "Hello!", "rejected": "No."}, PAIR),
    "messages": ({"messages": [USER], "chosen": GOOD, "rejected": [BAD]}, PAIR),
    "ultrafeedback": ({
        "prompt": "Hi", "chosen": [USER, GOOD], "rejected": [USER, BAD],
        "score_chosen": 8.5, "score_rejected": 6.0},
        [PAIR[0]._replace(label=2.5)]),
    "whole": ({"chosen": [USER, GOOD], "rejected": [USER, BAD]}, PAIR),
    "transcripts": ({
        "chosen": "\n\nHuman: Hi\n\nAssistant: Hello!",
        "rejected": "\n\nHuman: Hi\n\nAssistant: No.", "source": "hh"},
        [PAIR[0]._replace(source="hh")]),
    "open turn": ({"prompt": "\n\nHuman: Hi\n\nAssistant:", "chosen": "Hello!",
                   "rejected": "No."}, PAIR),
    "margin": ({"prompt": "Hi", "chosen": "Hello!", "rejected": "No.",
                "margin": 2}, [PAIR[0]._replace(label=2.0)]),
    "scored": ({"prompt": "Hi", "responses": ["No.", "Hello!", "So."],
                "scores": [1, 3, 1]}, [
                    preference_rows.Row(conversation("Hello!", "No."), 2.0, ""),
                    preference_rows.Row(
                        conversation("Hello!", "So."), 2.0, "")]),
    "label": ({"prompt": "Hi", "response": "Hello!", "label": True},
              [preference_rows.Row(conversation("Hello!"), 1.0, "")]),
    "unsafe": ({"messages": [USER], "response": GOOD, "label": "unsafe"},
               [preference_rows.Row(conversation("Hello!"), 0.0, "")]),
    "annotated": ({"instruction": "Hi", "input": "", "response1": "No.",
                   "response2": "Hello!", "annotator1": 2, "annotator2": 0,
                   "annotator3": 2}, PAIR)}


@pytest.mark.parametrize("form", FORMS)
def test_forms(form, tmp_path):
  row, want = FORMS[form]
  ((where, found),) = preference_rows.read(write(tmp_path / "a.jsonl", row))
  assert found == want and where.endswith("a.jsonl:1")


BROKEN = {
    "neither chosen and rejected": {"prompt": "Hi", "chosen": "Hello!"},
    "neither messages nor prompt": {"response": "Hello!", "label": 1},
    "is not a JSON object": [1],
    "Human:": {"chosen": "Hello!", "rejected": "No."},
    "last message is not the user's": {
        "messages": [USER, GOOD], "chosen": "x", "rejected": "y"},
    "is not a list of messages": {
        "prompt": "Hi", "chosen": True, "rejected": "No."},
    "label=2": {"prompt": "Hi", "response": "Hello!", "label": 2},
    "label='perhaps'": {
        "prompt": "Hi", "response": "Hello!", "label": "perhaps"},
    "is below score_rejected": {
        "prompt": "Hi", "chosen": "a", "rejected": "b", "score_chosen": 1,
        "score_rejected": 2},
    "of the same length": {
        "prompt": "Hi", "responses": ["a"], "scores": [1, 2]},
    "margin=-1.0": {"prompt": "Hi", "chosen": "a", "rejected": "b",
                    "margin": -1},
    "response1 is not a text": {
        "instruction": "Hi", "input": "", "response1": True, "response2": "x",
        "annotator1": 1},
    "surrogates not allowed": {
        "prompt": "\ud800", "chosen": "a", "rejected": "b"}}


@pytest.mark.parametrize("reason", BROKEN)
def test_a_malformed_row_says_why(reason, tmp_path):
  path = write(tmp_path / "a.jsonl", BROKEN[reason])
  ((_, found),) = preference_rows.read(path)
  assert found.reason == "malformed" and reason in found.detail


def rows(count):
  return [{"prompt": f"What is {i}?", "chosen": f"{i} it is",
           "rejected": "no" + " no" * (i % 5), "source": ("a", "b")[i % 2],
           "margin": i % 3} for i in range(count)]


def load(path, loss="pairwise", capacity=48, **options):
  return preference.load(
      [path], cases.tokenizer(), "plain", capacity, loss, **options)


def test_what_is_left_out_is_counted_and_named(tmp_path):
  extra = [
      {"prompt": "a", "chosen": "b", "rejected": " b"},
      {"prompt": "a", "chosen": "b", "rejected": "c", "chosen_score": 1,
       "rejected_score": 1},
      {"prompt": "a", "chosen": "b", "rejected": " "},
      {"prompt": "a " * 60, "chosen": "b", "rejected": "c"}, {"x": 1}]
  found = load(write(tmp_path / "a.jsonl", *rows(100), *extra))
  assert len(found.examples) == 100 and found.rows == 105
  assert sorted(map(len, found.left_out.values())) == [1] * 5
  text = found.explain("a")
  for part in ("100 pairs", "1 left out: both answers are equal",
               "1 left out: ties", "1 left out: an answer is empty",
               "1 left out: longer than a row", "a.jsonl:104:", "malformed",
               "a.jsonl:105: it has neither"):
    assert part in text
  path = write(tmp_path / "b.jsonl", *rows(90), *[{"x": 1}] * 2)
  with pytest.raises(ValueError, match="2 of 92 rows are malformed"):
    load(path)
  with pytest.raises(ValueError, match="no example is left.*\n.*ties"):
    load(write(tmp_path / "c.jsonl", extra[1]))
  with pytest.raises(ValueError, match="no example is left; .* 0 examples"):
    load(write(tmp_path / "d.jsonl"))


def test_margins_and_weights(tmp_path):
  path = write(tmp_path / "a.jsonl", *rows(12))
  plain, scaled = load(path), load(path, margin=0.5, weights={"b": 3.0})
  assert {e.label for e in plain.examples} == {0.0}
  assert [e.label for e in scaled.examples] == [0.5 * (i % 3)
                                               for i in range(12)]
  assert [e.weight for e in scaled.examples] == [1.0, 3.0] * 6
  halves = load(path, "pointwise", margin=0.5)
  assert halves.split == 12 and len(halves.examples) == 24
  assert [e.label for e in halves.examples] == [1.0, 0.0] * 12
  assert "12 pairs are read as two answers" in halves.explain("a")


def test_a_conversation_in_literal_ids(tmp_path):
  tokenizer = cases.tokenizer()
  example = load(write(tmp_path / "a.jsonl", FORMS["prompt"][0])).examples[0]
  start = [tokenizer.bos_id, *tokenizer.encode("Question: Hi Answer:")]
  for ids, answer, length in zip(
      example.sides, (" Hello!", " No."), example.answers):
    said = [*tokenizer.encode(answer), min(tokenizer.eos_ids)]
    assert ids.tolist() == [*start, *said] and length == len(said)


def test_packing_keeps_pairs_side_by_side_in_one_shape(tmp_path):
  examples = load(write(tmp_path / "a.jsonl", *rows(40)), margin=1.0).examples
  data = preference.Packed(examples, 4, 48, epochs=1, sides=2)
  seen = []
  for number in range(data.steps()):
    batch = data.batch(number)
    assert batch.tokens_BT.shape == batch.weights_BT.shape == (8, 48)
    for row in range(0, 8, 2):
      for segment in range(1, batch.segments_BT[row:row + 2].max() + 1):
        found = []
        for side in (row, row + 1):
          at = np.flatnonzero(batch.segments_BT[side] == segment)
          np.testing.assert_array_equal(
              batch.positions_BT[side, at], range(len(at)))
          np.testing.assert_array_equal(
              batch.mask_BT[side, at], [0] * (len(at) - 1) + [1])
          found.append((tuple(batch.tokens_BT[side, at]),
                        batch.labels_BT[side, at[-1]]))
        seen.append(tuple(found))
    # No gaps: a row is its conversations and then padding.
    used = batch.segments_BT > 0
    assert np.all(used[:, :-1] >= used[:, 1:])
  want = [tuple((tuple(side), e.label) for side in e.sides) for e in examples]
  assert sorted(seen) == sorted(want)
  singles = preference.Packed(
      load(tmp_path / "a.jsonl", "pointwise").examples, 4, 48, epochs=1)
  assert singles.batch(0).tokens_BT.shape == (4, 48)
  assert sum(singles.batch(i).mask_BT.sum()
             for i in range(singles.steps())) == 80


def test_no_prompt_is_trained_and_held_out(tmp_path):
  path = write(tmp_path / "a.jsonl", *rows(60), *rows(60))
  train, held = preference.divided(load(path).examples, 0.25)
  assert len(train) + len(held) == 120 and 10 < len(held) < 50
  assert not {e.prompt for e in train} & {e.prompt for e in held}


def test_files_that_cannot_be_read(tmp_path):
  for name in ("none.jsonl", "a.jsonl.gz", "a.json"):
    if "none" not in name:
      (tmp_path / name).write_text("{")
    with pytest.raises(ValueError, match="cannot be read|is not valid JSON"):
      list(preference_rows.read(tmp_path / name))
  with pytest.raises(ValueError, match="is a folder without testset-v1.json"):
    list(preference_rows.read(tmp_path))
  with gzip.open(tmp_path / "b.jsonl.gz", "wt") as file:
    file.write(json.dumps(rows(1)[0]))
  assert len(list(preference_rows.read(tmp_path / "b.jsonl.gz"))) == 1


def test_pandalm():
  found = preference.load([shared.folder("pandalm_prefs")], cases.tokenizer(),
                          "plain", 2048)
  counts = {k.split(";")[0]: len(v) for k, v in found.left_out.items()}
  assert found.rows == 999 and counts["malformed"] == 6
  assert len(found.examples) + sum(counts.values()) == 999
  assert len(found.examples) > 800 and counts["ties"] > 80
  assert {e.source for e in found.examples} == {"pandalm"}


def test_red_team_sample():
  folder = shared.folder("anthropic_red_team_sample")
  found = list(preference_rows.read(folder))
  left = [x for _, x in found if isinstance(x, preference_rows.LeftOut)]
  assert len(found) == 2312 and len(left) < 23
  turns = [len(side) for _, rows in found if isinstance(rows, list)
           for row in rows for side in row.sides]
  assert max(turns) > 6 and min(turns) == 2
  for _, rows in found[:200]:
    if isinstance(rows, list):
      assert rows[0].sides[0] != rows[0].sides[1]


def test_template_follows_the_tokenizer():
  tokenizer = cases.tokenizer()
  assert preference.template_for("auto", tokenizer) == "plain"
  assert preference.template_for("r1-zero", tokenizer) == "r1-zero"
  assert not preference.dated("chat", tokenizer)
  assert sft.end_of_answer("plain", tokenizer) in tokenizer.eos_ids
