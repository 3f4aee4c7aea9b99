import numpy as np
import pytest

from r1jax.training.advantages import (
    AdvantageConfig,
    group_advantages,
    overlong,
)
from tests.reference import advantages as reference

F32 = dict(rtol=1e-5, atol=1e-6)
Q, G = 6, 5


def case():
  rng = np.random.default_rng(0)
  rewards_QG = rng.normal(size=(Q, G))
  valid_QG = rng.uniform(size=(Q, G)) < 0.8
  truncated_QG = rng.uniform(size=(Q, G)) < 0.4
  rewards_QG[1] = 1 / 3 + np.arange(G) * 1e-9  # alike up to rounding
  truncated_QG[1] = False
  valid_QG[2] = False  # nothing is known
  valid_QG[3] = [True, False, False, False, False]
  rewards_QG[4, 0], valid_QG[4] = np.nan, True
  rewards_QG[5, ~valid_QG[5]] = np.inf
  return rewards_QG, valid_QG, truncated_QG


OPTIONS = [{}, dict(normalize="none"), dict(truncated="mask"),
           dict(truncated="penalise", penalty=0.7), dict(eps=0.1),
           dict(overlong_tokens=8),
           dict(overlong_tokens=20, overlong_penalty=0.3, truncated="mask")]
LONGEST = 20


def lengths():
  """Of the case's samples: those that were truncated have the longest."""
  lengths_QG = np.random.default_rng(1).integers(1, LONGEST, (Q, G))
  lengths_QG[1] = LONGEST - 8  # a group of equal lengths, none in a zone of 8
  return np.where(case()[2], LONGEST, lengths_QG)


def run(cfg):
  return group_advantages(
      *case(), cfg, lengths_QG=lengths(), longest=LONGEST)


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_reference(options):
  cfg = AdvantageConfig(**options)
  got = run(cfg)
  zone = (LONGEST, cfg.overlong_tokens, cfg.overlong_penalty)
  want = [reference.group(*row, cfg.normalize, cfg.truncated, cfg.penalty,
                          cfg.eps, (n, *zone) if cfg.overlong_tokens else None)
          for *row, n in zip(*case(), lengths())]
  np.testing.assert_allclose(
      got.advantages_QG, [w[0] for w in want], **F32)
  np.testing.assert_array_equal(got.keep_QG, [w[1] for w in want])
  assert got.advantages_QG.dtype == np.float32
  np.testing.assert_array_equal(
      got.zero_variance_Q, [False, True, True, True, False, False])
  assert got.info["zero_variance_fraction"] == 0.5
  rewards_QG, valid_QG, _ = case()
  unknown = ~(valid_QG & np.isfinite(rewards_QG))
  assert got.info["invalid_fraction"] == unknown.mean()


def test_teeth():
  results = [run(AdvantageConfig(**o)).advantages_QG for o in OPTIONS]
  for i, a in enumerate(results):
    for b in results[:i]:
      assert np.max(np.abs(a - b)) > 1e-2
  rewards_QG, valid_QG, truncated_QG = case()
  everything = group_advantages(
      rewards_QG, np.ones_like(valid_QG), truncated_QG, AdvantageConfig())
  assert np.max(np.abs(everything.advantages_QG - results[0])) > 1e-2


def test_overlong_by_hand():
  """DAPO's own numbers: 20,480 tokens, of which 4,096 are soft."""
  got = overlong(
      np.array([1, 16_384, 16_385, 18_432, 20_480, 30_000]), 20_480, 4_096)
  np.testing.assert_allclose(got, [0, 0, -1 / 4096, -0.5, -1, -1])


def test_overlong_tells_right_answers_apart():
  """A group of right answers learns to be shorter; so does a masked one."""
  rewards, valid = np.ones((1, 4)), np.ones((1, 4), bool)
  lengths_QG = np.array([[2, 10, 6, 9]])
  cut = lengths_QG == 10
  for truncated in ("keep", "mask"):
    cfg = AdvantageConfig(normalize="none", truncated=truncated,
                          overlong_tokens=4, overlong_penalty=0.5)
    got = group_advantages(
        rewards, valid, cut, cfg, lengths_QG=lengths_QG, longest=10)
    fall = np.array([0, -0.5, 0, -0.375])
    want = (fall - fall.mean()) * (1 if truncated == "keep" else ~cut[0])
    np.testing.assert_allclose(got.advantages_QG[0], want, **F32)
    assert got.info["overlong_penalty"] == fall.mean()
    assert got.info["zero_variance_fraction"] == 0
  off = group_advantages(rewards, valid, cut, AdvantageConfig())
  assert off.info == {"zero_variance_fraction": 1, "invalid_fraction": 0}


def test_masked_samples_count_in_the_baseline():
  rewards = np.array([[1.0, 0.0, 0.0, 1.0]])
  cut = np.array([[False, True, False, False]])
  got = group_advantages(rewards, rewards >= 0, cut,
                         AdvantageConfig(normalize="none", truncated="mask"))
  np.testing.assert_allclose(got.advantages_QG, [[0.5, 0, -0.5, 0.5]])
  np.testing.assert_array_equal(got.keep_QG, ~cut)


def test_bad_arguments():
  rewards_QG, valid_QG, truncated_QG = case()
  with pytest.raises(ValueError, match="shapes"):
    group_advantages(rewards_QG, valid_QG[:2], truncated_QG, AdvantageConfig())
  with pytest.raises(ValueError, match="no baseline"):
    group_advantages(rewards_QG[:, :1], valid_QG[:, :1], truncated_QG[:, :1],
                     AdvantageConfig())
  with pytest.raises(ValueError, match="overlong_tokens=21"):
    group_advantages(*case(), AdvantageConfig(overlong_tokens=21),
                     lengths_QG=lengths(), longest=LONGEST)
  with pytest.raises(ValueError, match="lengths have shapes"):
    group_advantages(*case(), AdvantageConfig(overlong_tokens=2), longest=9)
  for bad in (dict(normalize="l2"), dict(overlong_tokens=-1),
              dict(overlong_penalty=0.0),
              dict(overlong_tokens=4, truncated="penalise", penalty=0.5),
              dict(truncated="drop"), dict(eps=-1.0), dict(penalty=1.0),
              dict(truncated="penalise")):
    with pytest.raises(ValueError, match=list(bad)[0]):
      AdvantageConfig(**bad)
