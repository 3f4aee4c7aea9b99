"""What a step of decoding touches: what lives, not what may come."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import pytest

from r1jax.accounting import hlo, memory
from r1jax.models import model as model_lib
from r1jax.models import presets
from r1jax.models.compute import Compute
from r1jax.models.model import build
from r1jax.ops import cached, shared_prompts
from r1jax.rollout.engine import Engine
from r1jax.rollout.programs import Fill
from r1jax.rollout.sampling import SamplingConfig
from r1jax.training import reshard

LONGEST = 32_768  # of prompt and completion
# Beside weights and live cache: scores, activations, what is written.
BESIDE = 1.15
GQA = dataclasses.replace(
    presets.TINY_DENSE, d_model=128, n_layers=2, n_heads=4, n_kv_heads=2,
    head_dim=64, d_ff=256, max_position=LONGEST)
MLA = dataclasses.replace(
    presets.TINY, d_model=128, n_layers=2, n_dense_layers=2, n_experts=0,
    n_mtp=0, n_heads=4, kv_rank=112, rope_dim=16, d_ff=256,
    max_position=LONGEST)


def shapes(cfg, slots, rows, dtype="float32"):
  """(engine, parameters, bias, prompts, rows), the last four as shapes."""
  model, shape = build(cfg, Compute(dtype=dtype)), jax.ShapeDtypeStruct
  params = jax.eval_shape(
      model.unstack, jax.eval_shape(model.init, jax.random.key(0)))
  bias = jax.eval_shape(model.init_router_bias)
  engine = Engine(
      model, SamplingConfig(max_new_tokens=LONGEST - 64), frozenset({0}))
  run = engine.programs
  prompts, _ = jax.eval_shape(run.prefill, params, bias, shape(
      (4, 64), jnp.int32), shape((4,), jnp.int32))
  return engine, params, bias, prompts, jax.eval_shape(functools.partial(
      run.empty, rows=rows, slots=engine.slots(slots, LONGEST)), prompts,
      jax.random.key(0))


def step(cfg, live):
  """(bytes of a step, of weights, of the live cache); nothing is run."""
  engine, params, bias, _, rows = shapes(cfg, live, 16)
  slots = engine.slots(live, LONGEST)
  text = engine.programs.decode.lower(
      params, bias, rows, 1, 0, jax.ShapeDtypeStruct((1,), jnp.int32)
      ).compile().as_text()
  # One token, and one round of the experts.
  trips = {cached.BLOCKS: -(-live // cached.BLOCK), "while": 1}
  return (hlo.costs(text, trips).touched, memory.shard_bytes(params),
          memory.shard_bytes(rows.cache) * live / slots)


@pytest.mark.parametrize("cfg", [GQA, MLA])
def test_a_step_touches_weights_and_what_lives(cfg):
  touched, weights, cache = step(cfg, 2048)
  assert cache > 4 * weights  # what is bounded is the cache's part
  assert weights + cache < touched < BESIDE * (weights + cache)


@pytest.mark.parametrize("cfg", [GQA, MLA])
def test_a_step_reads_a_shared_prompt_once(cfg):
  """However many rows continue it; their own copies would be read each."""
  (few, prompt), (many, _) = (shared_step(cfg, rows) for rows in (16, 32))
  # A CPU copies it, then products read the copy: keys and values, or the latent
  # twice. What 16 rows more add are their scores, not 16 prompts.
  assert prompt < 2 * few - many < 5 * prompt
  assert 2 * (many - few) < 16 * prompt


def shared_step(cfg, rows, length=8192):
  """(bytes of a step beside weights and the rows' own cache, of a prompt)."""
  engine, params, bias, _, _ = shapes(cfg, 128, rows)
  shape, run = jax.ShapeDtypeStruct, engine.programs
  kept, _ = jax.eval_shape(run.prefill, params, bias, shape(
      (2, length), jnp.int32), shape((2,), jnp.int32))
  state = jax.eval_shape(functools.partial(
      run.empty, rows=rows, slots=128, shared=True), kept, jax.random.key(0))
  text = run.decode.lower(
      params, bias, state, 1, 0, shape((1,), jnp.int32), None, kept, rows
      ).compile().as_text()
  touched = hlo.costs(text, {shared_prompts.TURNS: 1, "while": 1}).touched
  return (touched - memory.shard_bytes(params) - memory.shard_bytes(
      state.cache), memory.shard_bytes(kept) / 2)


def test_a_mixtures_step_reads_each_expert_once():
  """16 rows use nearly all of them; copies would be written and read, too."""
  touched, weights, cache = step(dataclasses.replace(
      presets.get("v2-lite-16b"), n_layers=2, vocab_size=2048), 2048)
  assert weights + cache < touched < BESIDE * (weights + cache)


def test_beside_real_weights_the_second_reading_of_the_latent_is_little():
  """A dense layer of R1's widths."""
  touched, weights, cache = step(dataclasses.replace(
      presets.get("r1-671b"), n_layers=1, n_dense_layers=1, n_experts=0,
      n_mtp=0, vocab_size=2048), 2048)
  assert weights + cache < touched < BESIDE * (weights + cache)


@pytest.mark.parametrize("rows", [1, 4])
@pytest.mark.parametrize("tied", [False, True])
def test_a_cpu_makes_no_float32_copies_of_bfloat16_weights(rows, tied):
  """Those of all layers would be twice the model."""
  cfg = dataclasses.replace(
      GQA, n_layers=10, vocab_size=2048, tie_embeddings=tied)
  model = build(cfg, Compute(dtype="bfloat16", param_dtype="bfloat16"))
  shape, made = jax.ShapeDtypeStruct, model_lib.shapes(model)
  size = sum(x.size * 2 for x in jax.tree.leaves(made))
  params = jax.eval_shape(reshard.make_reshard(model, None, "decode"), made)
  bias = jax.eval_shape(model.init_router_bias)
  run = Engine(model, SamplingConfig(max_new_tokens=8), frozenset({0})).programs
  asked = shape((rows, 16), jnp.int32), shape((rows,), jnp.int32)
  prompts, _ = jax.eval_shape(run.prefill, params, bias, *asked)
  state = jax.eval_shape(functools.partial(run.empty, rows=rows, slots=32),
                         prompts, jax.random.key(0))
  scalar = shape((), jnp.int32)
  for lowered in (run.prefill.lower(params, bias, *asked),
                  run.decode.lower(params, bias, state, scalar, scalar,
                                   shape((1,), jnp.int32))):
    temporaries = lowered.compile().memory_analysis().temp_size_in_bytes
    assert temporaries < size / 2


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("cfg", [GQA, MLA])
def test_an_insertion_touches_what_it_inserts(cfg, dtype):
  """Not the whole cache for every row, as updates of bfloat16 would."""
  rows = 64
  engine, _, _, prompts, state = shapes(cfg, 512, rows, dtype)
  assert {x.dtype for x in jax.tree.leaves(state.cache)} == {jnp.dtype(dtype)}
  number = jax.ShapeDtypeStruct((rows,), jnp.int32)
  fill = Fill(**{name: number for name in Fill._fields} | {
      "fill_B": jax.ShapeDtypeStruct((rows,), jnp.bool_)})
  text = engine.programs.insert.lower(
      state, prompts, jax.random.key(0), fill).compile().as_text()
  cache, some = (memory.shard_bytes(x) for x in (state.cache, prompts))
  inserted = some / 4 * rows
  # Read and written; as bits there and back are two passes over the cache.
  most = 4 * inserted + (5 * cache if dtype == "bfloat16" else 0) + 1e6
  assert inserted < hlo.costs(text, {"while": rows}).touched < most
