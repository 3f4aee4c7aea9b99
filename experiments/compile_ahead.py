"""Compiles a GRPO step's programs for chips that this machine does not have.

  python -m experiments.compile_ahead --preset=v2-lite-16b --topology=v5e:4x4 \\
      --mesh.fsdp=4 --mesh.expert=4 --rows=16 --length=2048 --prompt=256 \\
      --offload=optimizer,reference --effort=-1
  python -m experiments.compile_ahead --preset=r1-671b --topology=v5p:8x8x8 \\
      --mesh.fsdp=2 --mesh.expert=256 --offload=reference --json
  python -m experiments.compile_ahead --preset=base-arith --topology=cpu \\
      --length=256 --prompt=64 --rows=64 --sweep=6

For one GPU nothing is compiled: the arrays that it holds are counted, and
temporaries are estimated.

  python -m experiments.compile_ahead --init=hf-config:DIR/config.json \\
      --topology=h200 --rows=64 --samples=16 --micro_rows=1 --length=8192 \\
      --prompt=1024 --offload=reference

A teacher for distillation (--teacher=PRESET --distill.factor=1) and reward
models (--helpful=PRESET --safety=PRESET) are included if they are named.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
from collections.abc import Mapping, Sequence

import jax
from absl import flags
from etils import epath

from r1jax.accounting import chips, compiled
from r1jax.accounting.compiled import Measured
from r1jax.ahead import aot, estimates, fitting
from r1jax.ahead.aot_config import AheadConfig
from r1jax.ahead.resident import Beside
from r1jax.checkpoint import hf_config
from r1jax.core import io
from r1jax.core.config import check
from r1jax.models import presets, scalar_head
from r1jax.models.compute import Compute
from r1jax.models.config import ModelConfig
from r1jax.models.model import build
from r1jax.report.progress import Progress
from r1jax.sharding.mesh import MeshConfig, devices_of, make_mesh

from . import flagset, start

PRESET = flags.DEFINE_string(
    "preset", "r1-671b", f"Model config: {', '.join(presets.PRESETS)}.")
INIT = flags.DEFINE_string(
    "init", "", "hf-config:FILE, a Hugging Face config.json, instead of"
    " --preset.")
TEACHER = flags.DEFINE_string(
    "teacher", "", "Config of the teacher for distillation (--distill.*): a"
    " preset, or hf-config:FILE.")
HELPFUL = flags.DEFINE_string(
    "helpful", "", "Config of the helpful reward model: a preset, or"
    " hf-config:FILE.")
SAFETY = flags.DEFINE_string(
    "safety", "", "Config of the safety reward model: a preset, or"
    " hf-config:FILE.")
LAYERS = flags.DEFINE_integer(
    "layers", 0, "Number of layers instead of the config's, to compile faster;"
    " dense layers come first, as in the config.")
TOPOLOGY = flags.DEFINE_string(
    "topology", "v5p:8x8x8", "Chips: a TPU topology (v5e:4x4, v5p:8x8x8,"
    " v6e:8x8); cpu or gpu: this machine's devices; h200, h100 or a100: one of"
    " these, with memory estimated and nothing compiled.")
PROGRAM = flags.DEFINE_list(
    "program", ["all"], "Programs to compile: reshard, prefill, insert, decode,"
    " halve, logprobs, taught (the teacher's), score (of reward models),"
    " accumulate, apply; update for the last two, or all.")
SWEEP = flags.DEFINE_integer(
    "sweep", 0, "Instead of --mesh and --compute.remat, try this many promising"
    " meshes and remat policies on the first --program, and rank them.")
EFFORT = flags.DEFINE_float(
    "effort", 0.0, "Optimisation effort of the TPU compiler, -1 to 1; 0 is that"
    " of real runs, -1 compiles several times faster.", lower_bound=-1,
    upper_bound=1)
JSON = flags.DEFINE_bool("json", False, "Also print the figures as JSON.")
AHEAD = flagset.define(AheadConfig)
MESH = flagset.define(MeshConfig, "mesh")
# Large models train in bfloat16, and with other remat policies even one row of
# 32K tokens does not fit.
COMPUTE = flagset.define(Compute(dtype="bfloat16", remat="full"), "compute")


def main() -> None:
  compute, cfg, mesh = COMPUTE.value(), AHEAD.value(), MESH.value()
  name, model = chosen()
  if chip := chips.of(TOPOLOGY.value.upper()):
    print(f"{name}, {model.n_layers} layers, on one {TOPOLOGY.value};"
          f" {cfg.rows} rows of {cfg.length} tokens", flush=True)
    return estimated(name, model, compute, cfg, chip)
  devices = devices_of(TOPOLOGY.value)
  # A program from the cache has no HLO dump and no compile time.
  jax.config.update("jax_enable_compilation_cache", False)
  chip = chips.of(devices[0].device_kind)
  print(f"{name}, {model.n_layers} layers, on {len(devices)} x"
        f" {devices[0].device_kind}; {cfg.rows} rows of {cfg.length} tokens",
        flush=True)
  names = PROGRAM.value
  if SWEEP.value:
    first = names[0] if names[0] not in ("all", "update") else "accumulate"
    ranked = sweep(model, compute, cfg, devices, chip, first)
    print(fitting.ranking(ranked, chip))
    rows = [dataclasses.asdict(m) | {
        "mesh": dataclasses.asdict(shape), "remat": remat}
            for shape, remat, m, _ in ranked]
  else:
    programs = aot.programs(build(model, compute), cfg,
                            make_mesh(mesh, devices), others(compute))
    names = known(names, programs)
    print(fitting.where([programs[n] for n in names]) + "\n", flush=True)
    results = measured(programs, devices, chip, names)
    print(fitting.report(results, chip, compute, cfg))
    rows = [dataclasses.asdict(m) | {
        "held": p.held._asdict(), "resident": p.resident, "kept": p.kept}
            for p, m in results]
  if JSON.value:
    print(json.dumps({"model": name, "layers": model.n_layers,
                      "topology": TOPOLOGY.value, "devices": len(devices),
                      "rows": rows}))


def chosen() -> tuple[str, ModelConfig]:
  """(name, config) of the model that the flags name.

  Raises:
    ValueError: the preset is unknown, or config.json is not supported.
  """
  check(not INIT.value or INIT.value.startswith("hf-config:"),
        f"init={INIT.value!r}: give hf-config:FILE, or --preset")
  name, model = shape(INIT.value or PRESET.value)
  if LAYERS.value:
    model = dataclasses.replace(model, n_layers=LAYERS.value)
  return name, model


def shape(name: str) -> tuple[str, ModelConfig]:
  """(name, config) of a preset or of hf-config:FILE."""
  kind, _, file = name.partition(":")
  if kind != "hf-config":
    return name, presets.get(name)
  check(bool(file) and epath.Path(file).exists(), f"{file} does not exist")
  return file, hf_config.from_hf(io.read_json(epath.Path(file)))


def others(compute: Compute) -> Beside:
  """The teacher and the reward models of the flags."""
  rewards = {name: flag.value for name, flag in (
      ("helpful", HELPFUL), ("safety", SAFETY)) if flag.value}
  return Beside(
      build(shape(TEACHER.value)[1], compute) if TEACHER.value else None,
      {name: scalar_head.over(shape(what)[1], compute)
       for name, what in rewards.items()})


def estimated(name: str, config: ModelConfig, compute: Compute,
              cfg: AheadConfig, chip: chips.Chip) -> None:
  """Prints the estimated memory of one device, from shapes alone."""
  if compute.attention == "auto":  # "blocks" is what a GPU uses
    compute = dataclasses.replace(compute, attention="blocks")
  model = build(config, compute)
  mesh = make_mesh(MeshConfig(), jax.devices("cpu")[:1])
  beside = others(compute)
  programs = aot.programs(model, cfg, mesh, beside)
  transient = estimates.transient(model, cfg, mesh, programs, beside)
  print(fitting.estimate(
      [(program, transient[n]) for n, program in programs.items()], chip))
  if JSON.value:
    print(json.dumps({
        "model": name, "layers": config.n_layers, "topology": TOPOLOGY.value,
        "devices": 1, "rows": [
            {"name": n, "held": p.held._asdict(), "transient": transient[n]}
            for n, p in programs.items()]}))


def known(names: Sequence[str], programs: Mapping[str, aot.Program]
          ) -> list[str]:
  """The programs that --program names.

  Raises:
    ValueError: there is no such program.
  """
  if list(names) == ["all"]:
    return list(programs)
  names = [each for name in names for each in (
      ("accumulate", "apply") if name == "update" else (name,))]
  for name in names:
    check(name in programs, f"program={name!r}: choose all or some of"
          f" {', '.join(programs)}")
  return names


def measured(programs: Mapping[str, aot.Program], devices: Sequence,
             chip: chips.Chip | None, names: Sequence[str]
             ) -> list[tuple[aot.Program, Measured]]:
  """Compiles and measures the programs of these names."""
  results = []
  with Progress("compile", len(names)) as progress:
    for name in names:
      program = programs[name]
      results.append((program, compiled.measure(
          name, program.lower, program.arguments, chip,
          tpu=devices[0].platform == "tpu", expected_flops=program.flops,
          steps=program.steps, trips=program.trips, effort=EFFORT.value)))
      progress.step({})
  return results


def sweep(model: ModelConfig, compute: Compute, cfg: AheadConfig,
          devices: Sequence, chip: chips.Chip | None, name: str
          ) -> list[tuple[MeshConfig, str, Measured, bool]]:
  """Compiles a program on several meshes: (mesh, remat, measurement, whether it
  fits), best first.
  """
  results = []
  tried = list(itertools.islice(
      fitting.candidates(model, cfg, len(devices)), SWEEP.value))
  for number, (axes, remat) in enumerate(tried, start=1):
    print(f"{number} of {len(tried)}: {fitting.mesh_text(axes)}, remat"
          f" {remat}", flush=True)
    tried_compute = dataclasses.replace(compute, remat=remat)
    programs = aot.programs(build(model, tried_compute), cfg,
                            make_mesh(axes, devices), others(tried_compute))
    ((program, m),) = measured(
        programs, devices, chip, known([name], programs))
    total = m.total_bytes + sum(program.resident.values())
    results.append((axes, remat, m, fitting.verdict(total, m, chip) != "no"))
  return sorted(results, key=lambda x: (
      not x[3], x[2].seconds or 0.0, x[2].total_bytes))


if __name__ == "__main__":
  start.run(main)
