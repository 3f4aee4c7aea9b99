"""Programs of real models, compiled for TPUs that are not here."""

import dataclasses
import functools

import jax
import pytest

from r1jax.accounting import chips, compiled, hlo, memory
from r1jax.ahead import aot
from r1jax.ahead.aot_config import AheadConfig
from r1jax.models import presets
from r1jax.models.compute import Compute
from r1jax.models.model import build
from r1jax.sharding.mesh import MeshConfig, make_mesh
from tests import topologies

# Share of matrix operations that may differ from the count.
SAME_FLOPS = 0.05
# Rows of the smallest tile of an expert's product on TPU.
TILE = 128
# Share of the weights' bytes that a decode step may send: its activations.
DECODE_SENT = 0.02
# And what it may read and write beside weights and cache, as a share of them.
DECODE_TOUCHED = 0.1
# And what it may hold beside them: no weight in another layout.
COPIED = 0.03
# As DECODE_TOUCHED where 2,048 tokens of 32,768 are there.
LIVE_TOUCHED = 0.15

V5E = ("v5e:4x4", MeshConfig(data=1, fsdp=4, expert=4))
V5P = ("v5p:4x4x4", MeshConfig(data=1, fsdp=2, expert=32))


@functools.cache
def programs(preset, layers, topology, mesh, **sizes):
  devices = topologies.tpu(topology)
  cfg = presets.get(preset)
  model = build(
      dataclasses.replace(cfg, n_layers=layers or cfg.n_layers),
      Compute(dtype="bfloat16", remat="full"))
  return (aot.programs(model, AheadConfig(**sizes), make_mesh(mesh, devices)),
          chips.of(devices[0].device_kind))


def measured(found, name):
  programs_, chip = found
  program = programs_[name]
  m = compiled.measure(
      name, program.lower, program.arguments, chip, tpu=True,
      expected_flops=program.flops, steps=program.steps, trips=program.trips,
      effort=-1)
  assert not m.error
  # Beside what the other programs leave there.
  assert m.total_bytes + sum(program.resident.values()) < chip.memory
  # A TPU pads small arrays: as it lays them out, the count is exact.
  assert m.padded_bytes == m.argument_bytes
  assert 0 <= m.argument_bytes / sum(m.arguments.values()) - 1 < 0.01
  assert m.seconds > 0
  return program, m


def check_whole_rows(found, name):
  program, m = measured(found, name)
  assert m.flops == pytest.approx(program.flops, rel=SAME_FLOPS)
  assert m.collectives["ragged-all-to-all"][1] > 0


V2_LITE = functools.partial(
    programs, "v2-lite-16b", topology=V5E[0], mesh=V5E[1],
    rows=16, length=2048, prompt=256, offload=("optimizer", "reference"))


@pytest.mark.slow  # two minutes of a core
def test_v2_lite_micro_batch_on_16_chips():
  check_whole_rows(V2_LITE(layers=0), "accumulate")


@pytest.mark.slow  # half a minute; test_a_decode_step_reads_what_lives stays
def test_v2_lite_decode_on_16_chips():
  """Every weight is read in a step, once, and none travels."""
  program, m = measured(V2_LITE(layers=0), "decode")
  weights = m.arguments["decoding copy"]
  assert weights < m.touched_bytes < (1 + DECODE_TOUCHED) * (
      weights + m.arguments["cache"])
  assert sum(size for _, size in m.collectives.values()) < (
      DECODE_SENT * weights)
  # Every device multiplies a whole tile, of which its own experts' pairs of 16
  # tokens are a part, with a quarter of each expert's width.
  cfg = presets.get("v2-lite-16b")
  filled = TILE - 16 * cfg.n_activated / 4
  padding = cfg.n_mixture_layers * filled * (
      2 * 3 * cfg.d_model * cfg.d_expert / 4)
  assert m.flops == pytest.approx(program.flops + padding, rel=SAME_FLOPS)


@pytest.mark.parametrize("preset,place,rows,more,changes", [
    ("r1-671b", ("v5p:8x8x8", MeshConfig(data=1, fsdp=2, expert=256)), 512,
     2.3, dict(n_dense_layers=1)),
    ("qwen2.5-7b", ("v5e:4x4", MeshConfig(data=4, tensor=4)), 16, 1.01, {}),
    ("qwen2.5-7b", ("v5p:2x2x1", MeshConfig(data=4)), 16, 1.01, {})])
def test_a_decode_step_reads_what_lives(
    preset, place, rows, more, changes, monkeypatch):
  """2,048 tokens a row in a cache of 32,768; two layers without embeddings.

  Each further byte of cache moves at most `more` bytes: latent attention reads
  a block once (read twice it would be 3.3) and moves its queries, scores and
  sums beside it.
  """
  devices, texts, costs = topologies.tpu(place[0]), [], hlo.costs
  monkeypatch.setattr(hlo, "costs", lambda text, trips: (
      texts.append(text) or costs(text, trips)))
  cfg = dataclasses.replace(
      presets.get(preset), n_layers=2, vocab_size=2048, **changes)

  def made(live):
    return aot.programs(
        build(cfg, Compute(dtype="bfloat16", remat="full")),
        AheadConfig(rows=rows, length=32768, prompt=1024, live=live),
        make_mesh(place[1], devices))

  found = made(2048), chips.of(devices[0].device_kind)
  # A layer's rows are moved without a copy of it in another layout.
  _, m = measured(found, "halve")
  assert m.temporary_bytes < 0.01 * m.argument_bytes
  texts.clear()
  program, m = measured(found, "decode")
  kept = program.arguments["cache"].cache
  # One array in every layer: of keys and values in turn the kernel's.
  assert len(jax.tree.leaves(kept)) == cfg.n_layers
  weights, cache = m.arguments["decoding copy"], memory.shard_bytes(kept)
  least = weights + cache * 2048 / 32768
  assert weights < m.touched_bytes < (1 + LIVE_TOUCHED) * least
  assert m.temporary_bytes < COPIED * weights
  # The same program when all slots are filled.
  whole = costs(*texts, made(32768)["decode"].trips).touched / program.steps
  rest = cache * (1 - 2048 / 32768)
  assert rest <= whole - m.touched_bytes < more * rest


R1 = functools.partial(
    programs, "r1-671b", layers=4, topology=V5P[0], mesh=V5P[1],
    rows=64, length=4096, prompt=1024)


@pytest.mark.slow  # v2-lite's, above, has the same operators
@pytest.mark.parametrize("name", ["accumulate", "logprobs"])
def test_r1_with_4_of_61_layers_on_64_chips(name):
  """All widths and all 256 experts; 3 dense layers and a mixture."""
  check_whole_rows(R1(), name)
