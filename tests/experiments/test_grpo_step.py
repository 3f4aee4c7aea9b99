"""The benchmark on a step small enough for a test."""

import dataclasses
import json

import numpy as np
import pytest

from experiments.benchmarks import grpo_step
from experiments.benchmarks.grpo_step import WORKLOADS, Workload
from r1jax.accounting import flops
from r1jax.models import presets

RAGGED = Workload(model="tiny-dense", questions=3, samples=2, prompt=5, new=7,
                  mean=3.0, micro_rows=2)


def test_measure(monkeypatch):
  monkeypatch.setattr(grpo_step, "_MATMUL", 64)
  found = grpo_step.measure(RAGGED, reps=2)
  sampled = int(RAGGED.lengths().sum())
  assert found["rollout_tokens"] == sampled
  assert found["update_tokens"] == sampled + 5 * RAGGED.lengths().size
  assert found["rollout_tok_s"] * found["rollout_s"] == pytest.approx(sampled)
  for name in ("update_tok_s", "step_s", "compile_s", "peak_rss_gb",
               "rollout_fraction", "update_fraction", "step_fraction"):
    assert found[name] > 0, name
  assert found["step_s"] >= max(found["rollout_s"], found["update_s"])
  assert len(found["steps"]) == 2
  json.dumps(found)


def test_a_rollout_alone(monkeypatch):
  """What long thoughts cost, at a size for tests: nothing is trained."""
  monkeypatch.setattr(grpo_step, "_MATMUL", 64)
  monkeypatch.setattr(
      grpo_step.Learner, "update", lambda *_: pytest.fail("an update"))
  work = dataclasses.replace(RAGGED, update=False)
  found = grpo_step.measure(work, reps=1)
  assert found["rollout_tokens"] == int(work.lengths().sum())
  assert found["rollout_tok_s"] * found["rollout_s"] == pytest.approx(
      found["rollout_tokens"])
  assert found["peak_rss_gb"] > 0 and "update_tok_s" not in found
  json.dumps(found)


@pytest.mark.parametrize("name,sampled,trained", [
    ("peer-small", 32 * 8 * 128, 32 * 8 * 192), ("peer-moe", 32 * 128, 32 * 192)
])
def test_sizes_of_the_peers(name, sampled, trained):
  lengths = WORKLOADS[name].lengths()
  assert lengths.sum() == sampled
  assert lengths.sum() + 64 * lengths.size == trained


def test_ragged_lengths():
  lengths = WORKLOADS["peer-ragged"].lengths()
  assert lengths.shape == (32, 8)
  assert lengths.min() == 1 and lengths.max() == 128
  # The mean of min(128, 1 + exponential of mean 32), rounded down.
  assert 29 < lengths.mean() < 36
  np.testing.assert_array_equal(lengths, WORKLOADS["peer-ragged"].lengths())


def test_long_lengths():
  work = WORKLOADS["peer-long"]
  lengths = work.lengths()
  assert lengths.shape == (16, 8) and not work.update
  assert lengths.min() >= 1 and 1000 < lengths.max() <= 2048
  # 128 draws: the mean's standard error is 256 / sqrt(128).
  assert abs(lengths.mean() - 256) < 3 * 256 / 128**0.5


def test_operations():
  cfg = presets.get("peer-small")
  rollout, update = grpo_step.operations(cfg, WORKLOADS["peer-small"])
  assert update == pytest.approx(256 * 192 * flops.training(cfg, 192))
  # A prompt is computed once for its group of 8.
  assert rollout == pytest.approx(
      32 * 64 * flops.forward(cfg, 32.5) + 256 * flops.sampling(cfg, 64, 128))
