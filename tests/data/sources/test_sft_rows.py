"""What rows of supervised data may say: nothing is dropped in silence."""

import codecs
import json
import re

import numpy as np
import pytest

from r1jax.data.sources import sft_rows
from r1jax.data.streams import sft, sft_stream
from tests.data.streams.test_sft import AGAIN, ASK, BRIEF, PAIR, THOUGHT, write
from tests.stages import cases


def load(path, **more):
  return sft.load([path], cases.tokenizer(), "plain", 60, **more)


def parsed(**fields):
  return sft_rows.parsed(json.dumps(fields).encode())


@pytest.mark.parametrize("name", sft_rows._THOUGHTS)
def test_a_thought_of_its_own_field_stands_before_the_answer(name):
  apart = {"role": "assistant", "content": "42", name: "\n30 + 12\n"}
  assert parsed(messages=[ASK, apart]).messages == [ASK, THOUGHT]
  for empty in ("", None):
    assert parsed(messages=[ASK, BRIEF | {name: empty}]).messages[1] == BRIEF
  twice = THOUGHT | {name: "And once more."}
  assert "has a thought in its content and" in parsed(messages=[ASK, twice])
  assert "is not one string in" in parsed(messages=[ASK, BRIEF | {name: 3}])


@pytest.mark.parametrize("name", ["weight", "loss_mask"])
def test_an_answers_weight_is_honoured(tmp_path, name):
  """0 leaves it in the context, with its end; rows have factors as well."""
  turns = [ASK, BRIEF, AGAIN, BRIEF]
  path = write(tmp_path / "x.jsonl", {"messages": turns}, {"messages": [
      ASK | {name: 0}, BRIEF | {name: 0}, AGAIN, BRIEF | {name: 1}]},
      {"weight": 0.5, "messages": [
          ASK, BRIEF | {name: 0.25}, AGAIN, BRIEF | {name: 2}]})
  data = load(path, weights={"x": 3.0})
  plain, masked, weighed = data.examples
  for example in (masked, weighed):
    np.testing.assert_array_equal(example.tokens, plain.tokens)
  starts = np.flatnonzero(np.diff(plain.trained.astype(int)) == 1) + 1
  first = np.arange(len(plain.tokens)) < starts[1]
  np.testing.assert_array_equal(masked.trained, plain.trained & ~first)
  np.testing.assert_array_equal(weighed.trained, plain.trained)
  np.testing.assert_array_equal(
      weighed.weight, np.float32(0.5) * plain.trained * np.where(
          first, 0.25, 2))
  packed = sft.Packed(data.examples, 4, 60, epochs=1).batch(0)
  total = sum((e.weight * e.trained).sum() for e in data.examples)
  assert packed.weights_BT.sum() == np.float32(total)
  assert data.trained == sum(e.trained.sum() for e in data.examples)


def test_a_stream_has_the_same_weights(tmp_path):
  path = write(tmp_path / "x.jsonl", PAIR | {"weight": 0.5, "source": "a"}, {
      "messages": [ASK, BRIEF | {"weight": 0}, AGAIN, BRIEF | {"weight": 3}]},
      PAIR | {"year": 1984})
  shared = [path], cases.tokenizer(), "plain", 60, {"a": 3.0}
  whole = sft.load(*shared)
  stream = sft_stream.load(*shared, quiet=True)
  assert whole.explain("x") == stream.explain("x")
  assert "fields of rows that are ignored: year" in whole.explain("x")
  for mine, other in zip(stream.examples, whole.examples, strict=True):
    np.testing.assert_array_equal(mine.trained, other.trained)
    np.testing.assert_array_equal(mine.weight, other.weight)
  assert whole.examples[0].weight == 1.5


REFUSED = [
    (dict(messages=[ASK | {"weight": 1}, BRIEF]), "only answers are trained"),
    (dict(messages=[ASK, BRIEF | {"weight": 1, "loss_mask": 1}]), "give one"),
    (dict(messages=[ASK, BRIEF | {"weight": -1}]), "is not a finite number"),
    (dict(messages=[ASK, BRIEF | {"weight": 0}]), "all its answers have"),
    (PAIR | {"weight": "x"}, "its weight 'x' is not a finite"),
    (dict(messages=[ASK, BRIEF], tools=[{"name": "f"}]), "it has tools, which"),
    (dict(messages=[ASK, BRIEF | {"tool_calls": [{"name": "f"}]}]),
     "it has tool_calls, which are not supported"),
    (PAIR | {"weight": 10**400}, "its weight 1000.* is not a finite number"),
    (PAIR | {"weight": 1e-60}, "its weight 1e-60 is not a finite number"),
    (PAIR | {"weight": 0}, "its weight is 0, so nothing of it would"),
    (PAIR | {"source": 0}, "its source is not a string but 0"),
    (dict(messages=[ASK, BRIEF | {"content": None}]), "content is None, not a"),
    (dict(messages=[ASK | {"content": [{"type": "image"}]}, BRIEF]),
     "content is .*'image'.*, not a text"),
    (dict(messages=[ASK | {"role": "developer"}, BRIEF]),
     "a role of system, user, assistant but 'developer'"),
    (dict(messages=["a", "b"]), "a message is 'a', not an object with role"),
    (dict(prompt=[ASK], completion=[BRIEF]), "conversation belongs into mess"),
    (dict(conversations=[ASK, BRIEF]), "completion; it has conversations"),
    (dict(messages=[ASK, BRIEF | {"reasoning": "\ud800"}]),
     "a thought has a lone surrogate")]


@pytest.mark.parametrize("row,reason", REFUSED, ids=[r for _, r in REFUSED])
def test_what_cannot_be_honoured_is_refused(row, reason):
  assert re.search(reason, parsed(**row))


def test_parts_of_text_are_one_text():
  """As programs for images write every message."""
  parts = [{"type": "text", "text": ASK["content"][:4]},
           {"type": "text", "text": ASK["content"][4:]}]
  assert parsed(messages=[ASK | {"content": parts}, BRIEF]).messages == [
      ASK, BRIEF]
  thought = {"role": "assistant", "content": [{"type": "text", "text": "42"}],
             "reasoning": "30 + 12"}
  assert parsed(messages=[ASK, thought]).messages[1] == THOUGHT


@pytest.mark.parametrize("messages", [[ASK, AGAIN, BRIEF], [ASK, BRIEF, BRIEF]])
def test_plain_templates_have_no_room_for_two_of_a_role(tmp_path, messages):
  path = write(tmp_path / "x.jsonl", *[PAIR] * 99, {"messages": messages})
  assert "two messages of one role follow each other" in load(path).malformed[0]


def test_empty_fields_of_tools_are_none():
  assert parsed(messages=[ASK, BRIEF | {"tool_calls": None}], tools=[]
                ).messages == [ASK, BRIEF]


def test_a_mark_of_byte_order_is_passed_over(tmp_path):
  path = write(tmp_path / "x.jsonl", PAIR, PAIR)
  plain = load(path).examples
  path.write_bytes(codecs.BOM_UTF8 + path.read_bytes())
  data = load(path)
  assert not data.malformed
  cases.same([e.tokens for e in data.examples], [e.tokens for e in plain])


@pytest.mark.parametrize("indent", [None, 2])
@pytest.mark.parametrize("rows", [[PAIR, {"prompt": "x"}], PAIR])
def test_one_json_value_is_read_whole(tmp_path, rows, indent):
  """An array, or a file of one row that is laid out for people."""
  path = tmp_path / "x.json"
  path.write_text("\ufeff" * (indent is None) + json.dumps(rows, indent=indent))
  found = list(sft_rows.read(path))
  assert found[0] == (f"{path}:1", sft_rows.parse(json.dumps(PAIR).encode()))
  assert [where for where, _ in found[1:]] == [f"{path}:2"] * (rows != PAIR)
  if indent or rows != PAIR:
    with pytest.raises(ValueError, match="is one JSON value; with --workers"):
      sft_stream.load([path], cases.tokenizer(), "plain", 60, quiet=True)
  path.write_text(json.dumps([PAIR], indent=2)[:-3])
  with pytest.raises(ValueError, match="begins as a JSON array but is not"):
    list(sft_rows.read(path))


def test_a_file_without_rows_is_named(tmp_path):
  full = write(tmp_path / "full.jsonl", PAIR)
  for text in ("", "\n\n", "[]"):
    path = tmp_path / "none.jsonl"
    path.write_text(text)
    with pytest.raises(ValueError, match="none.jsonl is empty: it has no rows"):
      sft.load([full, path], cases.tokenizer(), "plain", 60)
