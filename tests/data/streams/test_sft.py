"""From rows of JSONL files to masks: answers are trained, nothing else."""

import json

import numpy as np
import pytest

from r1jax.core import fitting
from r1jax.data.streams import packing, sft
from r1jax.data.text import hf_tokenizer
from tests.data.text import hf_cases
from tests.stages import cases

SYSTEM = {"role": "system", "content": "Be terse."}
ASK = {"role": "user", "content": "What is 12 + 30?"}
THOUGHT = {"role": "assistant", "content": "<think>\n30 + 12\n</think>\n\n42"}
AGAIN = {"role": "user", "content": "And the fox?"}
BRIEF = {"role": "assistant", "content": "It is quick."}
TURNS = [SYSTEM, ASK, THOUGHT, AGAIN, BRIEF]


@pytest.fixture(scope="module")
def tokenizers(tmp_path_factory):
  top = tmp_path_factory.mktemp("tokenizers")
  return {name: hf_tokenizer.load(make(top / name))
          for name, make in hf_cases.FAMILIES.items()}


def write(path, *rows):
  path.write_text("".join(
      (row if isinstance(row, str) else json.dumps(row)) + "\n"
      for row in rows))
  return path


def encoded(messages, template, tokenizer):
  eos_id = sft.end_of_answer(template, tokenizer)
  return [sft.encode(spans, template, tokenizer, eos_id)
          for spans in sft.dialogues(messages, template, tokenizer)]


def runs(example, trained):
  """The pieces of ids between the places where `trained` changes."""
  edges = np.flatnonzero(np.diff(example.trained)) + 1
  return [part.tolist() for part, kind in zip(
      np.split(example.tokens, edges), np.split(example.trained, edges))
      if kind[0] == trained]


def test_a_plain_template_in_literal_ids():
  tokenizer = cases.tokenizer()
  eos = min(tokenizer.eos_ids)
  (example,) = encoded([ASK, BRIEF, AGAIN, BRIEF], "plain", tokenizer)
  ids = tokenizer.encode
  first, second = ids("Question: What is 12 + 30? Answer:"), ids(
      "Question: And the fox? Answer:")
  answer = [*ids(" It is quick."), eos]
  assert example.tokens.tolist() == [
      tokenizer.bos_id, *first, *answer, *second, *answer]
  assert runs(example, True) == [answer, answer]
  assert runs(example, False) == [[tokenizer.bos_id, *first], second]


@pytest.mark.parametrize("family", ["qwen", "llama"])
def test_a_chat_is_the_templates_own_text(family, tokenizers):
  """All turns in one sequence; its end tokens are trained, and not doubled."""
  tokenizer = tokenizers[family]
  (example,) = encoded(TURNS, "chat", tokenizer)
  whole = sft.chat.render(tokenizer, TURNS, add_generation_prompt=False)
  assert example.tokens.tolist() == tokenizer.encode_chat(whole.rstrip("\n"))
  end = {"qwen": "<|im_end|>", "llama": "<|eot_id|>"}[family]
  (end_id,) = tokenizer.encode_chat(end)
  assert end_id in tokenizer.eos_ids
  assert runs(example, True) == [
      [*tokenizer.encode(m["content"]), end_id] for m in (THOUGHT, BRIEF)]


def test_of_two_ends_the_one_that_the_template_writes(tokenizers):
  tokenizer = tokenizers["qwen"]
  assert len(tokenizer.eos_ids) == 2
  (end_id,) = tokenizer.encode_chat("<|im_end|>")
  assert sft.end_of_answer("chat", tokenizer) == end_id


def test_where_thoughts_are_dropped_each_answer_has_its_own_sequence(
    tokenizers):
  """R1: the thought is trained where it is new, and gone from the history."""
  tokenizer = tokenizers["deepseek"]
  end_id = min(tokenizer.eos_ids)
  first, second = encoded(TURNS, "chat", tokenizer)
  for example, prompt, answer in (
      (first, TURNS[:2], "30 + 12\n</think>\n\n42"),
      # An answer without a thought closes the one that the prompt opened.
      (second, TURNS[:4], "\n</think>\n\nIt is quick.")):
    text = sft.chat.render(tokenizer, prompt)
    assert text.endswith("<think>\n")
    assert runs(example, False) == [tokenizer.encode_chat(text)]
    assert runs(example, True) == [[*tokenizer.encode(answer), end_id]]
  history = tokenizer.decode(second.tokens[~second.trained])
  assert "30 + 12" not in history and "42" in history


@pytest.mark.parametrize("tail,answer,want", [
    ("", "<think>a</think>b", "<think>a</think>b"),
    ("<think>\n", "<think>a</think>b", "a</think>b"),
    ("<think>\n", " <think>\na</think>b", "a</think>b"),
    ("<think>\n", "a</think>b", "a</think>b"),
    ("<think>\n", "b", "\n</think>\n\nb"),
    ("<think>\n\n</think>\n\n", "<think>\na\n</think>\n\nb", "b"),
    ("<think>\n\n</think>\n\n", "b", "b")])
def test_answers_go_on_where_the_prompt_ends(tail, answer, want):
  assert sft._continuing(tail, answer) == want


def test_an_answer_cannot_spell_control_tokens(tokenizers):
  tokenizer = tokenizers["qwen"]
  forged = {"role": "assistant", "content": "a<|im_end|>b"}
  (example,) = encoded([ASK, forged], "chat", tokenizer)
  trained = example.tokens[example.trained].tolist()
  assert trained[-1] in tokenizer.eos_ids
  assert not tokenizer.eos_ids & set(trained[:-1])
  assert tokenizer.decode(trained) == "a<|im_end|>b"


def test_rows_of_both_forms_are_the_same(tmp_path):
  pair = {"prompt": ASK["content"], "completion": BRIEF["content"]}
  path = write(tmp_path / "x.jsonl", pair, "", {"messages": [ASK, BRIEF]},
               pair | {"source": "fox"}, pair | {"source": None})
  data = sft.load([path], cases.tokenizer(), "plain", 40, {"fox": 0.5})
  assert len({e.tokens.tobytes() for e in data.examples}) == 1
  assert [e.weight for e in data.examples] == [1, 1, 0.5, 1]
  assert (data.too_long, data.malformed, data.sources) == (0, [], {"fox"})
  tokens = sum(len(e.tokens) for e in data.examples)
  assert f"4 examples, {tokens} tokens" in data.explain("x")


PAIR = {"prompt": "a", "completion": "b"}
BAD_ROWS = [
    ("{", "Expecting property name"), ("[1]", "not a JSON object"),
    ("[" * 10**5, "nested too deeply"), ("\"\\ud800\"", "not a JSON object"),
    ({"text": "x"}, "needs either messages, or"),
    (PAIR | {"messages": [ASK, BRIEF]}, "needs either messages, or"),
    ({"prompt": "a"}, "are not both strings"),
    ({"prompt": "a", "completion": 3}, "are not both strings"),
    (PAIR | {"source": 3}, "its source is not a string"),
    ({"messages": [ASK]}, "not a list of at least two"),
    ({"messages": [ASK, {"role": "tool", "content": "x"}]}, "not have a role"),
    ({"messages": [BRIEF, ASK]}, "begins with assistant and ends with user"),
    ({"messages": [SYSTEM, ASK, BRIEF]}, "room for a system message"),
    ({"prompt": "\ud800", "completion": "b"}, "a lone surrogate, which is no")]


@pytest.mark.parametrize("row,reason", BAD_ROWS, ids=[r for _, r in BAD_ROWS])
def test_malformed_rows_are_left_out_and_named(tmp_path, row, reason):
  path = write(tmp_path / "x.jsonl", *[PAIR] * 60, row, *[PAIR] * 60)
  data = sft.load([path], cases.tokenizer(), "plain", 40)
  assert len(data.examples) == 120
  (line,) = data.malformed
  assert line.startswith(f"{path}:61: ") and reason in line
  assert line in data.explain("x")


def test_bytes_that_are_not_text(tmp_path):
  path = write(tmp_path / "x.jsonl", *[PAIR] * 120)
  path.write_bytes(path.read_bytes() + b'{"prompt": "\xff"}\n')
  data = sft.load([path], cases.tokenizer(), "plain", 40)
  assert "x.jsonl:121: it is not UTF-8 text" in data.malformed[0]


def test_more_than_one_percent_stops(tmp_path):
  good, bad = [PAIR] * 99, {"prompt": "a"}
  path = write(tmp_path / "x.jsonl", *good, bad)
  assert len(sft.load([path], cases.tokenizer(), "plain", 40).malformed) == 1
  write(path, *good[1:], bad, bad)
  with pytest.raises(ValueError, match="2 of 100 rows are malformed, more than"
                     r" 1%; .*\n  .*x.jsonl:99: .*\n  .*x.jsonl:100: "):
    sft.load([path], cases.tokenizer(), "plain", 40)


def test_what_stops_at_once_names_the_line(tmp_path):
  def load(*rows, weights=None, capacity=40):
    path = write(tmp_path / "x.jsonl", *[PAIR] * 200, *rows)
    return sft.load([path], cases.tokenizer(), "plain", capacity, weights)

  with pytest.raises(ValueError, match="x.jsonl:201: an answer is empty"):
    load(PAIR | {"completion": " \n"})
  with pytest.raises(ValueError, match="x.jsonl:201: an answer is empty"):
    load({"messages": [ASK, {"role": "assistant", "content": ""}, ASK, BRIEF]})
  with pytest.raises(ValueError, match="x.jsonl:201: source 'cod' has no weight"
                     "; add cod:1 to --source_weights, which has code"):
    load(PAIR | {"source": "cod"}, weights={"code": 2.0})
  with pytest.raises(ValueError, match="none of 200 rows fits a row of 3"):
    load(capacity=3)
  with pytest.raises(ValueError, match="/nowhere cannot be read .No such file"):
    sft.load(["/nowhere"], cases.tokenizer(), "plain", 40)
  with pytest.raises(ValueError, match="^template='r1-one' is unknown"):
    sft.load([tmp_path / "x.jsonl"], cases.tokenizer(), "r1-one", 40)


def test_rows_that_are_too_long_are_counted(tmp_path):
  path = write(tmp_path / "x.jsonl", PAIR, PAIR | {"completion": "b " * 99})
  (short,) = sft.load([path], cases.tokenizer(), "plain", 40).examples
  data = sft.load([path], cases.tokenizer(), "plain", len(short.tokens) - 1)
  assert len(data.examples) == data.too_long == 1
  assert "1 examples are longer than a row" in data.explain("x")


@pytest.mark.parametrize("text,want", [
    ("", {}), ("math:2,code:0.5", {"math": 2.0, "code": 0.5}),
    ("a:b:3", {"a:b": 3.0})])
def test_source_weights(text, want):
  assert sft.source_weights(text) == want


@pytest.mark.parametrize("text", ["math", "math:", "math:x", ":2", "math:0",
                                  "math:-1", "math:inf", "math:nan"])
def test_bad_source_weights(text):
  with pytest.raises(ValueError, match="is not NAME:WEIGHT with a positive"):
    sft.source_weights(text)
  with pytest.raises(ValueError, match="names math twice"):
    sft.source_weights("math:1,math:2")


def examples(count=700, seed=0):
  """Pairwise different; the weight tells the source."""
  rng = np.random.default_rng(seed)
  found = []
  for number in range(count):
    n = int(rng.integers(3, 15))
    trained = rng.random(n) < 0.5
    trained[-1] = True
    tokens = np.r_[number + 10, rng.integers(1, 9, n - 1)].astype(np.int32)
    found.append(sft.Example(tokens, trained, float(rng.choice([0.5, 2.0]))))
  return found


def starts(batch):
  return (batch.positions_BT == 0) & (batch.segments_BT > 0)


def firsts(batch):
  return batch.tokens_BT[starts(batch)]


def test_every_example_comes_once_an_epoch_with_its_weights():
  data = sft.Packed(examples(), rows=8, capacity=17, seed=3, epochs=2)
  batches = [data.batch(n) for n in range(data.steps())]
  assert {b.tokens_BT.shape for b in batches} == {(8, 17)}
  seen = np.concatenate([firsts(b) for b in batches])
  orders = seen[:700], seen[700:]
  assert all(sorted(order) == list(range(10, 710)) for order in orders)
  assert orders[0].tolist() != orders[1].tolist() != sorted(orders[1])
  full = sum((b.segments_BT > 0).sum() for b in batches)
  assert full / (len(batches) * 8 * 17) > 0.9

  by_first = {e.tokens[0]: e for e in data.examples}
  for batch in batches[:9]:
    for b, t in np.argwhere(starts(batch)):
      example = by_first[batch.tokens_BT[b, t]]
      at = slice(t, t + len(example.tokens) - 1)
      np.testing.assert_array_equal(batch.targets_BT[b, at], example.tokens[1:])
      np.testing.assert_array_equal(batch.mask_BT[b, at], example.trained[1:])
      np.testing.assert_array_equal(
          batch.weights_BT[b, at], example.weight * example.trained[1:])


def test_a_batch_follows_from_its_number():
  one, two = (sft.Packed(examples(), 8, 17, seed=3) for _ in range(2))
  whole = list(one.stream(0, 300))
  assert len(whole) == 300  # past the first epoch
  for number, batch in zip(range(290, 300), two.stream(290, 300), strict=True):
    cases.same(vars(batch), vars(whole[number]))
  other = sft.Packed(examples(), 8, 17, seed=4).batch(0)
  assert (other.tokens_BT != whole[0].tokens_BT).any()


def test_fewer_examples_than_rows():
  data = sft.Packed(examples(2), rows=4, capacity=30, epochs=1)
  assert data.steps() == 1
  batch = data.batch(0)
  assert sorted(firsts(batch)) == [10, 11]
  assert not batch.mask_BT[1:].any() and not batch.weights_BT[1:].any()


def test_several_weighted_answers_in_packed_rows():
  """Against plain loops; a dropped weight or a shift is seen."""
  chosen = examples(9, seed=5)
  batch = packing.pack([packing.Sequence(
      tokens=e.tokens, weights=np.float32(e.weight) * e.trained)
      for e in chosen], 23)
  plan = fitting.best_fit([len(e.tokens) - 1 for e in chosen], 23)
  want_BT = np.zeros(batch.tokens_BT.shape)
  for row, items in enumerate(plan):
    slot = 0
    for example in map(chosen.__getitem__, items):
      for t in range(1, len(example.tokens)):
        want_BT[row, slot] = example.trained[t] * example.weight
        slot += 1
  np.testing.assert_array_equal(batch.weights_BT, want_BT)
  np.testing.assert_array_equal(batch.mask_BT, want_BT > 0)
  assert len(np.unique(want_BT)) == 3
  assert (np.roll(want_BT, 1, 1) != want_BT).any()
  with pytest.raises(ValueError, match="2 weights for 5 tokens"):
    packing.pack([packing.Sequence(
        tokens=np.arange(5), weights=np.ones(2, np.float32))], 23)
