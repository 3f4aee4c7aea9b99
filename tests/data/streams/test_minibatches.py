"""A rollout's samples in minibatches of packed rows."""

import numpy as np
import pytest

from r1jax.core.types import Rollout
from r1jax.data.streams import minibatches


def rollout(lengths_QG, seed=0):
  rng = np.random.default_rng(seed)
  shape = (*lengths_QG.shape, 9)
  return Rollout(
      prompt_tokens=tuple(rng.integers(1, 99, n).astype(np.int32)
                          for n in 2 + np.arange(len(lengths_QG))),
      prompt_ids_Q=np.arange(len(lengths_QG)),
      tokens_QGT=rng.integers(1, 99, shape).astype(np.int32),
      lengths_QG=lengths_QG, truncated_QG=np.zeros(lengths_QG.shape, bool),
      logprobs_QGT=rng.normal(size=shape).astype(np.float32))


LENGTHS = np.random.default_rng(3).integers(1, 10, (3, 4))


def packed(epoch=0, unit=2):
  parts = minibatches.partition(12, 3, seed=5, step=7, epoch=epoch)
  return minibatches.pack(rollout(LENGTHS), minibatches.own(parts), 16, unit)


def test_every_sample_is_in_one_minibatch_of_an_epoch():
  for epoch in (0, 1):
    found = [set(m.sample_BT[m.sample_BT >= 0]) for m in packed(epoch)]
    assert [len(part) for part in found] == [4, 4, 4]
    assert set.union(*found) == set(range(12))
  first, second = (np.concatenate(minibatches.partition(12, 3, 5, 7, epoch))
                   for epoch in (0, 1))
  assert not np.array_equal(first, second)
  assert np.array_equal(first, np.concatenate(
      minibatches.partition(12, 3, 5, 7, 0)))


def test_slots_know_their_samples():
  sampled, prompts = rollout(LENGTHS), 2 + np.arange(3)
  for batch, sample_BT in packed():
    assert len(sample_BT) % 2 == 0
    np.testing.assert_array_equal(sample_BT >= 0, batch.segments_BT > 0)
    for sample in set(sample_BT[sample_BT >= 0]):
      q, g = divmod(int(sample), 4)
      tokens = np.concatenate(
          [sampled.prompt_tokens[q], sampled.completion(q, g)])
      at = sample_BT == sample
      np.testing.assert_array_equal(batch.tokens_BT[at], tokens[:-1])
      np.testing.assert_array_equal(batch.targets_BT[at], tokens[1:])
      assert batch.mask_BT[at].sum() == LENGTHS[q, g]
      assert at.sum() == prompts[q] + LENGTHS[q, g] - 1


def test_verdicts_are_filled_in_where_the_samples_lie():
  advantages_QG = np.arange(1, 13, dtype=np.float32).reshape(3, 4)
  keep_QG = np.ones((3, 4), bool)
  keep_QG[1, 2] = False
  for minibatch in packed():
    arrays = minibatch.trained(advantages_QG, keep_QG)
    real_BT = minibatch.sample_BT >= 0
    np.testing.assert_array_equal(
        arrays["advantages_BT"][real_BT], minibatch.sample_BT[real_BT] + 1)
    assert not arrays["advantages_BT"][~real_BT].any()
    want_BT = minibatch.batch.mask_BT * (minibatch.sample_BT != 6)
    np.testing.assert_array_equal(arrays["mask_BT"], want_BT)


def test_values_move_from_one_epochs_rows_to_anothers():
  first, second = packed(0), packed(1)

  def value(minibatch):  # a number for each token of each sample
    return np.where(minibatch.sample_BT >= 0, 100 * minibatch.sample_BT
                    + minibatch.batch.positions_BT, 0).astype(np.float32)

  moved = minibatches.relaid([value(m) for m in first], first, second)
  for got, minibatch in zip(moved, second, strict=True):
    np.testing.assert_array_equal(got, value(minibatch))
  # Teeth: the rows of the first epoch are others.
  assert any(a.shape != b.shape or not np.array_equal(a, b)
             for a, b in zip(moved, [value(m) for m in first]))


def test_a_part_without_samples_has_rows_all_the_same():
  (found,) = minibatches.pack(rollout(LENGTHS), [np.array([], int)], 16, 2)
  assert found.batch.tokens_BT.shape == found.sample_BT.shape == (2, 16)
  assert not found.batch.mask_BT.any() and (found.sample_BT == -1).all()
  assert found.batch.sampler_logprobs_BT is not None
  assert not any(x.any() for x in found.trained(
      np.ones((3, 4)), np.ones((3, 4), bool)).values())


def test_a_sample_longer_than_a_row():
  with pytest.raises(ValueError, match="a row has 5"):
    minibatches.pack(rollout(np.full((1, 2), 9)), [np.arange(2)], 5, 1)
