"""Memory, FLOPs and estimated time of a program compiled ahead of time."""

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
  """What a compiled program needs; bytes and FLOPs are those of one device.

  Attributes:
    name: the program's name.
    arguments: bytes of the arguments by kind, counted from shapes and
      shardings.
    argument_bytes: bytes of all arguments, as the compiler reports them.
    padded_bytes: bytes of all arguments in the layouts that the compiler chose.
    output_bytes: bytes of results that do not reuse an argument's buffer.
    temporary_bytes: everything else that the program holds at its peak.
    flops: FLOPs of matrix products, read from the compiled program.
    expected_flops: FLOPs of matrix products, counted from the config.
    touched_bytes: bytes read and written in main memory.
    collectives: kind of collective to (count, bytes sent or received).
    compute_s, memory_s, network_s: seconds that FLOPs, touched bytes and
      collectives take at the chip's peak rates; None if the chip is unknown.
    xla_s: XLA's own estimate in seconds, which counts a loop's body once; None
      where XLA gives none.
    lower_s, compile_s: seconds spent lowering and compiling.
    error: the compiler's message if the program does not fit; the fields below
      `arguments` are then 0 or None.
    needed_bytes: arguments and the temporaries that the message names.

  Where the program is a loop of decode steps, FLOPs, touched bytes, collectives
  and the seconds from them are per step.
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
    """Bytes on the chip while the program runs, other programs' excluded."""
    if self.error:
      return self.needed_bytes
    return self.argument_bytes + self.output_bytes + self.temporary_bytes

  @property
  def seconds(self) -> float | None:
    """The longest of compute, memory and network time: perfect overlap."""
    parts = (self.compute_s, self.memory_s, self.network_s)
    return None if None in parts else max(parts)


def measure(name: str, lower: Callable[[], jax.stages.Lowered],
            arguments: Mapping[str, Any], chip: Chip | None, *, tpu: bool,
            expected_flops: float = 0.0, steps: float = 1,
            trips: Mapping[str, float] | None = None,
            effort: float = 0.0) -> Measured:
  """Lowers and compiles a program, and measures what came out.

  Args:
    name: the program's name.
    lower: returns the lowered program.
    arguments: trees of the program's arguments, by kind.
    chip: the chip's rates; None if unknown.
    tpu: whether it is compiled for a TPU, whose HLO is read from XLA's dump.
    expected_flops: FLOPs of one device, counted from the config.
    steps: number of steps in the program; FLOPs, bytes and collectives are
      divided by it.
    trips: trip counts of loops that the HLO does not state, see `hlo.costs`.
    effort: optimisation effort of the TPU compiler, -1 to 1; 0 is the default
      of real runs.

  Returns:
    The measurements; with `error` set if the program does not fit into memory.

  Raises:
    jax.errors.JaxRuntimeError: compiling failed for another reason.
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
    # `compiled.as_text()` cannot print the format of newer libtpu versions.
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
  """HLO of the largest optimised module of a dump; the others are constants."""
  files = pathlib.Path(folder).glob("*.after_optimizations.txt")
  return max(files, key=lambda file: file.stat().st_size).read_text()


def _needed(message: str) -> float:
  """Bytes of temporaries that XLA's out-of-memory message states."""
  match = re.search(r"\(([\d.]+)([KMGT])\) exceeds", message)
  scale = dict(zip("KMGT", (2**10, 2**20, 2**30, 2**40)))
  return float(match[1]) * scale[match[2]] if match else 0.0
