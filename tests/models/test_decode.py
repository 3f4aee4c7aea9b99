"""Prefill and decode from the cache equal one pass over the whole sequence."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from r1jax.models import presets
from r1jax.models.compute import Compute
from r1jax.models.model import build
from r1jax.ops import cached
from tests.models import cases

F32 = dict(rtol=1e-4, atol=2e-5)
RNG = np.random.default_rng(11)
LENGTHS = np.array([3, 5, 1])  # of the prompts, right-padded to P
P, NEW, SLOTS = 6, 4, 12  # more slots than are ever filled
PROMPTS = RNG.integers(0, 61, (3, P))
COMPLETIONS = RNG.integers(0, 61, (3, NEW))
CONFIGS = {"v3": cases.V3, "dense": cases.DENSE, "qwen3": cases.QWEN3}


@functools.cache
def _whole(name):
  """Output of one pass over prompt + completion, rows right-padded."""
  tokens = np.zeros((3, P + NEW), int)
  segments = np.zeros_like(tokens)
  for row, length in enumerate(LENGTHS):
    tokens[row, :length] = PROMPTS[row, :length]
    tokens[row, length:length + NEW] = COMPLETIONS[row]
    segments[row, :length + NEW] = 1
  positions = np.tile(np.arange(P + NEW), (3, 1))
  return cases.run(CONFIGS[name], tokens, positions, segments)


def _decode(cfg, skip=0, slots=SLOTS):
  """Teacher-forced: (hidden, experts) after the prompt and each new token.

  New tokens come `skip` positions late.
  """
  model = build(cfg)
  p, bias = cases.f32(cases.params(cfg)), cases.f32(cases.bias(cfg))
  prefill = cases.jit(model.prefill)
  step = cases.jit(lambda *args: model.decode(*args))  # compiled anew
  hidden, cache, prompt_experts = prefill(
      model.unstack(p), bias, jnp.asarray(PROMPTS), jnp.asarray(LENGTHS))
  cache = model.grow(cache, slots)
  found = [(hidden, None)]
  unstacked = model.unstack(p)
  for i in range(NEW):
    hidden, cache, chosen = step(
        unstacked if i % 2 else p, bias, jnp.asarray(COMPLETIONS[:, i]),
        jnp.asarray(LENGTHS + i + skip), cache)
    found.append((hidden, chosen))
  return jax.device_get((found, cache, prompt_experts))


@pytest.mark.parametrize("name", CONFIGS)
def test_prefill_and_decode_is_forward(name):
  cfg, whole = CONFIGS[name], _whole(name)
  found, cache, prompt_experts = _decode(cfg)
  assert len(cache) == cfg.n_layers
  assert all(leaf.shape[0] == 3 for leaf in jax.tree.leaves(cache))
  for i, (hidden, chosen) in enumerate(found):
    for row, length in enumerate(LENGTHS):
      np.testing.assert_allclose(
          hidden[row], whole.hidden_BTD[row, length - 1 + i], **F32)
      if i and cfg.n_experts:
        assert (chosen[row].tolist()
                == whole.experts_BTLA[row, length - 1 + i].tolist())
  if not cfg.n_experts:
    assert prompt_experts is None
    return
  for row, length in enumerate(LENGTHS):
    assert (prompt_experts[row, :length].tolist()
            == whole.experts_BTLA[row, :length].tolist())


@pytest.mark.parametrize("name", CONFIGS)
def test_a_prompt_is_the_same_from_stacks(name):
  model, p = build(CONFIGS[name]), cases.f32(cases.params(CONFIGS[name]))
  bias, unstacked = cases.f32(cases.bias(CONFIGS[name])), model.unstack(p)
  outs = [cases.jit(model.prefill)(
      params, bias, jnp.asarray(PROMPTS), jnp.asarray(LENGTHS))
          for params in (p, unstacked)]
  jax.tree.map(np.testing.assert_array_equal, *outs)
  jax.tree.map(np.testing.assert_array_equal, model.stack(unstacked), p)


@pytest.mark.parametrize("name", CONFIGS)
def test_a_prompt_of_a_deep_model_goes_through_a_scan(name):
  """As it does where layers are not written out: one layer is compiled."""
  cfg, bias = CONFIGS[name], cases.f32(cases.bias(CONFIGS[name]))
  p = cases.f32(cases.params(cfg))
  args = bias, jnp.asarray(PROMPTS), jnp.asarray(LENGTHS)
  whole = cases.jit(build(cfg).prefill)(p, *args)
  model = build(cfg, Compute(unroll=1))
  for params in (p, model.unstack(p)):
    scanned = cases.jit(model.prefill)(params, *args)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, **F32),
                 scanned, whole)
  counted = [str(jax.make_jaxpr(build(cfg, Compute(unroll=unroll)).prefill)(
      p, *args)).count("dot_general") for unroll in (0, 1)]
  assert counted[1] < counted[0]


def test_a_prompt_of_a_deep_model_does_not_copy_it():
  """Layers that come one by one are stacked a part at a time."""
  cfg = dataclasses.replace(
      presets.get("tiny-dense"), d_model=128, d_ff=512, n_layers=16)
  model, shape = build(cfg), jax.ShapeDtypeStruct
  params = jax.eval_shape(
      lambda key: model.unstack(model.init(key)), jax.random.key(0))
  size = sum(4 * x.size for x in jax.tree.leaves(params))
  compiled = jax.jit(model.prefill).lower(
      params, jax.eval_shape(model.init_router_bias),
      shape((1, 16), jnp.int32), shape((1,), jnp.int32)).compile()
  assert compiled.memory_analysis().temp_size_in_bytes < size / 4


def test_mla_caches_rank_plus_rope_values_a_token():
  cfg = cases.V3
  model = build(cfg)
  _, cache, _ = jax.eval_shape(
      model.prefill, cases.f32(cases.params(cfg)),
      cases.f32(cases.bias(cfg)), jnp.asarray(PROMPTS), jnp.asarray(LENGTHS))
  assert [leaf.shape for leaf in jax.tree.leaves(cache)] == [
      (3, P, cfg.kv_rank + cfg.rope_dim)] * cfg.n_layers


def test_case_sees_the_padding_of_short_prompts():
  """Rows that leave a slot of padding behind their prompt go wrong."""
  whole = _whole("v3").hidden_BTD
  found, _, _ = _decode(cases.V3, skip=1)
  for row, length in enumerate(LENGTHS):
    gap = np.abs(found[-1][0][row] - whole[row, length - 1 + NEW]).max()
    assert gap > 1e-2


def test_a_long_latent_cache_is_read_row_by_row(monkeypatch):
  """On a CPU, as long as `cached.LONG`; a shorter one is not."""
  whole, _, _ = _decode(cases.V3, slots=cached.LONG - 1)
  scopes, named = [], jax.named_scope
  monkeypatch.setattr(jax, "named_scope", lambda name: (
      scopes.append(name) or named(name)))
  found, _, _ = _decode(cases.V3, slots=cached.LONG)
  assert cached.NEAR_BLOCKS in scopes
  for (got, _), (want, _) in zip(found, whole, strict=True):
    np.testing.assert_allclose(got, want, **F32)
  scopes.clear()
  _decode(cases.V3, slots=cached.LONG - 1)
  assert cached.NEAR_BLOCKS not in scopes


@pytest.mark.parametrize("how", [cached.Reading(5), cached.Reading(0, 5)])
@pytest.mark.parametrize("name", CONFIGS)
def test_by_blocks_the_same(name, how, monkeypatch):
  """As TPUs, and CPUs if it is long, read the cache; other programs."""
  whole, _, _ = _decode(CONFIGS[name])
  monkeypatch.setattr(cached, "reading", lambda *args, **more: how)
  found, _, _ = _decode(CONFIGS[name])
  for (got, _), (want, _) in zip(found, whole, strict=True):
    np.testing.assert_allclose(got, want, **F32)
