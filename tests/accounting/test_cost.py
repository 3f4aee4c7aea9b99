import json

import numpy as np
import pytest

from r1jax.accounting import cost, flops
from r1jax.core.types import Rollout, TokenBatch
from r1jax.models import presets


@pytest.fixture
def record(tmp_path):
  """A record that begins with nothing spent."""
  cost.Record(tmp_path / "before").write()
  return cost.Record(tmp_path)


def stored(tmp_path):
  return json.loads((tmp_path / "cost.json").read_text())


def test_the_papers_table():
  """arXiv:2501.12948 v2, B.4.4: 512 H800 for 198 hours, and for 80; data 5K."""
  lines = cost.table({"R1-Zero": 64 * 8 * 198, "SFT data": 5000,
                      "R1": 64 * 8 * 80}, price=2.0, unit=1000)
  assert [line.part for line in lines] == ["R1-Zero", "SFT data", "R1", "total"]
  assert [line.hours for line in lines] == [101e3, 5e3, 41e3, 147e3]
  assert [line.dollars for line in lines] == [202e3, 10e3, 82e3, 294e3]


def test_what_is_not_rounded_is_priced_as_it_is():
  lines = cost.table({"a": 1.25, "b": 2.5}, price=2.0)
  assert [line.dollars for line in lines] == [2.5, 5.0, 7.5]


def by_hand(cfg, keys, factor=1.0, absorbed=False):
  """Operations of tokens one by one."""
  return factor * sum(flops.forward(cfg, n, absorbed=absorbed) for n in keys)


@pytest.mark.parametrize("cfg", [presets.TINY, presets.TINY_DENSE])
def test_samples_are_counted_token_by_token(record, tmp_path, cfg):
  lengths_QG = np.array([[3, 1], [2, 5]], np.int32)
  rollout = Rollout(
      prompt_tokens=(np.zeros(4, np.int32), np.zeros(7, np.int32)),
      prompt_ids_Q=np.arange(2), tokens_QGT=np.zeros((2, 2, 5), np.int32),
      lengths_QG=lengths_QG, truncated_QG=lengths_QG > 9,
      logprobs_QGT=np.zeros((2, 2, 5), np.float32))
  cost.sampled(cfg, rollout)
  record.write()
  want = by_hand(cfg, [*range(1, 5), *range(1, 8)])  # each prompt once
  for prompt, row in zip((4, 7), lengths_QG):
    for length in row:
      want += by_hand(cfg, range(prompt + 1, prompt + length + 1),
                      absorbed=cfg.attention == "mla")
  found = stored(tmp_path)
  assert found["passes"] == {"prefill": 11, "sample": 11}
  np.testing.assert_allclose(found["flops"], want, rtol=1e-12)


@pytest.mark.parametrize("scalar", [False, True])
def test_packed_rows_are_counted_without_padding(record, tmp_path, scalar):
  cfg = presets.TINY_DENSE
  segments = np.array([[1, 1, 1, 2, 2, 0], [1, 1, 1, 1, 0, 0]], np.int32)
  positions = np.array([[0, 1, 2, 0, 1, 0], [0, 1, 2, 3, 0, 0]], np.int32)
  batch = TokenBatch(tokens_BT=segments, targets_BT=segments,
                     segments_BT=segments, positions_BT=positions,
                     mask_BT=np.float32(segments))
  cost.read("train", cfg, batch, factor=cost.TRAINING, scalar=scalar)
  record.write()
  want = by_hand(cfg, [1, 2, 3, 1, 2, 1, 2, 3, 4], factor=3)
  if scalar:  # one column of the head in place of the vocabulary's
    want -= 3 * 2 * 9 * cfg.d_model * (cfg.vocab_size - 1)
  found = stored(tmp_path)
  assert found["passes"] == {"train": 9} and found["tokens"] == 9
  np.testing.assert_allclose(found["flops"], want, rtol=1e-12)


def test_a_record_adds_up_over_starts(record, tmp_path):
  cost.took("rollout", 2.0)
  cost.count("sample", presets.TINY, 10, 55.0)
  record.write()
  first = stored(tmp_path)
  cost.took("rollout", 1.0)
  cost.took("update", 0.5)
  record.write()
  again = cost.Record(tmp_path)
  cost.count("sample", presets.TINY, 10, 55.0)
  again.write()
  found = stored(tmp_path)
  assert found["phases"]["rollout"] == 3.0 and found["phases"]["update"] == 0.5
  assert found["tokens"] == 20 and found["flops"] == 2 * first["flops"] > 0
  assert found["seconds"] > first["seconds"] > 0
  np.testing.assert_allclose(
      found["chip_hours"], found["chips"] * found["seconds"] / 3600)
  cost.Record(tmp_path / "other").write()
  assert stored(tmp_path / "other")["tokens"] == 0  # spent once, written once


def test_what_came_before_a_record_is_nobodys(record, tmp_path):
  cost.count("sample", presets.TINY, 10, 55.0)
  cost.Record(tmp_path / "other").write()
  assert stored(tmp_path / "other")["tokens"] == 0


def test_an_empty_batch_costs_nothing(record, tmp_path):
  cost.count("train", presets.TINY, 0, 0.0)
  record.write()
  assert stored(tmp_path)["flops"] == 0
