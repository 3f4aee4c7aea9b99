"""A program compiled ahead of time, measured: memory, work, time."""

from __future__ import annotations

import dataclasses
import pathlib
import re
import tempfile
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax

from r1jax.accounting import hlo, memory
from r1jax.accounting.chips import Chip


@dataclasses.dataclass(frozen=True, kw_only=True)
class Measured:
  """All bytes and operations are those of one device.

  Attributes:
    name: of the program.
    arguments: bytes by kind, counted from shapes and shardings.
    argument_bytes: the same as the compiler says.
    padded_bytes: the same counted from the layouts that the compiler chose.
    output_bytes: new buffers for results (those that reuse an argument's
      excepted).
    temporary_bytes: everything else that the program holds at its peak.
    flops, expected_flops: of matrix products as compiled, and as counted from
      the config; per step where the program is a loop of steps.
    touched_bytes: read and written in memory, per step.
    collectives: kind to (count, bytes sent or received), per step.
    compute_s, memory_s, network_s: those divided by the chip's rates; None for
      a chip that is not listed.
    xla_s: XLA's own estimate, which counts the body of a loop once; None where
      it gives none.
    lower_s, compile_s: seconds that took.
    error: what the compiler said if it refused; the rest is then 0 or None.
    needed_bytes: what it said the program needs, where it ran out of memory.
  """

  name: str
  arguments: dict[str, int]
  argument_bytes: int = 0
  padded_bytes: int = 0
  output_bytes: int = 0
  temporary_bytes: int = 0
  flops: float = 0.0
  expected_flops: float = 0.0
  touched_bytes: float = 0.0
  collectives: dict[str, tuple[float, float]] = dataclasses.field(
      default_factory=dict)
  compute_s: float | None = None
  memory_s: float | None = None
  network_s: float | None = None
  xla_s: float | None = None
  lower_s: float = 0.0
  compile_s: float = 0.0
  error: str = ""
  needed_bytes: float = 0.0

  @property
  def total_bytes(self) -> float:
    """On the chip while the program runs, without what other programs hold."""
    if self.error:
      return self.needed_bytes
    return self.argument_bytes + self.output_bytes + self.temporary_bytes

  @property
  def seconds(self) -> float | None:
    """The longest of the three, as if they overlapped perfectly."""
    parts = (self.compute_s, self.memory_s, self.network_s)
    return None if None in parts else max(parts)


def measure(name: str, lower: Callable[[], jax.stages.Lowered],
            arguments: Mapping[str, Any], chip: Chip | None, *, tpu: bool,
            expected_flops: float = 0.0, steps: float = 1,
            trips: Mapping[str, float] | None = None,
            effort: float = 0.0) -> Measured:
  """Lowers and compiles a program, and measures what came out.

  Args:
    name: of the program.
    lower: -> the lowered program.
    arguments: what it reads, by kind.
    chip: rates; None if unknown.
    tpu: whether it is for a TPU, whose HLO is read from XLA's dump.
    expected_flops: counted from the config, for one device.
    steps: that FLOPs, bytes and collectives are divided by.
    trips: of loops whose count is decided when running, see `hlo.costs`.
    effort: of the TPU compiler's optimiser, -1 to 1; 0 is what runs get.

  Returns:
    What was measured; with `error` if the compiler refused for want of memory.
  """
  counted = {kind: memory.shard_bytes(tree) for kind, tree in arguments.items()}
  begin = time.perf_counter()
  lowered = lower()
  lower_s = time.perf_counter() - begin
  begin = time.perf_counter()
  with tempfile.TemporaryDirectory() as folder:
    options = {"xla_dump_to": folder, "xla_dump_hlo_as_text": True,
               "exec_time_optimization_effort": effort,
               "memory_fitting_effort": effort}
    try:
      compiled = lowered.compile(compiler_options=options if tpu else None)
    except jax.errors.JaxRuntimeError as error:
      if "RESOURCE_EXHAUSTED" not in str(error):
        raise
      message = str(error).splitlines()[0]
      return Measured(
          name=name, arguments=counted, error=message, lower_s=lower_s,
          compile_s=time.perf_counter() - begin,
          needed_bytes=_needed(message) + sum(counted.values()))
    compile_s = time.perf_counter() - begin
    # A text of libtpu's newer format cannot be made from the executable.
    text = _dumped(folder) if tpu else compiled.as_text()
  costs = hlo.costs(text, trips)
  stats = compiled.memory_analysis()
  moved = sum(size for _, size in costs.collectives.values())
  estimate = (compiled.cost_analysis() or {}).get("optimal_seconds", -1)
  return Measured(
      name=name, arguments=counted, lower_s=lower_s, compile_s=compile_s,
      argument_bytes=stats.argument_size_in_bytes,
      padded_bytes=memory.padded_arguments(text),
      output_bytes=stats.output_size_in_bytes - stats.alias_size_in_bytes,
      temporary_bytes=stats.temp_size_in_bytes,
      flops=costs.flops / steps, expected_flops=expected_flops,
      touched_bytes=costs.touched / steps,
      collectives={kind: (n / steps, size / steps)
                   for kind, (n, size) in costs.collectives.items()},
      compute_s=chip and costs.flops / steps / chip.flops,
      memory_s=chip and costs.touched / steps / chip.bandwidth,
      network_s=chip and moved / steps / chip.network,
      xla_s=estimate if estimate > 0 else None)


def _dumped(folder: str) -> str:
  """The largest optimised module of a dump: the others are constants."""
  files = pathlib.Path(folder).glob("*.after_optimizations.txt")
  return max(files, key=lambda file: file.stat().st_size).read_text()


def _needed(message: str) -> float:
  """Bytes of temporaries that an out-of-memory message of XLA names."""
  match = re.search(r"\(([\d.]+)([KMGT])\) exceeds", message)
  scale = dict(zip("KMGT", (2**10, 2**20, 2**30, 2**40)))
  return float(match[1]) * scale[match[2]] if match else 0.0
