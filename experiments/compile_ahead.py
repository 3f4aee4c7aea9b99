"""Compiles a run's programs for chips that need not be here, and measures them.

  python -m experiments.compile_ahead --preset=v2-lite-16b --topology=v5e:4x4 \
      --mesh.fsdp=4 --mesh.expert=4 --rows=16 --length=2048 --prompt=256 \
      --compute.param_dtype=bfloat16 --effort=-1
  python -m experiments.compile_ahead --preset=r1-671b --topology=v5p:8x8x8 \
      --mesh.fsdp=2 --mesh.expert=256 --offload=reference --json
  python -m experiments.compile_ahead --preset=base-arith --topology=cpu \
      --length=256 --prompt=64 --rows=64 --sweep=6
"""

from __future__ import annotations

import dataclasses
import itertools
import json
from collections.abc import Sequence

import jax
from absl import flags

from experiments import flagset, start
from r1jax.accounting import chips, compiled
from r1jax.accounting.compiled import Measured
from r1jax.core.config import check
from r1jax.models import presets
from r1jax.models.compute import Compute
from r1jax.models.config import ModelConfig
from r1jax.models.model import build
from r1jax.report.progress import Progress
from r1jax.sharding.mesh import MeshConfig, devices_of, make_mesh
from r1jax.stages import aot, fitting
from r1jax.stages.aot import AheadConfig

PRESET = flags.DEFINE_string(
    "preset", "r1-671b", f"Model: {', '.join(presets.PRESETS)}.")
LAYERS = flags.DEFINE_integer(
    "layers", 0, "Layers instead of the preset's, to compile faster: dense ones"
    " first, as in the preset.")
TOPOLOGY = flags.DEFINE_string(
    "topology", "v5p:8x8x8", "Chips: a TPU topology (v5e:4x4, v5p:8x8x8,"
    " v6e:8x8), or cpu or gpu for those of this machine.")
PROGRAM = flags.DEFINE_list(
    "program", ["all"], "update, logprobs, reshard, prefill, decode, some of"
    " them, or all.")
SWEEP = flags.DEFINE_integer(
    "sweep", 0, "Instead of --mesh.* and --compute.remat try so many of the"
    " most promising ones on the first --program, and rank them.")
EFFORT = flags.DEFINE_float(
    "effort", 0.0, "Of a TPU compiler's optimiser, -1 to 1; 0 is what runs get,"
    " -1 is done several times sooner.", lower_bound=-1, upper_bound=1)
JSON = flags.DEFINE_bool("json", False, "Also print the figures as JSON.")
AHEAD = flagset.define(AheadConfig)
MESH = flagset.define(MeshConfig, "mesh")
# What R1 was trained in; on a single row of 32K tokens all else overflows.
COMPUTE = flagset.define(Compute(dtype="bfloat16", remat="full"), "compute")


def main() -> None:
  compute, cfg, mesh = COMPUTE.value(), AHEAD.value(), MESH.value()
  devices = devices_of(TOPOLOGY.value)
  # A program from the cache leaves no text, and says nothing of its compiler.
  jax.config.update("jax_enable_compilation_cache", False)
  model = presets.get(PRESET.value)
  if LAYERS.value:
    model = dataclasses.replace(model, n_layers=LAYERS.value)
  chip = chips.of(devices[0].device_kind)
  print(f"{PRESET.value}, {model.n_layers} layers, on {len(devices)} x"
        f" {devices[0].device_kind}; {cfg.rows} rows of {cfg.length} tokens",
        flush=True)
  names = PROGRAM.value
  if SWEEP.value:
    name = "update" if names == ["all"] else names[0]
    found = sweep(model, compute, cfg, devices, chip, name)
    print(fitting.ranking(found, chip))
    rows = [dataclasses.asdict(m) | {
        "mesh": dataclasses.asdict(shape), "remat": remat}
            for shape, remat, m, _ in found]
  else:
    found = measured(model, compute, cfg, mesh, devices, chip, names)
    print(fitting.report(found, chip, compute, cfg))
    rows = [dataclasses.asdict(m) | {
        "resident": dict(p.resident), "kept": p.kept} for p, m in found]
  if JSON.value:
    print(json.dumps({"preset": PRESET.value, "layers": model.n_layers,
                      "topology": TOPOLOGY.value, "devices": len(devices),
                      "rows": rows}))


def measured(model: ModelConfig, compute: Compute, cfg: AheadConfig,
             mesh: MeshConfig, devices: Sequence, chip: chips.Chip | None,
             names: Sequence[str]) -> list[tuple[aot.Program, Measured]]:
  """The programs of these names, compiled.

  Raises:
    ValueError: a program is unknown, or sizes do not divide over the mesh.
  """
  programs = aot.programs(
      build(model, compute), cfg, make_mesh(mesh, devices))
  names = list(programs) if list(names) == ["all"] else list(names)
  for name in names:
    check(name in programs, f"program={name!r}: choose all or some of"
          f" {', '.join(programs)}")
  found = []
  with Progress("compile", len(names)) as progress:
    for name in names:
      program = programs[name]
      found.append((program, compiled.measure(
          name, program.lower, program.arguments, chip,
          tpu=devices[0].platform == "tpu", expected_flops=program.flops,
          steps=program.steps, trips=program.trips, effort=EFFORT.value)))
      progress.step({})
  return found


def sweep(model: ModelConfig, compute: Compute, cfg: AheadConfig,
          devices: Sequence, chip: chips.Chip | None, name: str
          ) -> list[tuple[MeshConfig, str, Measured, bool]]:
  """(mesh, remat, measured, whether it fits), best first."""
  found = []
  tried = list(itertools.islice(
      fitting.candidates(model, cfg, len(devices)), SWEEP.value))
  for number, (shape, remat) in enumerate(tried, start=1):
    print(f"{number} of {len(tried)}: {fitting.mesh_text(shape)}, remat"
          f" {remat}", flush=True)
    ((program, m),) = measured(
        model, dataclasses.replace(compute, remat=remat), cfg, shape, devices,
        chip, [name])
    total = m.total_bytes + sum(program.resident.values())
    found.append((shape, remat, m, fitting.verdict(total, m, chip) != "no"))
  return sorted(found, key=lambda x: (
      not x[3], x[2].seconds or 0.0, x[2].total_bytes))


if __name__ == "__main__":
  start.run(main)
