"""Tables of what programs need of a chip, hints to make them fit, sweeps."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Iterator, Mapping, Sequence

from r1jax.accounting import chips
from r1jax.accounting.compiled import Measured
from r1jax.ahead.aot import Program
from r1jax.ahead.aot_config import AheadConfig
from r1jax.ahead.resident import KINDS, OFFLOADED
from r1jax.models.compute import Compute
from r1jax.models.config import ModelConfig
from r1jax.report import tables
from r1jax.sharding.mesh import MeshConfig

GIB = 2.0**30


def report(measured: Sequence[tuple[Program, Measured]],
           chip: chips.Chip | None, compute: Compute, cfg: AheadConfig) -> str:
  """Tables of memory, FLOPs and collectives, and hints where it does not fit.
  """
  rows, work, network, advice = [], [], [], []
  for program, m in measured:
    total = m.total_bytes + sum(program.resident.values())
    kept = min(program.kept, m.temporary_bytes)
    # The compiler's count includes padding and unlisted arguments.
    other = total - m.output_bytes - m.temporary_bytes - sum(
        program.held.device.get(kind, 0) for kind in COLUMNS)
    rows.append([m.name, *(_gib(program.held.device.get(kind, 0))
                           for kind in COLUMNS), *map(_gib, (
        other, kept, m.temporary_bytes - kept, m.output_bytes, total)),
        verdict(total, m, chip)])
    work.append([m.name, f"{m.flops / 1e12:.4g}",
                 f"{m.expected_flops / 1e12:.4g}",
                 _ratio(m.flops, m.expected_flops),
                 *map(_s, (m.compute_s, m.memory_s, m.network_s, m.xla_s)),
                 f"{m.lower_s + m.compile_s:.0f}"])
    network += [[m.name, kind, f"{count:.4g}", f"{size / 1e6:.4g}"]
                for kind, (count, size) in m.collectives.items()]
    advice += [f"{m.name}: {line}" for line in hints(
        program, m, chip, compute, cfg)]
  return "\n\n".join([
      "GiB a chip" + ("" if chip is None else f" (it has"
                      f" {chip.memory / GIB:.2f})") + "\n" + tables.render(
          ["program", *COLUMNS, "other", "kept for backward", "temporaries",
           "results", "total", "fits"], rows),
      "Work of a chip; a decode step is one token of every row, logprobs and"
      " accumulate are a micro-batch\n"
      + tables.render(
          ["program", "TFLOP", "counted", "ratio", "compute s", "memory s",
           "network s", "XLA's s", "compile s"], work),
      *(_touched(*one, cfg) for one in measured if one[1].name == "decode"),
      "Collectives of a chip\n" + tables.render(
          ["program", "kind", "times", "MB"], network),
      *(["To change:\n" + "\n".join(advice)] if advice else [])])


def _touched(program: Program, m: Measured, cfg: AheadConfig) -> str:
  """What decoding moves in memory."""
  step = m.touched_bytes / 1e9
  least = (m.arguments["decoding copy"]
           + m.arguments["cache"] * program.filled) / 1e9
  told = (f"A decode step with {cfg.read} tokens a row reads and writes"
          f" {step:.4g} GB on a chip, {step / least:.3g} times the weights and"
          f" the cache of these tokens ({least:.4g} GB),")
  if not cfg.speculate:
    return told + " for one token of every row"
  return told.removesuffix(",") + (
      f"; with {cfg.speculate} drafts, of which"
      f" {100 * cfg.acceptance:.0f} % are right after right ones, that is"
      f" {step / cfg.tokens:.4g} GB for one token of every row")


# Kinds of what is held that have a column of their own.
COLUMNS = tuple(kind for kind in KINDS if kind != "other")


def where(programs: Sequence[Program]) -> str:
  """The table of what is in which memory (device or host) during each program.
  """
  rows = []
  for kind in KINDS:
    sizes = [part[kind] for program in programs for part in program.held
             if kind in part]
    if sizes:
      rows.append([kind, _gib(max(sizes)), *(" + ".join(
          name for name, part in program.held._asdict().items()
          if part.get(kind)) or "-" for program in programs)])
  return "What is where, GiB of a chip\n" + tables.render(
      ["kind", "GiB", *(program.name for program in programs)], rows)


def estimate(estimates: Sequence[tuple[Program, Mapping[str, int]]],
             chip: chips.Chip) -> str:
  """Tables of estimated memory for one device, without compiling.

  Args:
    estimates: programs with their `estimates.transient`.
    chip: the device.
  """
  rows = []
  for program, transient in estimates:
    total = sum(program.held.device.values()) + sum(transient.values())
    rows.append([
        program.name, *(_gib(program.held.device.get(kind, 0))
                        for kind in COLUMNS), _gib(sum(transient.values())),
        _gib(total), "yes" if total <= chip.memory else "no"])
  return "\n\n".join([
      f"GiB of one device (it has {chip.memory / GIB:.2f}), an estimate:"
      " nothing was compiled\n" + tables.render(
          ["program", *COLUMNS, "temporaries", "total", "fits"], rows),
      where([program for program, _ in estimates]),
      "Temporaries, GiB: the known large ones; a compiler needs more\n"
      + tables.render(["program", "what", "GiB"], [
          [program.name, what, _gib(size)]
          for program, transient in estimates
          for what, size in transient.items()])])


def verdict(total: float, m: Measured, chip: chips.Chip | None) -> str:
  """Whether a program fits beside what is resident: yes, no, or ? (no chip)."""
  if chip is None:
    return "?"
  return "no" if m.error or total > chip.memory else "yes"


def hints(program: Program, m: Measured, chip: chips.Chip | None,
          compute: Compute, cfg: AheadConfig) -> Iterator[str]:
  """Changes that would make a program fit; nothing if it fits."""
  resident = sum(program.resident.values())
  if verdict(m.total_bytes + resident, m, chip) != "no":
    return
  over = m.total_bytes + resident - chip.memory
  yield f"{over / GIB:.1f} GiB too much." + (f" {m.error}" if m.error else "")
  if m.name == "score" and cfg.model_rows > 1:
    yield f"--model_rows={cfg.model_rows // 2} scores fewer rows at once"
  if m.name in ("accumulate", "logprobs", "taught"):
    if compute.remat != "full" and m.name == "accumulate":
      yield "--compute.remat=full keeps only the layers' inputs"
    if cfg.micro > 1:
      yield (f"--micro_rows={cfg.micro // 2} halves what is kept if a chip has"
             " several rows; --mesh.sequence=2 if it has one")
  if cfg.optimizer.moments == "float32":
    yield "--optimizer.moments=bfloat16 halves the moments"
  idle = [name for name, kind in OFFLOADED.items()
          if program.resident.get(kind)]
  if idle:
    yield f"--offload={','.join(idle)} keeps that in host memory while idle"
  if m.name in ("prefill", "insert", "decode", "halve"):
    yield "fewer --rows, or more chips on --mesh.expert"
  yield "a larger --topology"


def candidates(model: ModelConfig, cfg: AheadConfig, n: int
               ) -> Iterator[tuple[MeshConfig, str]]:
  """Meshes of n devices that the sizes allow, each with both remat policies.

  Meshes with tensor parallelism, which costs most, come last, before them those
  with sequence parallelism.
  """
  rows = cfg.micro
  experts = [e for e in _divisors(n) if e == 1 or (
      model.n_experts and model.n_experts % e == 0)]
  shapes = []
  for expert, sequence, tensor in itertools.product(
      reversed(experts), (1, 2, 4), (1, 2, 4, 8)):
    rest = n // (expert * sequence * tensor)
    if (expert * sequence * tensor * rest != n or cfg.length % sequence
        or model.n_heads % tensor or rows % (rest * expert)):
      continue
    shapes.append(MeshConfig(data=1, fsdp=rest, expert=expert,
                             sequence=sequence, tensor=tensor))
  shapes.sort(key=lambda s: (s.tensor, s.sequence, abs(
      math.log(s.expert / max(1, s.fsdp)))))
  yield from ((shape, remat) for shape in shapes for remat in ("full", "dots"))


def ranking(ranked: Sequence[tuple[MeshConfig, str, Measured, bool]],
            chip: chips.Chip | None) -> str:
  """The table of a sweep."""
  return tables.render(
      ["mesh", "remat", "fits", "GiB", "compute s", "memory s", "network s",
       "compile s"],
      [[mesh_text(shape), remat,
        "?" if chip is None else "yes" if fits else "no", _gib(m.total_bytes),
        *map(_s, (m.compute_s, m.memory_s, m.network_s)),
        f"{m.lower_s + m.compile_s:.0f}"] for shape, remat, m, fits in ranked])


def _divisors(n: int) -> list[int]:
  return [d for d in range(1, n + 1) if n % d == 0]


def mesh_text(mesh: MeshConfig) -> str:
  """A mesh as text: its axes of size above 1."""
  return " ".join(f"{k}={v}" for k, v in dataclasses.asdict(mesh).items()
                  if v != 1) or "data=1"


def _gib(size: float) -> str:
  return f"{size / GIB:.2f}"


def _s(seconds: float | None) -> str:
  return "-" if seconds is None else f"{seconds:.3g}"


def _ratio(a: float, b: float) -> str:
  return f"{a / b:.2f}" if b else "-"
