"""Short prompts are packed into rows, long ones are prefilled part by part.

The samples are those of padded prompts that are prefilled whole.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from r1jax.models import presets
from r1jax.models.config import RopeConfig
from r1jax.models.model import build
from r1jax.ops import cached as cached_lib
from r1jax.rollout import prefill as prefill_lib
from r1jax.rollout import prompts as prompts_lib
from r1jax.rollout.engine import Engine
from r1jax.rollout.sampling import SamplingConfig
from r1jax.sharding.mesh import MeshConfig, make_mesh
from tests.models import cases

LOGP = dict(rtol=0, atol=1e-5)  # float32, as between sampler and trainer
NEW = 6
PROMPTS = [np.random.default_rng(n).integers(0, 61, n) for n in (3, 50, 33)]
LENGTHS = [len(ids) for ids in PROMPTS]
PADDED = 64
DENSE = dataclasses.replace(presets.TINY_DENSE, n_layers=2)
FAMILIES = {
    "deepseek_v3": cases.V3,
    "deepseek_v2": cases.V2,
    "qwen2": DENSE,
    "qwen3": cases.QWEN3,
    "qwen3_moe": dataclasses.replace(
        cases.QWEN3, n_experts=8, n_activated=3, d_expert=9, score="softmax",
        selection_bias=False),
    "gemma3": dataclasses.replace(
        DENSE, n_layers=3, post_norms=True, norm_offset=1.0, qk_norm=True,
        embed_scale=5.0, activation="gelu", query_scale=0.3, local_theta=20.0,
        global_every=2),
    "llama": dataclasses.replace(DENSE, rope=RopeConfig(
        scaling="llama3", factor=8.0, original=16, low_factor=1.0,
        high_factor=4.0)),
}


def made(cfg):
  """(model, parameters, router bias) with random numbers."""
  model = build(cfg)
  bias = model.init_router_bias()
  return (model, model.unstack(jax.jit(model.init)(jax.random.key(0))),
          0.1 * jax.random.normal(jax.random.key(9), bias.shape))


def make_engine(model, mesh=None):
  return Engine(
      model, SamplingConfig(
          max_new_tokens=NEW, record_experts=model.cfg.n_experts > 0),
      frozenset(), mesh, speculate=2 * model.cfg.n_mtp)


def generate(engine, params, bias, prompts=PROMPTS):
  return engine.generate(
      params, bias, prompts, range(len(prompts)), 2, jax.random.key(5))


def cached(engine, params, bias):
  """What all layers and the drafts' module keep of each prompt's tokens."""
  tokens_NP = np.zeros((len(PROMPTS), PADDED), np.int32)
  for row, ids in zip(tokens_NP, PROMPTS):
    row[:len(ids)] = ids
  cache, _ = engine.programs.prefill(
      params, bias, jnp.asarray(tokens_NP), jnp.array(LENGTHS))
  return kept(engine, cache)


def kept(engine, cache):
  """The module's slot of a prompt's last token waits for the next token."""
  return [np.moveaxis(x, x.shape.index(PADDED), 1)[row, :length]
          for layer, leaves in enumerate(jax.device_get(cache))
          for x in jax.tree.leaves(leaves)
          for row, length in enumerate(
              np.array(LENGTHS) - (layer == engine.model.cfg.n_layers))]


@functools.cache
def padded(name):
  """(engine, parameters, bias, samples, cache) of padded, whole prompts."""
  model, params, bias = made(FAMILIES[name])
  engine = make_engine(model)
  engine.programs.packs = False
  return engine, params, bias, generate(engine, params, bias), cached(
      engine, params, bias)


def same(got, want):
  np.testing.assert_array_equal(got.tokens_QGT, want.tokens_QGT)
  np.testing.assert_allclose(got.logprobs_QGT, want.logprobs_QGT, **LOGP)
  assert (got.experts_QGSLA is None) == (want.experts_QGSLA is None)
  if want.experts_QGSLA is not None:
    prompt = want.experts_QGSLA.shape[2] - NEW
    for q, ids in enumerate(want.prompt_tokens):
      used = np.r_[:len(ids), prompt:prompt + NEW - 1]
      np.testing.assert_array_equal(
          got.experts_QGSLA[q, :, used], want.experts_QGSLA[q, :, used])


@pytest.mark.parametrize("name", FAMILIES)
def test_packed_prompts_do_not_see_each_other(name, monkeypatch):
  """The shortest one lies behind the longest, at the end of a row."""
  engine, params, bias, whole, cache = padded(name)
  monkeypatch.setattr(prompts_lib, "ROW", PADDED)
  monkeypatch.setattr(engine.programs, "packs", True)
  unpack, seen = engine.programs.unpack, []
  monkeypatch.setattr(engine.programs, "unpack", lambda *args, **how: (
      seen.append((args, unpack(*args, **how))) or seen[-1][1]))
  same(generate(engine, params, bias), whole)
  generate(engine, params, bias, 3 * [PROMPTS[1]])  # each fills a row
  ((_, _, rows, starts), (unpacked, _)), = seen
  assert (rows.tolist(), starts.tolist()) == ([0, 0, 1], [50, 0, 0])
  for got, want in zip(kept(engine, unpacked), cache, strict=True):
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize("name", FAMILIES)
def test_samples_are_those_of_whole_prompts(name, monkeypatch):
  """In parts that divide the padded prompts or not; one program each."""
  engine, params, bias, whole, cache = padded(name)
  for part, parts in ((48, 4), (64, 3)):
    monkeypatch.setattr(prefill_lib, "PART", part)
    assert engine.programs.parts(len(PROMPTS), PADDED) == parts
    engine.programs.prefill.clear_cache()
    compiled = engine.compilations()
    same(generate(engine, params, bias), whole)
    for got, want in zip(cached(engine, params, bias), cache, strict=True):
      np.testing.assert_allclose(got, want, rtol=1e-4, atol=2e-5)
    generate(engine, params, bias, [ids[:20] for ids in PROMPTS])
    assert engine.compilations() == compiled + 1
    # And the second time by blocks of the cache, the last of which overlap; the
    # first part, of 22 tokens, has one token in its second block.
    monkeypatch.setattr(
        cached_lib, "reading", lambda *args, **more: cached_lib.Reading(21))


@pytest.mark.parametrize("length,count,parts", [
    (64, 64, 1), (1024, 4, 1), (4096, 1, 1), (4160, 1, 2)])
def test_only_a_prompt_that_is_long_itself_is_in_parts(length, count, parts):
  engine = make_engine(build(DENSE))
  assert engine.prompts_at_once(100, 1, length) == count
  assert engine.programs.parts(count, length) == parts


def test_on_a_mesh(monkeypatch):
  """Every lane reads its own prompts, with experts on other devices."""
  model, params, bias = made(cases.V3)
  prompts = [*PROMPTS, PROMPTS[1][:41]]
  whole = generate(make_engine(model), params, bias, prompts)
  mesh = make_mesh(MeshConfig(data=2, expert=2, tensor=2))
  engine = make_engine(model, mesh)
  monkeypatch.setattr(engine, "prompts_at_once", lambda *args: 3)
  monkeypatch.setattr(prompts_lib, "ROW", 2 * PADDED)
  with jax.set_mesh(mesh):
    same(generate(engine, params, bias, prompts), whole)
    assert engine.programs.unpack._cache_size() == 1
    monkeypatch.setattr(engine.programs, "packs", False)
    monkeypatch.setattr(prefill_lib, "PART", 64)
    assert engine.lanes == 4 and engine.programs.parts(12, PADDED) == 3
    same(generate(engine, params, bias, prompts), whole)
    assert engine.programs.unpack._cache_size() == 1


def test_activations_are_those_of_one_part(monkeypatch):
  """A prompt four times as long needs no more temporary memory."""
  model = build(dataclasses.replace(DENSE, d_ff=1024))
  params = jax.eval_shape(
      model.unstack, jax.eval_shape(model.init, jax.random.key(0)))
  shape = functools.partial(jax.ShapeDtypeStruct, dtype=jnp.int32)

  def temporaries(length):
    run = make_engine(model).programs.prefill
    return run.lower(
        params, model.init_router_bias(), shape((1, length)), shape((1,))
    ).compile().memory_analysis().temp_size_in_bytes

  lengths = 2048, 8192
  short, long = map(temporaries, lengths)
  assert long > 3 * short
  monkeypatch.setattr(prefill_lib, "PART", 256)
  short, long = map(temporaries, lengths)
  assert long < 1.1 * short
