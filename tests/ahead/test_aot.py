"""Programs from shapes alone: what they are given, cost, and compile to."""

import dataclasses
import functools

import jax
import numpy as np
import pytest

from r1jax.accounting import compiled
from r1jax.ahead import aot, fitting
from r1jax.ahead.aot_config import AheadConfig
from r1jax.core.types import TokenBatch
from r1jax.models import presets
from r1jax.models.compute import Compute
from r1jax.models.model import build
from r1jax.ops import (
    cached,
    expert_parallel,
    experts,
    ragged_exchange,
)
from r1jax.rollout import engine as engine_lib
from r1jax.rollout import prefill as prefill_lib
from r1jax.sharding.mesh import MeshConfig, make_mesh
from r1jax.training import state, step

# Sizes that the meshes below divide, and rows so short that attention, whose
# causal half the count leaves out, is little of the whole.
DENSE = dataclasses.replace(
    presets.TINY_DENSE, vocab_size=128, d_model=64, n_heads=8, n_kv_heads=4,
    head_dim=8, d_ff=192)
MIXTURE = dataclasses.replace(
    presets.TINY, vocab_size=96, d_model=32, n_heads=4, d_ff=64, d_expert=16)
DRAFTING = dataclasses.replace(MIXTURE, n_experts=0, n_dense_layers=0)
CONFIG = AheadConfig(rows=16, length=16, prompt=8, minibatches=2)
# Share of matrix operations that may differ from the count.
DENSE_PARTS = 0.05


@functools.cache
def programs(kind, remat="full", cfg=CONFIG):
  model = build({"dense": DENSE, "mixture": MIXTURE, "drafting": DRAFTING}[
      kind], Compute(remat=remat, unroll=1))
  mesh = make_mesh({
      "dense": MeshConfig(data=2, fsdp=2, tensor=2),
      "mixture": MeshConfig(data=1, fsdp=2, expert=2, tensor=2),
      "drafting": MeshConfig(data=8)}[kind])
  return aot.programs(model, cfg, mesh)


@functools.cache
def measured(kind, name, remat="full", cfg=CONFIG):
  program = programs(kind, remat, cfg)[name]
  return program, costs(program)


def costs(program):
  return compiled.measure(
      program.name, program.lower, program.arguments, None, tpu=False,
      expected_flops=program.flops, steps=program.steps, trips=program.trips)


NAMES = ("reshard", "prefill", "insert", "decode", "logprobs", "accumulate",
         "apply")


def test_names():
  assert tuple(programs("dense")) == tuple(programs("mixture")) == NAMES


@pytest.mark.parametrize("kind", ["dense", "mixture"])
@pytest.mark.parametrize("name", NAMES)
def test_arguments_are_the_compilers_to_the_byte(kind, name):
  _, found = measured(kind, name)
  assert sum(found.arguments.values()) == found.argument_bytes > 0
  assert found.padded_bytes == found.argument_bytes
  assert not found.error and found.temporary_bytes > 0


@pytest.mark.parametrize(
    "name", ["accumulate", "logprobs", "prefill", "decode"])
def test_dense_parts_are_the_count(name):
  program, found = measured("dense", name)
  assert found.flops == pytest.approx(program.flops, rel=DENSE_PARTS)


@pytest.mark.parametrize("name,depth", [
    ("prefill", 1), ("decode", 1), ("decode", 3)])
def test_drafts_are_counted(name, depth):
  """The tokens that the model and its MTP module read, and drafts drawn."""
  cfg = dataclasses.replace(CONFIG, speculate=depth)
  program, found = measured("drafting", name, cfg=cfg)
  assert sum(found.arguments.values()) == found.argument_bytes
  assert found.flops == pytest.approx(program.flops, rel=DENSE_PARTS)
  without, plain = measured("drafting", name)
  if name == "decode":  # a CPU's prefill drops what no one reads of a layer
    assert plain.flops == pytest.approx(without.flops, rel=DENSE_PARTS)
  more = {"decode": 1 + depth, "prefill": 1}[name]
  assert found.flops > 1.05 * more * plain.flops
  assert found.touched_bytes > plain.touched_bytes
  if name == "decode":
    said = fitting.report([(program, found)], None, Compute(), cfg)
    tokens = 1 + sum(0.85**n for n in range(1, depth + 1))
    share = found.touched_bytes / 1e9 / tokens
    assert (f"with {depth} drafts, of which 85 % are right after right ones,"
            f" that is {share:.4g} GB") in said
  with pytest.raises(ValueError, match="acceptance=1.1"):
    dataclasses.replace(cfg, acceptance=1.1)


def test_prompts_in_parts_are_counted(monkeypatch):
  """Two parts of four tokens; the second reads both blocks of the cache."""
  monkeypatch.setattr(prefill_lib, "PART", 8)
  monkeypatch.setattr(
      cached, "reading", lambda *args, **more: cached.Reading(4))
  cfg = dataclasses.replace(CONFIG, speculate=1, length=18)
  program, found = measured("drafting", "prefill", cfg=cfg)
  assert program.trips[cached.BLOCKS] == 1.5
  assert sum(found.arguments.values()) == found.argument_bytes
  assert found.flops == pytest.approx(program.flops, rel=DENSE_PARTS)


def test_what_is_computed_again_is_counted():
  program, found = measured("dense", "accumulate", "none")
  assert found.flops == pytest.approx(program.flops, rel=DENSE_PARTS)
  again = programs("dense")["accumulate"]
  assert program.flops < 0.9 * again.flops
  # And kept instead.
  assert program.kept > 2 * again.kept > 0


def test_memory_by_program():
  """All that is held is an argument or resident, and nothing is both."""
  for kind in ("dense", "mixture"):
    for program in programs(kind).values():
      given = {k: compiled.memory.shard_bytes(tree)
               for k, tree in program.arguments.items()}
      for name, size in program.held.device.items():
        assert size == given.get(name, 0) + program.resident.get(name, 0)
  found = programs("mixture")
  masters = found["apply"].held.device["masters"]
  held = found["apply"].arguments["masters"]
  moved = masters - compiled.memory.shard_bytes(held["mtp"])
  # Two moments of two bytes for parameters of four, and two counters.
  assert found["apply"].held.device["moments"] == moved + 8
  assert found["accumulate"].resident["moments"] == moved + 8
  # Programs do not read the module that is not trained, but it is there.
  assert found["accumulate"].resident["masters"] == masters - moved
  assert "moments" not in found["apply"].resident


def test_what_idles_is_in_host_memory():
  away = dataclasses.replace(CONFIG, offload=("optimizer", "reference"))
  found = programs("mixture", "full", away)
  for name in ("reshard", "prefill", "decode", "accumulate"):
    assert set(found[name].held.host) == {"moments", "reference"}
    assert not {"moments", "reference"} & set(found[name].held.device)
  assert set(found["logprobs"].held.host) == {"moments", "reference"}
  assert "reference" in found["logprobs"].held.device
  assert set(found["apply"].held.host) == {"reference"}
  assert "moments" in found["apply"].held.device


def test_masters_are_not_bfloat16_by_mistake():
  model = build(DENSE, Compute(dtype="bfloat16", param_dtype="bfloat16"))
  mesh = make_mesh(MeshConfig(data=8))
  cfg = dataclasses.replace(CONFIG, samples=2)
  with pytest.raises(ValueError, match="optimizer.rounding='stochastic'"):
    aot.programs(model, cfg, mesh)
  rounded = dataclasses.replace(cfg, optimizer=dataclasses.replace(
      cfg.optimizer, rounding="stochastic"))
  found = aot.programs(model, rounded, mesh)["accumulate"].held.device
  # They compute themselves, and the sums are of four bytes.
  assert "compute copy" not in found
  assert found["gradient sums"] - 4 == 2 * found["masters"]


def test_the_programs_are_those_that_training_calls():
  """They run on a state and a micro-batch."""
  found = programs("mixture")
  model = build(MIXTURE, Compute(remat="full", unroll=1))
  mesh = found["apply"].arguments["masters"]["embed"].sharding.mesh
  held = ("mtp",)
  shape = (8, CONFIG.length)
  tokens = jax.random.randint(jax.random.key(1), shape, 0, MIXTURE.vocab_size)
  ones, zeros = np.ones(shape, np.float32), np.zeros(shape, np.float32)
  batch = TokenBatch(
      tokens_BT=np.asarray(tokens), targets_BT=np.asarray(tokens),
      segments_BT=np.ones(shape, np.int32),
      positions_BT=np.broadcast_to(
          np.arange(CONFIG.length, dtype=np.int32), shape),
      mask_BT=ones, advantages_BT=ones, sampler_logprobs_BT=zeros,
      old_logprobs_BT=zeros - 4, ref_logprobs_BT=zeros - 4)
  with jax.set_mesh(mesh):
    started = state.start(
        model, model.init(jax.random.key(0)), model.init_router_bias(),
        CONFIG.optimizer, mesh=mesh, held=held)
    sums = jax.device_put(
        step.zeros(started.state.params, started.state.router_bias_LE, held),
        jax.tree.map(lambda x: x.sharding,
                     found["apply"].arguments["gradient sums"]))
    sums, metrics = found["accumulate"].lower().compile()(
        started.state.params, started.state.router_bias_LE,
        {"policy": np.float32(batch.mask_BT.sum())}, sums,
        step.place(batch, mesh), None)
    new, _ = found["apply"].lower().compile()(started.state, sums)
  assert np.isfinite(float(metrics.means["loss/policy"][0]))
  assert int(new.step) == 1


@pytest.mark.parametrize("changes,message", [
    (dict(rows=0), "rows=0 must be positive"),
    (dict(micro_rows=-1), "micro_rows=-1 must not be negative"),
    (dict(minibatches=3), "rows=16 must be a multiple of minibatches=3"),
    (dict(prompt=16), "prompt=16 leaves no room for a completion in length=16"),
    (dict(length=65), "length is 65 tokens, the model's context is 64"),
    (dict(micro_rows=6), "6 rows of a micro-batch do not divide over 4"),
    (dict(samples=16), "their 1 prompts do not divide over the 2 devices"),
    (dict(offload=("policy",)), "choose from optimizer, reference"),
])
def test_sizes_that_do_not_fit(changes, message):
  with pytest.raises(ValueError, match=message):
    programs.__wrapped__("dense", cfg=dataclasses.replace(CONFIG, **changes))


def test_loops_of_a_decode_step_are_counted(monkeypatch):
  monkeypatch.setattr(
      cached, "reading", lambda *args, **more: cached.Reading(4))
  cfg = dataclasses.replace(CONFIG, live=6)
  trips = programs.__wrapped__("mixture", cfg=cfg)["decode"].trips
  # Two shards of 8 rows, 3 experts each, and room for a quarter more.
  assert trips == {ragged_exchange.SCOPE: 24 / 30, cached.BLOCKS: 2,
                   expert_parallel.TURNS: 1, experts.ROUNDS: 1, "while": 8}
  whole = programs.__wrapped__("mixture")["decode"]
  assert whole.trips[cached.BLOCKS] == 4


def test_what_a_decode_step_moves_is_told():
  cfg = dataclasses.replace(CONFIG, live=4)
  program, found = measured("dense", "decode", cfg=cfg)
  assert found.flops == pytest.approx(program.flops, rel=DENSE_PARTS)
  least = (found.arguments["decoding copy"]
           + found.arguments["cache"] * 4 / 16) / 1e9
  step = found.touched_bytes / 1e9
  assert (f"with 4 tokens a row reads and writes {step:.4g} GB on a chip,"
          f" {step / least:.3g} times the weights") in fitting.report(
              [(program, found)], None, Compute(), cfg)
  with pytest.raises(ValueError, match="live=17"):
    dataclasses.replace(CONFIG, live=17)


def test_a_cache_that_is_read_whole_has_the_slots_it_has_by_then(monkeypatch):
  """A step by blocks is compiled with all slots, and reads some of them."""
  monkeypatch.setattr(engine_lib, "FIRST_SLOTS", 4)
  cfg = dataclasses.replace(CONFIG, live=4)

  def made(cfg):
    return programs.__wrapped__("dense", cfg=cfg)["decode"]

  def slots(program):
    cache = program.arguments["cache"].cache
    return jax.tree.leaves(cache)[-1].shape[2], program.filled

  whole, some = made(CONFIG), made(cfg)
  assert (slots(whole), slots(some)) == ((16, 1), (4, 1))
  found = costs(some)
  least = (found.arguments["decoding copy"] + found.arguments["cache"]) / 1e9
  assert f"the cache of these tokens ({least:.4g} GB)" in fitting.report(
      [(some, found)], None, Compute(), cfg)
  monkeypatch.setattr(
      cached, "reading", lambda *args, **more: cached.Reading(4))
  by_blocks = made(cfg)
  assert slots(by_blocks) == (16, 1 / 4)
  assert by_blocks.flops == some.flops < whole.flops


def test_rounds_of_an_exchange_are_counted(monkeypatch):
  monkeypatch.setattr(ragged_exchange, "MOST", 10)
  trips = programs.__wrapped__("mixture", cfg=dataclasses.replace(
      CONFIG, minibatches=1))["accumulate"].trips
  # 16 rows of 16 tokens, 3 experts each, on 4 groups: 64 tokens in 32 parts.
  assert ragged_exchange.chunks(64, 3) == 32
  assert trips == {ragged_exchange.SCOPE: 6 / 7}
