import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from r1jax.core.types import TokenBatch
from r1jax.losses.policy import PolicyConfig, policy_loss, policy_weight
from r1jax.losses.presets import PRESETS, get
from tests.reference import policy as reference

F32 = dict(rtol=1e-5, atol=1e-6)
T = 11
# (prompt slots, trained tokens) of the sequences of each row; the third row is
# padding, the last sequence of the second has no trained token.
LAYOUT = [[(2, 3), (1, 4)], [(1, 2), (3, 1), (2, 0)], []]


def sequences(seed=5):
  rng = np.random.default_rng(seed)
  out = []
  for row in LAYOUT:
    for _, n in row:
      logp = rng.normal(-1.5, 0.5, n)
      old = logp + rng.normal(0, 0.4, n)
      out.append(dict(
          advantage=float(np.float32(rng.normal())), logp=list(logp),
          old=list(old), ref=list(logp + rng.normal(0, 0.5, n)),
          sampler=list(old + rng.normal(0, 0.4, n))))
  return out


def place(values, fill):
  """Values of all sequences, [n] each, into their trained slots."""
  out_BT = np.full((len(LAYOUT), T), fill, np.float32)
  values = iter(values)
  for b, row in enumerate(LAYOUT):
    start = 0
    for prompt, n in row:
      out_BT[b, start + prompt:start + prompt + n] = next(values)
      start += prompt + n
  return out_BT


def batch_of(seqs, fill):
  segments_BT = np.zeros((len(LAYOUT), T), np.int32)
  for b, row in enumerate(LAYOUT):
    start = 0
    for i, (prompt, n) in enumerate(row, 1):
      segments_BT[b, start:start + prompt + n] = i
      start += prompt + n
  zeros = np.zeros_like(segments_BT)
  batch = TokenBatch(
      tokens_BT=zeros, targets_BT=zeros, positions_BT=zeros,
      segments_BT=segments_BT,
      mask_BT=place([np.ones(len(s["logp"])) for s in seqs], 0.0),
      advantages_BT=place([s["advantage"] for s in seqs], fill),
      sampler_logprobs_BT=place([s["sampler"] for s in seqs], fill),
      old_logprobs_BT=place([s["old"] for s in seqs], fill),
      ref_logprobs_BT=place([s["ref"] for s in seqs], fill))
  return jnp.asarray(place([s["logp"] for s in seqs], fill)), batch


BASE = dict(clip_low=0.15, clip_high=0.25, kl_beta=0.3, max_length=7)
CASES = [
    {}, dict(aggregation="token_mean"), dict(aggregation="seq_sum"),
    dict(aggregation="constant"), dict(kl_estimator="k1"),
    dict(kl_estimator="k2"), dict(ratio="sequence"),
    dict(objective="cispo"), dict(objective="cispo", ratio="sequence"),
    dict(tis_cap=1.2), dict(tis_cap=1.5, tis_kind="mask"),
    dict(ratio="sequence", aggregation="token_mean", tis_cap=1.1),
    dict(clip_low=10.0, clip_high=10.0), dict(kl_beta=0.0)]


@pytest.mark.parametrize("fill", [1e4, np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("options", CASES, ids=str)
def test_reference(options, fill):
  cfg = PolicyConfig(**BASE | options)
  plain = dataclasses.asdict(cfg)
  seqs = sequences()
  # What lies outside the mask must not matter, nor poison the gradient.
  logp_BT, batch = batch_of(seqs, fill)

  def total(logp_BT):
    (value, weight), metrics = policy_loss(logp_BT, batch, cfg)
    return value, (weight, metrics)

  (value, (weight, metrics)), slope_BT = jax.value_and_grad(
      total, has_aux=True)(logp_BT)
  want, want_weight = reference.loss(seqs, plain)
  np.testing.assert_allclose(value, want, **F32)
  assert float(weight) == want_weight == float(policy_weight(batch, cfg))
  np.testing.assert_allclose(
      slope_BT, place(reference.slopes(seqs, plain), 0.0), **F32)
  for name, want in reference.metrics(seqs, plain).items():
    np.testing.assert_allclose(
        metrics[name][0] / metrics[name][1], want, **F32)


@pytest.mark.parametrize("options,broken", [
    ({}, dict(clip_low=1e9)), ({}, dict(clip_high=1e9)), ({}, dict(kl_beta=0)),
    ({}, dict(kl_estimator="k2")), ({}, dict(ratio="sequence")),
    ({}, dict(objective="cispo")), ({}, dict(aggregation="token_mean")),
    (dict(tis_cap=1.2), dict(tis_cap=1e9)),
    (dict(tis_cap=1.2), dict(tis_cap=0.0)),
    (dict(tis_cap=1.5, tis_kind="mask"), dict(tis_kind="truncate")),
], ids=str)
def test_the_case_sees_each_term(options, broken):
  cfg = PolicyConfig(**BASE | options)
  logp_BT, batch = batch_of(sequences(), 0.0)
  (value, weight), _ = policy_loss(logp_BT, batch, cfg)
  other, other_weight = reference.loss(
      sequences(), dataclasses.asdict(cfg) | broken)
  assert abs(float(value / weight) - other / other_weight) > 1e-3


# Of the policy less: the old one, the reference; of the old less the sampler.
GAPS = [(0.1, -0.2, 0.1), (100, 0.1, 0), (-100, 0, 0.2), (0.3, 100, 0),
        (-0.1, -100, 0), (0.1, 0, 100), (0, 0.1, -100), (19, -19, 19),
        (21, -21, 21), (90, -90, 90), (-3e4, 3e4, -3e4)]


def far_batch(gaps, advantage):
  """A sequence of one token for each."""
  n = len(gaps)
  seqs = [dict(advantage=advantage, logp=[-1.0], old=[-1.0 - old],
               ref=[-1.0 - ref], sampler=[-1.0 - old - sampler])
          for old, ref, sampler in gaps]
  one = {name: np.float32([[s[name][0] for s in seqs]])
         for name in ("logp", "old", "ref", "sampler")}
  zeros = np.zeros((1, n), np.int32)
  return seqs, one["logp"], TokenBatch(
      tokens_BT=zeros, targets_BT=zeros, positions_BT=zeros,
      segments_BT=1 + np.arange(n, dtype=np.int32)[None],
      mask_BT=np.ones((1, n), np.float32),
      advantages_BT=np.full((1, n), advantage, np.float32),
      sampler_logprobs_BT=one["sampler"], old_logprobs_BT=one["old"],
      ref_logprobs_BT=one["ref"])


def slopes_of(logp_BT, batch, cfg):
  return jax.value_and_grad(
      lambda x: policy_loss(x, batch, cfg)[0][0])(jnp.asarray(logp_BT))


@pytest.mark.parametrize("advantage", [0.0, 0.5, -2.0])
@pytest.mark.parametrize("options", [
    {}, dict(clip_low=10.0, clip_high=10.0), dict(clip_high=1e12),
    dict(ratio="sequence"), dict(objective="cispo"), dict(tis_cap=2.0),
    dict(tis_cap=1e12), dict(tis_cap=2.0, tis_kind="mask"),
    dict(kl_estimator="k1"), dict(kl_estimator="k2")], ids=str)
def test_far_log_ratios_are_clamped(options, advantage):
  """And no exponential overflows, nor does inf * 0 make a NaN."""
  cfg = PolicyConfig(**BASE | options)
  plain = dataclasses.asdict(cfg)
  seqs, logp_BT, batch = far_batch(GAPS, advantage)
  value, slope_BT = slopes_of(logp_BT, batch, cfg)
  np.testing.assert_allclose(value, reference.loss(seqs, plain)[0], **F32)
  # Of the two parts on their own: differences beside e^20 would be noise.
  want = [reference.slopes([s], plain | dict(kl_beta=0.0))[0][0]
          + reference.slopes([s | dict(advantage=0.0)], plain)[0][0]
          for s in seqs]
  np.testing.assert_allclose(slope_BT[0], want, **F32)
  metrics = policy_loss(logp_BT, batch, cfg)[1]
  for name, want in reference.metrics(seqs, plain).items():
    np.testing.assert_allclose(
        metrics[name][0] / metrics[name][1], want, **F32)
  assert metrics["ratio_clamped_fraction"][0] >= 5


@pytest.mark.parametrize("options", [{}, dict(ratio="sequence"),
                                     dict(tis_cap=1e12)], ids=str)
def test_the_clamp_is_seen_where_it_acts(options, monkeypatch):
  near = [gap for gap in GAPS if max(map(abs, gap)) < 20]
  cfg = PolicyConfig(**BASE | options | dict(kl_beta=0.0, clip_high=1e12))
  monkeypatch.setattr(reference, "LIMIT", 25.0)
  for gaps, acts in ((near, False), (GAPS, True)):
    seqs, logp_BT, batch = far_batch(gaps, -2.0)
    value, _ = slopes_of(logp_BT, batch, cfg)
    other = reference.loss(seqs, dataclasses.asdict(cfg))[0]
    assert (abs(value - other) > 0.1 * abs(value)) == acts


@pytest.mark.parametrize("advantage", [0.0, 0.5, -2.0])
@pytest.mark.parametrize("options", [
    {}, dict(ratio="sequence"), dict(objective="cispo"), dict(tis_cap=2.0),
    dict(tis_cap=2.0, tis_kind="mask"), dict(kl_estimator="k1"),
    dict(kl_estimator="k2")], ids=str)
def test_impossible_tokens_leave_everything_finite(options, advantage):
  """Two of them in one sequence, one on each side, and one on both."""
  cfg = PolicyConfig(**BASE | options)
  _, _, batch = far_batch([(0.0, 0.0, 0.0)] * 4, advantage)
  low = -jnp.inf
  batch = dataclasses.replace(
      batch, segments_BT=np.ones((1, 4), np.int32),
      old_logprobs_BT=jnp.float32([[-1, low, low, -2]]),
      ref_logprobs_BT=jnp.float32([[-1, low, low, low]]),
      sampler_logprobs_BT=jnp.float32([[low, -1, low, -2]]))
  value, slope_BT = slopes_of(jnp.float32([[low, -1, low, -2]]), batch, cfg)
  assert np.isfinite(value) and np.all(np.isfinite(slope_BT))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_reference_that_is_only_measured_cannot_harm(bad):
  logp_BT, batch = batch_of(sequences(), 0.0)
  batch = dataclasses.replace(
      batch, ref_logprobs_BT=np.full_like(batch.ref_logprobs_BT, bad))
  for estimator in ("k1", "k2", "k3"):
    cfg = PolicyConfig(kl_beta=0.0, kl_estimator=estimator)
    value, slope_BT = slopes_of(logp_BT, batch, cfg)
    assert np.isfinite(value) and np.all(np.isfinite(slope_BT))


def test_a_nan_is_not_hidden():
  logp_BT, batch = batch_of(sequences(), 0.0)
  logp_BT = jnp.where(batch.mask_BT != 0, jnp.nan, logp_BT)
  assert np.isnan(policy_loss(logp_BT, batch, PolicyConfig())[0][0])


def test_a_constant_needs_the_stages_longest_completion():
  logp_BT, batch = batch_of(sequences(), 0.0)
  cfg = PolicyConfig(aggregation="constant")
  with pytest.raises(ValueError, match="max_length=0"):
    policy_loss(logp_BT, batch, cfg)
  filled = dataclasses.replace(cfg, max_length=7)
  assert np.isfinite(policy_loss(logp_BT, batch, filled)[0][0])


def test_without_old_logprobs_the_ratio_is_one_and_its_gradient_is_not():
  logp_BT, batch = batch_of(sequences(), 0.0)
  fresh = dataclasses.replace(batch, old_logprobs_BT=logp_BT)
  none = dataclasses.replace(batch, old_logprobs_BT=None)
  cfg = PolicyConfig(**BASE)
  grads = [jax.grad(lambda x, b=b: policy_loss(x, b, cfg)[0][0])(logp_BT)
           for b in (fresh, none)]
  np.testing.assert_array_equal(*grads)
  assert np.any(grads[0])
  ratio = policy_loss(logp_BT, none, cfg)[1]["ratio"]
  assert float(ratio[0] / ratio[1]) == 1.0


def test_rows_without_a_trained_token_weigh_nothing():
  logp_BT, batch = batch_of(sequences(), 0.0)
  batch = dataclasses.replace(batch, mask_BT=np.zeros_like(batch.mask_BT))
  for aggregation in ("seq_mean_token_mean", "token_mean"):
    cfg = PolicyConfig(aggregation=aggregation)
    assert policy_loss(logp_BT, batch, cfg)[0] == (0.0, 0.0)


@pytest.mark.parametrize("field,options", [
    ("advantages_BT", {}), ("ref_logprobs_BT", dict(kl_beta=0.1)),
    ("sampler_logprobs_BT", dict(tis_cap=2.0))])
def test_missing_arrays(field, options):
  logp_BT, batch = batch_of(sequences(), 0.0)
  batch = dataclasses.replace(batch, **{field: None})
  with pytest.raises(ValueError, match=field):
    policy_loss(logp_BT, batch, PolicyConfig(**options))


@pytest.mark.parametrize("bad", [
    dict(objective="ppo"), dict(ratio="row"), dict(aggregation="mean"),
    dict(kl_estimator="k4"), dict(tis_kind="drop"), dict(clip_low=-0.1),
    dict(kl_beta=-1.0), dict(tis_cap=0.5),
    dict(aggregation="constant", max_length=-1)], ids=str)
def test_bad_options(bad):
  with pytest.raises(ValueError, match=list(bad)[-1]):
    PolicyConfig(**bad)


def test_presets():
  assert set(PRESETS) == {
      "r1-zero", "deepseekmath", "dr-grpo", "dapo", "gspo", "cispo"}
  assert get("dr-grpo").normalize == "none"
  with pytest.raises(ValueError, match="dapo"):
    get("ppo")
  logp_BT, batch = batch_of(sequences(), 0.0)
  values = {name: float(policy_loss(logp_BT, batch, p.policy)[0][0])
            for name, p in PRESETS.items()}
  assert len(set(values.values())) == len(values)
