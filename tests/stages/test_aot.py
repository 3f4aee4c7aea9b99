"""Programs from shapes alone: what they are given, cost, and compile to."""

import dataclasses
import functools

import jax
import numpy as np
import pytest

from r1jax.accounting import compiled
from r1jax.core.types import TokenBatch
from r1jax.models import presets
from r1jax.models.compute import Compute
from r1jax.models.model import build
from r1jax.ops import ragged_exchange
from r1jax.sharding.mesh import MeshConfig, make_mesh
from r1jax.stages import aot
from r1jax.training import state, step
from r1jax.training.optimizer import make_optimizer

# Sizes that the meshes below divide, and rows so short that attention, whose
# causal half the count leaves out, is little of the whole.
DENSE = dataclasses.replace(
    presets.TINY_DENSE, vocab_size=128, d_model=64, n_heads=8, n_kv_heads=4,
    head_dim=8, d_ff=192)
MIXTURE = dataclasses.replace(
    presets.TINY, vocab_size=96, d_model=32, n_heads=4, d_ff=64, d_expert=16)
CONFIG = aot.AheadConfig(rows=16, length=16, prompt=4)
# Share of matrix operations that may differ from the count.
DENSE_PARTS = 0.05


@functools.cache
def programs(kind, remat="full", cfg=CONFIG):
  model = build(DENSE if kind == "dense" else MIXTURE,
                      Compute(remat=remat, unroll=1))
  mesh = make_mesh(MeshConfig(data=2, fsdp=2, tensor=2) if kind == "dense"
                   else MeshConfig(data=1, fsdp=2, expert=2, tensor=2))
  return aot.programs(model, cfg, mesh)


@functools.cache
def measured(kind, name, remat="full", cfg=CONFIG):
  program = programs(kind, remat, cfg)[name]
  return program, compiled.measure(
      name, program.lower, program.arguments, None, tpu=False,
      expected_flops=program.flops, steps=program.steps, trips=program.trips)


NAMES = ("update", "logprobs", "reshard", "prefill", "decode")


def test_names():
  assert tuple(programs("dense")) == tuple(programs("mixture")) == NAMES


@pytest.mark.parametrize("kind", ["dense", "mixture"])
@pytest.mark.parametrize("name", NAMES)
def test_arguments_are_the_compilers_to_the_byte(kind, name):
  _, found = measured(kind, name)
  assert sum(found.arguments.values()) == found.argument_bytes > 0
  assert found.padded_bytes == found.argument_bytes
  assert not found.error and found.temporary_bytes > 0


@pytest.mark.parametrize("name", ["update", "logprobs", "prefill", "decode"])
def test_dense_parts_are_the_count(name):
  program, found = measured("dense", name)
  assert found.flops == pytest.approx(program.flops, rel=DENSE_PARTS)


def test_what_is_computed_again_is_counted():
  program, found = measured("dense", "update", "none")
  assert found.flops == pytest.approx(program.flops, rel=DENSE_PARTS)
  assert program.flops < 0.9 * programs("dense")["update"].flops
  # And kept instead.
  assert program.kept > 2 * programs("dense")["update"].kept > 0


def test_memory_by_program():
  found = programs("mixture")
  params = found["update"].arguments["parameters"]
  size = compiled.memory.shard_bytes(params)
  moments = compiled.memory.shard_bytes(
      found["update"].arguments["optimizer"])
  # Two moments of two bytes for parameters of four, and two counters.
  assert moments == size + 8
  assert found["update"].resident == {"reference": size}
  assert found["logprobs"].resident == {"policy": size, "optimizer": moments}
  assert found["decode"].resident == {
      "policy": size, "optimizer": moments, "reference": size}
  away = dataclasses.replace(CONFIG, offload=("optimizer", "reference"))
  assert programs("mixture", "full", away)["decode"].resident == {
      "policy": size, "optimizer": 0, "reference": 0}


def test_the_update_is_the_one_that_training_calls():
  """Its program runs on a state and a batch."""
  program = programs("mixture")["update"]
  run = program.lower().compile()
  tx = make_optimizer(CONFIG.optimizer)
  model = build(MIXTURE, Compute(remat="full", unroll=1))
  shape = (1, CONFIG.rows, CONFIG.length)
  tokens = jax.random.randint(jax.random.key(1), shape, 0, MIXTURE.vocab_size)
  ones, zeros = np.ones(shape, np.float32), np.zeros(shape, np.float32)
  batch = TokenBatch(
      tokens_BT=np.asarray(tokens), targets_BT=np.asarray(tokens),
      segments_BT=np.ones(shape, np.int32),
      positions_BT=np.broadcast_to(
          np.arange(CONFIG.length, dtype=np.int32), shape),
      mask_BT=ones, advantages_BT=ones, sampler_logprobs_BT=zeros,
      ref_logprobs_BT=zeros)
  before = program.arguments["parameters"]
  mesh = before["embed"].sharding.mesh
  with jax.set_mesh(mesh):
    start = jax.device_put(
        state.create(model.init(jax.random.key(0)), model.init_router_bias(),
                     tx), state.shardings(model, tx, mesh))
    new, metrics = run(start, step.place(batch, mesh))
  assert np.isfinite(float(metrics.means["loss"][0]))
  assert int(new.step) == 1


@pytest.mark.parametrize("changes,message", [
    (dict(rows=0), "rows=0 must be positive"),
    (dict(micro_batches=3), "rows=16 do not divide into micro_batches=3"),
    (dict(prompt=16), "prompt=16 leaves nothing of length=16"),
    (dict(length=65), "length is 65 tokens, the model's context is 64"),
    (dict(rows=10), "do not divide over 4 devices"),
])
def test_sizes_that_do_not_fit(changes, message):
  with pytest.raises(ValueError, match=message):
    programs.__wrapped__("dense", cfg=dataclasses.replace(CONFIG, **changes))


def test_rounds_of_an_exchange_are_counted(monkeypatch):
  monkeypatch.setattr(ragged_exchange, "MOST", 10)
  trips = programs.__wrapped__("mixture")["update"].trips
  # 16 rows of 16 tokens, 3 experts each, on 4 groups: 64 tokens in 32 parts.
  assert ragged_exchange.chunks(64, 3) == 32
  assert trips == {ragged_exchange.SCOPE: 6 / 7}
