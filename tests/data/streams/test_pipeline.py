import functools
import json

import numpy as np
import pytest

from r1jax.core.prompt import Prompt, ask
from r1jax.data.sources import corpus, mixture
from r1jax.data.streams import pipeline

# Of the numbers 0 to 10, seed 0, by the code of the published runs.
PUBLISHED = [0, 4, 10, 7, 8, 3, 1, 9, 5, 2, 6]


class Bytes:
  """One id per byte, for tests."""

  vocab_size, pad_id, bos_id, eos_ids = 259, 0, 1, frozenset({2})

  def encode(self, text):
    return [b + 3 for b in text.encode()]

  def decode(self, ids):
    return bytes(i - 3 for i in ids if i > 2).decode()


def _text(number):
  return f"{number} " + "x" * (number * 7 % 23)


def _documents(**kwargs):
  return pipeline.documents(
      _text, Bytes(), **(dict(rows=5, capacity=64, seed=3) | kwargs))


@pytest.fixture
def prompts():
  return [
      Prompt(id=i, domain="math", source="t", messages=ask(str(i)),
             reference="0", verifier="math")
      for i in range(11)]


@pytest.fixture
def mixed(prompts):
  return mixture.Mixture(
      {"a": prompts, "b": prompts[:7]}, mixture.parse("a:2x,b:0.5x"))


def test_every_prompt_once_an_epoch_in_a_new_order(prompts):
  it = pipeline.prompt_batches(prompts, 4, seed=0)
  ids = [p.id for _ in range(11) for p in next(it)]
  epochs = [ids[i:i + 11] for i in range(0, 44, 11)]
  assert all(sorted(epoch) == list(range(11)) for epoch in epochs)
  assert len(set(map(tuple, epochs))) == 4
  other = pipeline.prompt_batches(prompts, 4, seed=1)
  assert ids[:4] != [p.id for p in next(other)]


def test_the_order_of_a_sequence_is_the_published_one(prompts):
  it = pipeline.prompt_batches(prompts, 11, seed=0)
  # Runs have been published with it.
  assert [p.id for p in next(it)] == PUBLISHED


def test_a_mixture_of_one_has_the_order_of_the_source_alone(prompts):
  alone = pipeline.prompt_batches(prompts, 4, seed=5)
  mixed = pipeline.prompt_batches(
      mixture.Mixture({"a": prompts}, mixture.parse("a")), 4, seed=5)
  assert [next(mixed) for _ in range(9)] == [next(alone) for _ in range(9)]


def test_batches_of_a_mixture_are_its_order(mixed):
  it, at = pipeline.prompt_batches(mixed, 5, seed=3), mixed.order(3)
  for step in range(20):
    assert next(it) == [at(step * 5 + i) for i in range(5)]


@pytest.mark.parametrize("stop", [0, 1, 7])
def test_mixture_position_is_restored(mixed, stop):
  it = pipeline.prompt_batches(mixed, 4, seed=5)
  for _ in range(stop):
    next(it)
  state = json.dumps(it.get_state())
  rest = [next(it) for _ in range(20)]
  other = pipeline.prompt_batches(mixed, 4, seed=5)
  other.set_state(json.loads(state))
  assert [next(other) for _ in range(20)] == rest
  third = pipeline.prompt_batches(mixed, 4, seed=6)
  third.set_state(json.loads(state))
  assert [next(third) for _ in range(20)] != rest


def test_a_batch_larger_than_the_data(prompts):
  batch = next(pipeline.prompt_batches(prompts, 25, seed=0))
  assert len(batch) == 25 and len({p.id for p in batch}) == 11


@pytest.mark.parametrize("stop", [0, 1, 2, 7])
def test_prompt_position_is_restored(prompts, stop):
  it = pipeline.prompt_batches(prompts, 4, seed=5)
  for _ in range(stop):
    next(it)
  state = json.dumps(it.get_state())
  rest = [next(it) for _ in range(9)]
  other = pipeline.prompt_batches(prompts, 4, seed=5)
  other.set_state(json.loads(state))
  assert [next(other) for _ in range(9)] == rest


@pytest.mark.parametrize("stop", [0, 1, 11, 60])
def test_document_position_is_restored(stop):
  it = _documents()
  for _ in range(stop):
    next(it)
  state = json.dumps(it.get_state())
  rest = [next(it) for _ in range(40)]
  other = _documents()
  other.set_state(json.loads(state))
  for batch in rest:
    again = next(other)
    for name in pipeline._FIELDS:
      np.testing.assert_array_equal(
          getattr(batch, name), getattr(again, name), name)


def test_every_document_arrives_whole():
  it, found = _documents(), []
  while len(found) < 1200:
    batch = next(it)
    assert batch.tokens_BT.shape == (5, 64)
    for row in range(5):
      for segment in range(1, batch.segments_BT[row].max() + 1):
        at = batch.segments_BT[row] == segment
        tokens, targets = batch.tokens_BT[row][at], batch.targets_BT[row][at]
        assert tokens[0] == 1 and targets[-1] == 2
        np.testing.assert_array_equal(tokens[1:], targets[:-1])
        np.testing.assert_array_equal(
            batch.positions_BT[row][at], np.arange(at.sum()))
        assert batch.mask_BT[row][at].all()
        text = Bytes().decode(tokens)
        number = int(text.split()[0])
        assert text == _text(number)
        found.append(number)
    assert not batch.mask_BT[batch.segments_BT == 0].any()
  # Chunks of 512 come in order, each complete.
  assert sorted(found[:1024]) == list(range(1024))


def test_rows_are_well_filled_and_order_has_a_seed():
  text = functools.partial(corpus.document, 0)
  streams = [
      pipeline.documents(text, Bytes(), rows=8, capacity=1024, seed=seed)
      for seed in (0, 1)]
  first, second = [[next(s) for _ in range(10)] for s in streams]
  assert np.mean([b.mask_BT.mean() for b in first]) > 0.9
  assert (first[0].tokens_BT != second[0].tokens_BT).any()


def test_errors(prompts):
  with pytest.raises(ValueError, match="0 prompts"):
    pipeline.prompt_batches([], 4, 0)
  with pytest.raises(ValueError, match="batch=0"):
    pipeline.prompt_batches(prompts, 0, 0)
  with pytest.raises(ValueError, match="rows=0"):
    _documents(rows=0)
  with pytest.raises(ValueError, match="a row has 16"):
    next(_documents(capacity=16))
