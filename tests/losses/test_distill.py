"""Advantages of a student against float64 loops."""

import numpy as np
import pytest

from r1jax.losses import distill
from r1jax.losses.distill import DistillConfig
from tests.losses import test_policy as cases
from tests.reference import distill as reference

F32 = dict(rtol=1e-5, atol=1e-6)


def case(fill=np.nan):
  seqs = cases.sequences()
  rng = np.random.default_rng(8)
  for s in seqs:
    s["teacher"] = list(np.array(s["old"]) + rng.normal(0, 1.0, len(s["old"])))
  seqs[0]["teacher"][0] = -np.inf  # a token that the teacher excludes
  logp_BT, batch = cases.batch_of(seqs, fill)
  return seqs, logp_BT, batch.replace(
      teacher_logprobs_BT=cases.place([s["teacher"] for s in seqs], fill))


def expected(seqs, cfg, old="old"):
  return cases.place([[reference.advantage(
      s["advantage"], max(o, -1e6), max(t, -1e6), cfg.factor, cfg.reward)
      for o, t in zip(s[old], s["teacher"])] for s in seqs], 0.0)


@pytest.mark.parametrize("cfg", [
    DistillConfig(factor=0.7), DistillConfig(factor=1.0, reward=0.0),
    DistillConfig(factor=0.5, reward=2.0, divergence=1.0)], ids=str)
def test_reference(cfg):
  seqs, logp_BT, batch = case()
  found_BT, metrics = distill.advantages(logp_BT, batch, cfg)
  kept = batch.mask_BT > 0
  np.testing.assert_allclose(
      np.where(kept, found_BT, 0), expected(seqs, cfg), **F32)
  gaps = [min(max(o - max(t, -1e6), -20), 20) for s in seqs
          for o, t in zip(s["old"], s["teacher"])]
  np.testing.assert_allclose(
      metrics["teacher_kl"], (sum(gaps), len(gaps)), **F32)
  # Without old log-probabilities the policy's own are the old ones.
  now_BT, _ = distill.advantages(
      logp_BT, batch.replace(old_logprobs_BT=None), cfg)
  np.testing.assert_allclose(
      np.where(kept, now_BT, 0), expected(seqs, cfg, "logp"), **F32)
  # Teeth: each factor is seen, and which policy is the old one.
  for other in (DistillConfig(factor=cfg.factor + 0.1, reward=cfg.reward),
                DistillConfig(factor=cfg.factor, reward=cfg.reward + 0.1)):
    assert np.abs(expected(seqs, other) - expected(seqs, cfg)).max() > 1e-2
  assert np.abs(
      expected(seqs, cfg, "logp") - expected(seqs, cfg)).max() > 1e-2


def test_without_a_teacher_nothing_changes():
  _, logp_BT, batch = case()
  found_BT, metrics = distill.advantages(logp_BT, batch, DistillConfig())
  assert found_BT is batch.advantages_BT and not metrics
  found_BT, metrics = distill.advantages(
      logp_BT, batch, DistillConfig(divergence=1.0, reward=0.0))
  assert not np.any(np.asarray(found_BT)[batch.mask_BT > 0]) and not metrics


def test_bad_settings():
  with pytest.raises(ValueError, match="factor=-1 must not be negative"):
    DistillConfig(factor=-1)
  with pytest.raises(ValueError, match="beta=2 is not in 0..1"):
    DistillConfig(beta=2)
  _, logp_BT, batch = case()
  with pytest.raises(ValueError, match="the batch lacks teacher_logprobs_BT"):
    distill.advantages(logp_BT, batch.replace(teacher_logprobs_BT=None),
                       DistillConfig(factor=1.0))
