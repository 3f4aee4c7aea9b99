import dataclasses

import numpy as np
import pytest

from r1jax.core import fitting
from r1jax.data.streams import packing
from tests.reference import data_packing as reference

NAMES = {
    "tokens": "tokens_BT", "targets": "targets_BT", "segments": "segments_BT",
    "positions": "positions_BT", "mask": "mask_BT",
    "advantages": "advantages_BT", "logprobs": "sampler_logprobs_BT",
    "experts": "experts_BTLA",
}
CAPACITY = 37


def _case(seed, count=23):
  rng = np.random.default_rng(seed)
  sequences = []
  for _ in range(count):
    n = int(rng.integers(2, CAPACITY + 2))
    prompt = int(rng.integers(0, n))
    sequences.append(packing.Sequence(
        tokens=rng.integers(1, 500, n).astype(np.int32), prompt=prompt,
        advantage=float(rng.integers(-9, 9)),
        logprobs=-rng.random(n - prompt).astype(np.float32),
        experts=rng.integers(0, 8, (n - 1, 3, 2)).astype(np.int32)))
  return sequences


def _reference(sequences, count, **broken):
  lengths = [len(s.tokens) - 1 for s in sequences]
  rows = reference.plan(lengths, CAPACITY)
  plain = [dataclasses.asdict(s) for s in sequences]
  return reference.pack(plain, rows, CAPACITY, count, **broken)


@pytest.mark.parametrize("seed", range(5))
def test_best_fit_equals_plain_loops(seed):
  lengths = np.random.default_rng(seed).integers(1, 50, 200)
  got = fitting.best_fit(lengths, 50)
  assert got == reference.plan(lengths.tolist(), 50)
  assert sorted(i for row in got for i in row) == list(range(200))
  assert all(sum(lengths[i] for i in row) <= 50 for row in got)


def test_best_fit_fills_rows():
  lengths = np.random.default_rng(0).integers(20, 100, 512)
  rows = fitting.best_fit(lengths, 256)
  assert lengths.sum() / (len(rows) * 256) > 0.97


@pytest.mark.parametrize("seed", range(3))
def test_pack_equals_plain_loops(seed):
  sequences = _case(seed)
  batch = packing.pack(sequences, CAPACITY, rows=29)
  want = _reference(sequences, 29)
  for name, field in NAMES.items():
    got = getattr(batch, field)
    np.testing.assert_array_equal(got, want[name].astype(got.dtype), name)


@pytest.mark.parametrize("broken", [dict(shift=0), dict(restart=False)])
def test_pack_case_sees_shift_and_positions(broken):
  sequences = _case(0)
  if broken.get("shift") == 0:  # A prompt makes the shifted index valid.
    sequences = [
        dataclasses.replace(
            s, prompt=max(s.prompt, 1),
            logprobs=s.logprobs if s.prompt else s.logprobs[1:])
        for s in sequences]
  good, bad = _reference(sequences, 29), _reference(sequences, 29, **broken)
  assert any((good[name] != bad[name]).any() for name in good)


def test_every_trained_token_is_there_once():
  sequences = _case(4)
  batch = packing.pack(sequences, CAPACITY)
  kept = batch.targets_BT[batch.mask_BT > 0]
  want = np.concatenate([s.tokens[max(s.prompt, 1):] for s in sequences])
  np.testing.assert_array_equal(np.sort(kept), np.sort(want))
  assert batch.mask_BT.dtype == np.float32
  assert batch.tokens_BT.dtype == np.int32


def test_optional_arrays_exist_only_when_given():
  batch = packing.pack([packing.Sequence(tokens=np.arange(5))], 7)
  assert batch.advantages_BT is None and batch.sampler_logprobs_BT is None
  assert batch.experts_BTLA is None and batch.ref_logprobs_BT is None


def test_no_sequences_give_padding():
  batch = packing.pack([], 5, rows=3)
  assert batch.tokens_BT.shape == (3, 5) and not batch.segments_BT.any()


def test_exact_fit_and_rows_bucket():
  batch = packing.pack([packing.Sequence(tokens=np.arange(6))], 5, rows=2)
  np.testing.assert_array_equal(batch.targets_BT, [[1, 2, 3, 4, 5], [0] * 5])
  np.testing.assert_array_equal(batch.segments_BT, [[1] * 5, [0] * 5])


def test_errors_name_the_trouble():
  long = packing.Sequence(tokens=np.arange(12))
  with pytest.raises(ValueError, match="11 slots, a row has 10"):
    packing.pack([long], 10)
  with pytest.raises(ValueError, match="need 2 rows of 11, not rows=1"):
    packing.pack([long, long], 11, rows=1)
  with pytest.raises(ValueError, match="12 tokens, 12 of them prompt"):
    packing.pack([dataclasses.replace(long, prompt=12)], 20)
  with pytest.raises(ValueError, match="differ in having advantage"):
    packing.pack([long, dataclasses.replace(long, advantage=1.0)], 20)
  with pytest.raises(ValueError, match="3 logprobs for 12"):
    packing.pack([dataclasses.replace(long, logprobs=np.zeros(3))], 20)
  with pytest.raises(ValueError, match="experts for 12 tokens"):
    packing.pack([dataclasses.replace(long, experts=np.zeros((12, 1, 1)))], 20)
