import numpy as np
import pytest

from r1jax.core.types import TokenBatch
from r1jax.losses import balance, segments
from r1jax.losses.mtp import ahead, mtp_loss, mtp_targets
from r1jax.losses.sft import cross_entropy
from tests.reference import mtp_loss as mtp_reference
from tests.reference import sft as sft_reference

F32 = dict(rtol=1e-5, atol=1e-6)
B, T = 3, 12
# (tokens, prompt) of the sequences of each row.
ROWS = [[([5, 6, 7, 8], 2), ([9, 10, 11, 12, 13], 1)],
        [([14, 15], 1), ([16, 17, 18], 0), ([19, 20, 21, 22], 3)],
        [([23, 24, 25, 26, 27, 28], 4)]]


def batch_of(rows):
  fields = {name: np.zeros((B, T), np.int32) for name in (
      "tokens_BT", "targets_BT", "segments_BT", "positions_BT")}
  mask_BT = np.zeros((B, T), np.float32)
  for b, row in enumerate(rows):
    start = 0
    for s, (tokens, prompt) in enumerate(row, 1):
      for i in range(len(tokens) - 1):
        at = b, start + i
        fields["tokens_BT"][at], fields["targets_BT"][at] = tokens[i:i + 2]
        fields["segments_BT"][at], fields["positions_BT"][at] = s, i
        mask_BT[at] = i + 1 >= prompt
      start += len(tokens) - 1
  return TokenBatch(mask_BT=mask_BT, **fields)


def test_cross_entropy():
  rng = np.random.default_rng(0)
  mask_BT = batch_of(ROWS).mask_BT
  logprobs_BT = rng.normal(-2, 1, (B, T)).astype(np.float32)
  weights_BT = rng.uniform(0.5, 2, (B, T)).astype(np.float32)
  logprobs_BT[mask_BT == 0] = np.nan
  got = cross_entropy(logprobs_BT, mask_BT, weights_BT)
  want = sft_reference.cross_entropy(logprobs_BT, mask_BT, weights_BT)
  np.testing.assert_allclose(got, want, **F32)
  plain = sft_reference.cross_entropy(logprobs_BT, mask_BT, np.ones((B, T)))
  np.testing.assert_allclose(cross_entropy(logprobs_BT, mask_BT), plain, **F32)
  # Teeth: the weights matter to both.
  assert np.all(np.abs(np.subtract(want, plain)) > 1e-2)


def test_mtp_predicts_the_token_after_the_next():
  targets_BT, mask_BT = mtp_targets(batch_of(ROWS))
  got = {(b, t): int(targets_BT[b, t])
         for b, t in zip(*np.nonzero(np.asarray(mask_BT)))}
  assert got == mtp_reference.pairs(ROWS)
  logprobs_BT = np.random.default_rng(1).normal(-2, 1, (B, T))
  want = mtp_reference.loss(ROWS, logprobs_BT)
  np.testing.assert_allclose(
      mtp_loss(np.float32(logprobs_BT), mask_BT), want, **F32)
  # Teeth: the model's own mask is another.
  other = mtp_loss(np.float32(logprobs_BT), batch_of(ROWS).mask_BT)
  assert abs(float(other[0]) - want[0]) > 1e-2


def test_weights_go_with_the_token_after_the_next():
  """The weight of a target is that of the position that predicts it first."""
  batch = batch_of(ROWS)
  rng = np.random.default_rng(2)
  logprobs_BT = rng.normal(-2, 1, (B, T))
  weights_BT = rng.uniform(0.5, 2, (B, T)).astype(np.float32)
  got = mtp_loss(np.float32(logprobs_BT), mtp_targets(batch)[1],
                 ahead(weights_BT))
  pairs = mtp_reference.pairs(ROWS)
  assert all(batch.targets_BT[b, t + 1] == token
             for (b, t), token in pairs.items())
  want = (-sum(logprobs_BT[b, t] * weights_BT[b, t + 1] for b, t in pairs),
          sum(weights_BT[b, t + 1] for b, t in pairs))
  np.testing.assert_allclose(got, want, **F32)
  other = mtp_loss(np.float32(logprobs_BT), mtp_targets(batch)[1], weights_BT)
  assert np.all(np.abs(np.subtract(other, want)) > 1e-2)  # teeth: not shifted


def test_sequences_are_counted():
  batch = batch_of(ROWS)
  assert float(segments.count(batch.mask_BT, batch.segments_BT)) == 6
  mask_BT = batch.mask_BT * (batch.segments_BT != 2)
  assert float(segments.count(mask_BT, batch.segments_BT)) == 4


def test_bias_moves_towards_the_idle():
  load_LE = np.array([[6.0, 2.0, 4.0, 0.0], [3.0, 3.0, 3.0, 3.0],
                      [0.0, 0.0, 0.0, 0.0]], np.float32)
  bias_LE = np.arange(12, dtype=np.float32).reshape(3, 4)
  want_LE = bias_LE.copy()
  want_LE[0] += 0.5 * np.array([-1, 1, -1, 1])  # mean 3
  np.testing.assert_array_equal(
      balance.bias_update(bias_LE, load_LE, 0.5), want_LE)
  got = balance.load_metrics(load_LE)
  # The layer that did not run does not count.
  assert float(got["max_over_mean"]) == pytest.approx((2 + 1) / 2)
  assert float(got["dead_fraction"]) == pytest.approx((1 / 4 + 0) / 2)
  assert "device_max_over_mean" not in got
  assert balance.load_metrics(np.zeros((0, 0))) == {}
  # Experts on two devices: 8 and 4 tokens of 6, then 6 and 6.
  got = balance.load_metrics(load_LE, 2)
  assert float(got["device_max_over_mean"]) == pytest.approx((8 / 6 + 1) / 2)
