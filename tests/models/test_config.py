import dataclasses
import math

import jax
import numpy as np
import pytest

from r1jax.core import config as config_lib
from r1jax.models import config, presets
from r1jax.models.model import build
from tests.models import cases


def _count(tree):
  return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree))


def _shapes(name):
  return jax.eval_shape(build(presets.get(name)).init,
                        jax.random.key(0))


def test_671b_has_its_published_parameters():
  cfg = presets.get("r1-671b")
  params = dict(_shapes("r1-671b"))
  mtp = _count(params.pop("mtp"))
  bias = cfg.n_mixture_layers * cfg.n_experts
  total = _count(params) + bias
  assert total == 671_026_419_200
  routed = 3 * cfg.d_model * cfg.d_expert * cfg.n_mixture_layers
  active = total - routed * (cfg.n_experts - cfg.n_activated)
  assert active / 1e9 == pytest.approx(37.55, abs=0.005)
  assert mtp / 1e9 == pytest.approx(11.61, abs=0.005)
  assert build(cfg).init_router_bias().shape == (59, 256)


@pytest.mark.parametrize("name, total, active", [
    ("v2-236b", 235.74, 21.38), ("v2-lite-16b", 15.71, 2.66)])
def test_v2_has_its_published_parameters(name, total, active):
  cfg, found = presets.get(name), _count(_shapes(name))
  assert found / 1e9 == pytest.approx(total, abs=0.005)
  routed = 3 * cfg.d_model * cfg.d_expert * cfg.n_mixture_layers
  used = found - routed * (cfg.n_experts - cfg.n_activated)
  assert used / 1e9 == pytest.approx(active, abs=0.005)


@pytest.mark.parametrize("name, total", [
    ("qwen2.5-1.5b", 1_543_714_304), ("qwen2.5-7b", 7_615_616_512)])
def test_qwen_has_its_published_parameters(name, total):
  """The number of values in the published safetensors."""
  assert _count(_shapes(name)) == total


@pytest.mark.parametrize("name", presets.PRESETS)
def test_every_parameter_names_its_axes(name):
  model = build(presets.get(name))
  shapes = jax.eval_shape(model.init, jax.random.key(0))
  axes = model.param_axes()
  is_axes = lambda x: isinstance(x, tuple)
  assert (jax.tree.structure(axes, is_leaf=is_axes)
          == jax.tree.structure(shapes))
  for names, shape in zip(jax.tree.leaves(axes, is_leaf=is_axes),
                          jax.tree.leaves(shapes), strict=True):
    assert len(names) == len(shape.shape)
  blocks = axes.get("mixture_blocks") or axes["dense_blocks"]
  assert all(names[0] == "layers"
             for names in jax.tree.leaves(blocks, is_leaf=is_axes))


def test_init_draws_the_named_distributions():
  cfg = dataclasses.replace(cases.DENSE, n_layers=2)
  model = build(cfg)
  params = cases.jit(model.init)(jax.random.key(0))
  block = params["dense_blocks"]
  assert np.all(params["norm"] == 1) and np.all(block["norm_1"] == 1)
  assert not np.any(block["attn"]["b_q"])
  w = block["ffn"]["w_up"]
  # 1920 draws: the deviation of a standard deviation is 1.6 %.
  assert np.std(w) == pytest.approx(cfg.init_std, rel=0.08)
  assert np.abs(w[0] - w[1]).min() > 0  # layers draw their own
  other = cases.jit(model.init)(jax.random.key(1))["dense_blocks"]
  assert np.abs(w - other["ffn"]["w_up"]).min() > 0
  np.testing.assert_array_equal(model.head(params), params["embed"].T)


def test_untied_head():
  model = build(cases.V3)
  params = cases.params(cases.V3)
  assert model.head(params) is params["w_head"]
  assert params["w_head"].shape == (cases.V3.d_model, cases.V3.vocab_size)


@pytest.mark.parametrize("name", presets.PRESETS)
def test_presets_survive_json(name):
  cfg = presets.get(name)
  assert config_lib.from_dict(
      config.ModelConfig, config_lib.to_dict(cfg)) == cfg
  assert str(cfg.n_layers) in config.describe(cfg)


def test_unknown_preset():
  with pytest.raises(ValueError, match="'r2' is unknown; .* r1-671b.*tiny"):
    presets.get("r2")


@pytest.mark.parametrize("bad, message", [
    (dict(attention="mha"), "attention='mha': choose mla or gqa"),
    (dict(kv_rank=0), "needs kv_rank, nope_dim, rope_dim and v_dim"),
    (dict(rope_dim=5), "rotated width 5 must be even"),
    (dict(n_groups=3), "n_experts=8 is no multiple of n_groups=3"),
    (dict(n_activated=5), "n_activated=5: the 2 groups .* hold 4 experts"),
    (dict(n_activated=0), "n_activated=0"),
    (dict(n_dense_layers=3), "leaves none of n_layers=3 for experts")])
def test_bad_deepseek(bad, message):
  with pytest.raises(ValueError, match=message):
    dataclasses.replace(presets.TINY, **bad)


@pytest.mark.parametrize("bad, message", [
    (dict(n_kv_heads=4), "n_heads=6 is no multiple of n_kv_heads=4"),
    (dict(n_mtp=1), "multi-token prediction needs attention='mla'"),
    (dict(head_dim=7), "rotated width 7 must be even")])
def test_bad_dense(bad, message):
  with pytest.raises(ValueError, match=message):
    dataclasses.replace(presets.TINY_DENSE, **bad)


def test_bad_rope():
  with pytest.raises(ValueError, match="'linear': choose none, yarn or llama3"):
    config.RopeConfig(scaling="linear")


def test_too_long_for_the_context():
  presets.TINY.check_length(64, "the prompt")
  with pytest.raises(ValueError, match="the prompt is 65 tokens.* is 64"):
    presets.TINY.check_length(65, "the prompt")


def test_yarn_acts_only_beyond_the_original_context():
  far, near = presets.get("r1-671b"), dataclasses.replace(
      presets.get("r1-671b"), max_position=4096)
  plain = 10000.0 ** (-np.arange(32) / 32)
  assert near.softmax_scale == pytest.approx(192 ** -0.5)
  np.testing.assert_allclose(near.rope_frequencies(), plain)
  np.testing.assert_allclose(far.rope_frequencies()[23:], plain[23:] / 40)


def test_tiny_sizes_differ():
  """So that a swapped axis cannot pass."""
  for cfg in (presets.TINY, presets.TINY_DENSE):
    sizes = [getattr(cfg, name) for name in (
        "vocab_size", "d_model", "n_heads", "d_ff", "q_rank", "kv_rank",
        "nope_dim", "rope_dim", "v_dim", "n_kv_heads", "head_dim", "n_experts",
        "n_activated", "d_expert") if getattr(cfg, name)]
    if cfg.attention == "mla":
      sizes += [cfg.nope_dim + cfg.rope_dim, cfg.nope_dim + cfg.v_dim,
                cfg.kv_rank + cfg.rope_dim]
    assert len(set(sizes)) == len(sizes)
