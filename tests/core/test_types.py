"""The values that travel."""

import jax
import numpy as np

from r1jax.core import types


def test_completion_ends_at_its_length():
  rollout = types.Rollout(
      prompt_tokens=(np.array([1]), np.array([2, 3])),
      prompt_ids_Q=np.array([5, 7]),
      tokens_QGT=np.arange(2 * 3 * 4).reshape(2, 3, 4),
      lengths_QG=np.array([[1, 2, 3], [4, 1, 2]]),
      truncated_QG=np.zeros((2, 3), bool),
      logprobs_QGT=np.zeros((2, 3, 4)))
  assert rollout.completion(0, 2).tolist() == [8, 9, 10]
  assert rollout.completion(1, 0).tolist() == [12, 13, 14, 15]


def test_token_batch_is_a_tree():
  row_BT = np.ones((2, 3), np.int32)
  batch = types.TokenBatch(
      tokens_BT=row_BT, targets_BT=row_BT, segments_BT=row_BT,
      positions_BT=row_BT, mask_BT=row_BT.astype(np.float32))
  assert len(jax.tree.leaves(batch)) == 5
  doubled = jax.jit(lambda b: b.replace(tokens_BT=b.tokens_BT * 2))(batch)
  assert doubled.tokens_BT.tolist() == (row_BT * 2).tolist()
  assert doubled.experts_BTLA is None
