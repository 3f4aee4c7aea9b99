"""What a compiled program does, read from its HLO text.

FLOPs of matrix products, bytes to and from memory, bytes between devices.

XLA's own cost analysis counts the body of a loop once; here it counts times its
trip count, where the text states that. For loops whose trip count is known only
at run time (rounds of an exchange, a decode loop) the caller gives it; without
that they count once.
"""

from __future__ import annotations

import collections
import dataclasses
import math
import re
from collections.abc import Iterator, Mapping

from r1jax.accounting import kernels
from r1jax.accounting.hlo_text import Instruction, parse
from r1jax.ops import cached

COLLECTIVES = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all",
               "ragged-all-to-all", "collective-permute")

# The most bytes of an array that counts as held by a processor's own caches.
NEAR = 2**21


@dataclasses.dataclass(frozen=True, kw_only=True)
class Costs:
  """Costs of one device for one run of the program.

  Attributes:
    flops: of matrix products; a multiply-add is two.
    touched: bytes that instructions read and write in the chip's main memory;
      of a sliced operand only the slice. Where a CPU reads a cache row by row
      (`ops/cached.py`), arrays of up to `NEAR` bytes in the loop over a row's
      blocks are not in main memory, except those it takes the blocks from.
    collectives: kind to (number executed, bytes that a device sends or
      receives).
    dynamic: names of the loops whose trip count was unknown.
  """

  flops: float
  touched: float
  collectives: dict[str, tuple[int, float]]
  dynamic: tuple[str, ...]


def costs(text: str, trips: Mapping[str, float] | None = None) -> Costs:
  """Costs of a program from its HLO text.

  Args:
    text: optimised HLO, `compiled.as_text()` or a dump of it.
    trips: trip counts that are known only at run time, by a substring of the
      loop's `op_name` (a `jax.named_scope`), of which scopes around an outer
      loop are left out.

  Raises:
    ValueError: `text` has no entry computation.
  """
  program, entry = parse(text)
  if entry is None:
    raise ValueError("the HLO text has no ENTRY computation")
  flops, touched, dynamic = 0.0, 0.0, []
  collectives: dict[str, list[float]] = collections.defaultdict(
      lambda: [0, 0.0])
  for computation, times, fused, near in _executed(
      program, entry, trips or {}, dynamic):
    table = {i.name: i for i in program[computation]}
    if near and not fused:
      table = _near(table, program)
    for instruction in table.values():
      if instruction.opcode == "custom-call" and kernels.is_paged(
          instruction.name + instruction.rest):
        blocks = _given(instruction, trips or {}, dynamic)
        work, read = _paged(instruction, table, blocks)
        flops, touched = flops + times * work, touched + times * read
        continue
      flops += times * _flops(instruction, table)
      if not fused:
        touched += times * _touched(instruction, table, program)
      kind = instruction.opcode.removesuffix("-start")
      # An asynchronous collective appears once where it starts and again in
      # every fusion that it overlaps with.
      if kind in COLLECTIVES and not computation.startswith(
          "async_collective_fusion"):
        # A TPU's form of a reduce-scatter: all-reduce and slice in one kernel.
        if kind == "all-reduce" and "all-reduce-scatter" in computation:
          kind = "reduce-scatter"
        collectives[kind][0] += times
        collectives[kind][1] += times * _moved(kind, instruction, table)
  return Costs(
      flops=flops, touched=touched, dynamic=tuple(sorted(set(dynamic))),
      collectives={k: (round(n), b)
                   for k, (n, b) in sorted(collectives.items())})


def _executed(program, entry, trips, dynamic
              ) -> Iterator[tuple[str, float, bool, bool]]:
  """(computation, how often it runs, whether it is inside a fusion, or inside a
  loop over near blocks).

  One item for every place from which a computation is called.
  """
  stack = [(entry, 1.0, False, False)]
  while stack:
    name, times, fused, near = stack.pop()
    yield name, times, fused, near
    for instruction in program[name]:
      called, close = _called(instruction), near
      if instruction.opcode == "while":
        count = _trips(program, name, instruction)
        if count is None:
          count = _given(instruction, trips, dynamic)
        times_inside = times * count
        close = cached.NEAR_BLOCKS in _own_scope(instruction)
      else:
        times_inside = times
      inside = fused or instruction.opcode == "fusion"
      stack += [(c, times_inside, inside, close)
                for c in called if c in program]


def _near(table, program) -> dict[str, Instruction]:
  """The instructions of a loop over near blocks, see `Costs.touched`."""
  def sliced(name, by):
    if by.opcode != "fusion":
      return by.opcode == "dynamic-slice" and by.operands[0] == name
    inner, whole = program[_called(by)[0]], table[name].bytes
    return any(i.opcode == "parameter" and by.operands[int(i.operands[0])] == (
        name) and _read(i.name, inner, whole, program) < whole for i in inner)

  def stays(name, made):
    return made.bytes > NEAR or made.opcode == "get-tuple-element" and any(
        sliced(name, by) for by in table.values() if name in by.operands)

  return {name: made if stays(name, made) else dataclasses.replace(
      made, in_memory=(False,) * len(made.in_memory))
      for name, made in table.items()}


def _given(loop: Instruction, trips, dynamic) -> float:
  """Trip count that the caller gave; without one 1, and `dynamic` names it."""
  own = _own_scope(loop)
  for part, count in trips.items():
    if part in own:
      return count
  dynamic.append(_op_name(loop) or loop.name)
  return 1


def _called(instruction: Instruction) -> list[str]:
  """Computations that an instruction calls, without reducers and comparators.
  """
  if instruction.opcode in ("fusion", "call", "while", "conditional",
                            "async-start", "custom-call"):
    computations = re.findall(
        r"(?:calls|to_apply|body|condition|true_computation"
        r"|false_computation)=%?([\w.\-]+)", instruction.rest)
    for names in re.findall(
        r"(?:branch_computations|called_computations)=\{([^}]*)\}",
        instruction.rest):
      computations += [n.strip().lstrip("%") for n in names.split(",")]
    return computations
  return []


def _own_scope(loop: Instruction) -> str:
  """The loop's `op_name` without the scopes of outer loops."""
  return _op_name(loop).rpartition("/body/")[2]


def _op_name(instruction: Instruction) -> str:
  match = re.search(r'op_name="([^"]*)"', instruction.rest)
  return match[1] if match else ""


def _trips(program, computation, loop: Instruction) -> int | None:
  """Trip count: as the compiler noted it, or b - a of `for i in range(a, b)`.
  """
  if match := re.search(
      r'known_trip_count":?\{"?n"?:"?(\d+)', loop.rest):
    return int(match[1])
  condition = re.search(r"condition=%?([\w.\-]+)", loop.rest)[1]
  bound = _bound(program, condition)
  if bound is None:
    return None
  index, limit = bound
  table = {i.name: i for i in program[computation]}
  start = _constant(table, table.get(loop.operands[0]), index)
  return max(0, limit - (start or 0))


def _bound(program, condition) -> tuple[int, int] | None:
  """(index of i in the loop's tuple, b) of a condition `i < b`, b constant."""
  table = {i.name: i for i in program[condition]}
  compare = next((i for i in table.values() if i.opcode == "compare"), None)
  if compare is None:  # it may be wrapped in a fusion
    fusion = next((i for i in table.values() if i.opcode == "fusion"), None)
    if fusion is None:
      return None
    inner = {i.name: i for i in program[_called(fusion)[0]]}
    compare = next((i for i in inner.values() if i.opcode == "compare"), None)
    if compare is None:
      return None
    operands = [table.get(fusion.operands[int(inner[o].operands[0])])
                if o in inner and inner[o].opcode == "parameter"
                else inner.get(o) for o in compare.operands]
  else:
    operands = [table.get(o) for o in compare.operands]
  if "direction=LT" not in compare.rest or None in operands:
    return None
  counter, limit = operands
  if limit.opcode != "constant" or counter.opcode != "get-tuple-element":
    return None
  index = re.search(r"index=(\d+)", counter.rest)
  return int(index[1]), int(limit.operands[0])


def _constant(table, tuple_, index) -> int | None:
  """The value of a tuple's element if it is a constant, else None."""
  if tuple_ is None or tuple_.opcode != "tuple":
    return None
  element = table.get(tuple_.operands[index])
  while element is not None and element.opcode in ("copy", "bitcast"):
    element = table.get(element.operands[0])
  if element is None or element.opcode != "constant":
    return None
  return int(element.operands[0])


def _flops(instruction: Instruction, table) -> float:
  """FLOPs of a matrix product, or of a kernel that states its cost."""
  if instruction.opcode == "dot":
    lhs = table[instruction.operands[0]].shapes[0][1]
    dims = re.search(r"lhs_contracting_dims=\{([\d,]*)\}", instruction.rest)
    inner = [lhs[int(d)] for d in dims[1].split(",") if d] if dims else []
    return 2.0 * math.prod(instruction.shapes[0][1]) * math.prod(inner)
  if instruction.opcode == "convolution":
    return _convolution(instruction, table)
  if instruction.opcode == "custom-call":
    return _kernel(instruction, table)
  return 0.0


def _paged(instruction: Instruction, table, blocks: float
           ) -> tuple[float, float]:
  """(FLOPs, bytes) of attention to a cache of which rows have so many blocks.
  """
  indices, queries, cache = (
      table[instruction.operands[i]] for i in (1, -2, -1))
  flops, slots = kernels.paged_attention(
      *(x.shapes[0][1] for x in (indices, queries, cache)), blocks)
  slot = cache.bytes / math.prod(cache.shapes[0][1][:2])
  return flops, slots * slot + queries.stored + instruction.stored


def _kernel(instruction: Instruction, table) -> float:
  """FLOPs of a custom call: its own cost estimate, or a cuBLAS product's."""
  splash = kernels.splash(
      instruction.name + instruction.rest,
      [table[o].shapes[0] for o in instruction.operands if o in table])
  if splash is not None:
    return splash
  cost = re.search(r'"cost_estimate":\{[^}]*"flops":"(\d+)"', instruction.rest)
  if cost:
    return float(cost[1])
  dims = re.search(r'"lhs_contracting_dimensions":\[([^\]]*)\]',
                   instruction.rest)
  if not dims:
    return 0.0
  lhs = table[instruction.operands[0]].shapes[0][1]
  inner = [lhs[int(d)] for d in re.findall(r"\d+", dims[1])]
  return 2.0 * math.prod(instruction.shapes[0][1]) * math.prod(inner)


def _convolution(instruction: Instruction, table) -> float:
  """2 x outputs x inputs per output; on TPU, matrix products look like this.

  Batch dimensions become spatial dimensions, padded and dilated so that only
  one position of the window lies inside; the others do not count.
  """
  lhs, rhs = (table[name].shapes[0][1] for name in instruction.operands[:2])
  out = instruction.shapes[0][1]
  labels = re.search(r"dim_labels=(\w+)_(\w+)->(\w+)", instruction.rest)
  in_l, kernel_l, out_l = labels.groups()
  total = 2.0 * rhs[kernel_l.index("i")] * out[out_l.index("b")] * out[
      out_l.index("f")]
  window = {key: values for key, values in re.findall(
      r"(size|stride|pad|lhs_dilate|rhs_dilate)=([\d_x\-]+)", instruction.rest)}
  for number, axis in enumerate(c for c in kernel_l if c.isdigit()):
    def of(key, default, at=number):
      return window[key].split("x")[at] if key in window else default
    low = int(str(of("pad", "0_0")).split("_")[0])
    stride, dilate = int(of("stride", 1)), int(of("lhs_dilate", 1))
    spread = int(of("rhs_dilate", 1))
    size, width = lhs[in_l.index(axis)], rhs[kernel_l.index(axis)]
    total *= sum(
        1 for o in range(out[out_l.index(axis)]) for k in range(width)
        if (at := o * stride + k * spread - low) % dilate == 0
        and 0 <= at // dilate < size)
  return total


# These move no bytes themselves; calls are counted by what they call.
_FREE = frozenset((
    "parameter", "constant", "tuple", "get-tuple-element", "bitcast", "while",
    "call", "conditional", "after-all", "async-start", "async-update",
    "async-done", "partition-id", "replica-id"))


# Instructions that overwrite a part of their first operand, and the index of
# the operand that holds the new part (a scatter's operand 1 are the indices).
_UPDATES = {"dynamic-update-slice": 1, "scatter": 2}


def _touched(instruction: Instruction, table, program) -> float:
  """Bytes that one instruction reads and writes in main memory."""
  opcode = instruction.opcode
  if opcode in _FREE or opcode.endswith("-done") or (
      '"AllocateBuffer"' in instruction.rest):
    return 0.0
  if opcode == "fusion":
    inner = program[_called(instruction)[0]]
    parameters = {i.name: int(i.operands[0]) for i in inner
                  if i.opcode == "parameter"}
    read = sum(
        _read(name, inner, table[instruction.operands[number]].stored, program)
        for name, number in parameters.items()
        if number < len(instruction.operands)
        and instruction.operands[number] in table)
    return read + _written(instruction, inner)
  operands = [table[o] for o in instruction.operands if o in table]
  if opcode in ("dynamic-slice", "slice", "gather"):
    whole = sum(o.stored for o in operands[:1])
    return min(instruction.bytes, whole) + instruction.stored
  if opcode in _UPDATES:
    at = _UPDATES[opcode]
    return sum(update.stored + min(update.bytes, instruction.stored)
               for update in operands[at:at + 1])
  if opcode == "copy-start":  # its result tuple repeats the source
    return instruction.stored
  return instruction.stored + sum(o.stored for o in operands)


def _read(name, inner, whole, program) -> float:
  """Bytes that a fusion reads of its parameter `name`, which has `whole`."""
  if name == inner[-1].name:  # the fusion's result is the parameter itself
    return whole
  users = [i for i in inner if name in i.operands]
  total = 0.0
  for user in users:
    if user.opcode == "bitcast":
      total += _read(user.name, inner, whole, program)
    elif user.opcode in ("dynamic-slice", "slice", "gather"):
      total += user.bytes
    elif user.opcode in _UPDATES and user.operands[0] == name:
      total += 0.0  # written in place
    elif user.opcode == "fusion":  # on TPU, a product fused with a slice
      inside = program[_called(user)[0]]
      total += sum(_read(i.name, inside, whole, program) for i in inside
                   if i.opcode == "parameter"
                   and user.operands[int(i.operands[0])] == name)
    else:
      return whole
  return min(total, whole)


def _written(fusion, inner) -> float:
  """Bytes that a fusion writes; of an in-place update only the update."""
  table = {i.name: i for i in inner}
  root = inner[-1]
  parts = [root] if root.opcode != "tuple" else [
      table[o] for o in root.operands if o in table]
  total = 0.0
  for part in parts:
    while part.opcode == "bitcast" and part.operands[0] in table:
      part = table[part.operands[0]]
    at = _UPDATES.get(part.opcode)
    if at is not None and part.operands[at] in table:
      part = table[part.operands[at]]
    total += part.bytes
  return min(total, fusion.stored) if total else fusion.stored


def _moved(kind: str, instruction: Instruction, table) -> float:
  """Bytes that one device sends (or receives, if more) in a collective."""
  n = _group(instruction.rest)
  share = (n - 1) / n if n else 1.0
  inputs = sum(table[o].bytes for o in instruction.operands if o in table)
  if kind == "all-gather":
    # An asynchronous one returns its operand too.
    result = instruction.bytes
    return share * (result - inputs if "start" in instruction.opcode
                    else result)
  if kind == "all-reduce":
    return 2 * share * inputs
  if kind == "ragged-all-to-all":  # rows, the buffer, then four offsets
    return share * min(table[o].bytes for o in instruction.operands[:2])
  if kind == "collective-permute":
    return inputs
  return share * inputs


def _group(rest: str) -> int | None:
  """Number of devices in one group of a collective; None if not stated."""
  if match := re.search(r"replica_groups=\[(\d+),(\d+)\]<=", rest):
    return int(match[2])
  if match := re.search(r"replica_groups=\{\{([\d,]*)\}", rest):
    return len(match[1].split(","))
  if match := re.search(r"replica_groups=mesh\[([^\]]*)\] \{([^}]*)\}", rest):
    sizes = dict(re.findall(r"'(\w+)'=(\d+)", match[1]))
    return math.prod(
        int(sizes[name]) for name in re.findall(r"'(\w+)'", match[2]))
  return None
