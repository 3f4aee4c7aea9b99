"""Reads the text of a compiled program (HLO) as instructions."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Iterator

# Bytes of one element, by HLO type name.
BYTES = {"pred": 1, "s4": 0.5, "u4": 0.5, "s8": 1, "u8": 1, "s16": 2, "u16": 2,
          "bf16": 2, "f16": 2, "s32": 4, "u32": 4, "f32": 4, "s64": 8, "u64": 8,
          "f64": 8, "c64": 8, "c128": 16}
_SHAPE = re.compile(r"\b([a-z]+\d*\w*)\[([\d,]*)\](\{[^{}]*\})?")
# A layout's memory space other than main memory; S(1) is a TPU's vector memory.
_SPACE = re.compile(r"S\([1-9]\)")
_HEAD = re.compile(r"(ENTRY )?%([\w.\-]+) \(.*\{\s*$")
_NAMED = re.compile(r"\s*(?:ROOT )?%([\w.\-]+) = (.*)")


@dataclasses.dataclass(frozen=True)
class Instruction:
  """One instruction of HLO text.

  Attributes:
    name: without the percent sign.
    shapes: (dtype, dims) of each result.
    in_memory: of each result, whether it is in the chip's main memory.
    opcode: such as "dot".
    operands: names; of constants and parameters their literal text.
    rest: the text after the operands: attributes and metadata.
  """

  name: str
  shapes: tuple[tuple[str, tuple[int, ...]], ...]
  in_memory: tuple[bool, ...]
  opcode: str
  operands: tuple[str, ...]
  rest: str

  @property
  def bytes(self) -> float:
    """Bytes of the results, without padding."""
    return sum(_sizes(self))

  @property
  def stored(self) -> float:
    """Bytes of the results that are in the chip's main memory."""
    return sum(size for size, stored in zip(
        _sizes(self), self.in_memory, strict=True) if stored)


def _sizes(instruction: Instruction) -> list[float]:
  return [BYTES.get(dtype, 0) * math.prod(dims)
          for dtype, dims in instruction.shapes]


def parse(text: str) -> tuple[dict[str, list[Instruction]], str | None]:
  """Instructions by computation, and the name of the entry computation."""
  program: dict[str, list[Instruction]] = {}
  entry, current = None, None
  for line in _whole_lines(text):
    if current is None:
      if match := _HEAD.match(line):
        current = program.setdefault(match[2], [])
        entry = match[2] if match[1] else entry
    elif line.startswith("}"):
      current = None
    elif match := _NAMED.match(line):
      current.append(_instruction(match[1], match[2]))
  return program, entry


def _whole_lines(text: str) -> Iterator[str]:
  """Lines; those of a kernel's metadata are joined to their instruction."""
  held = ""
  for line in text.splitlines():
    held = f"{held} {line}" if held else line
    if _HEAD.match(held) or held.count("{") <= held.count("}"):
      yield held
      held = ""
  if held:
    yield held


def _instruction(name: str, rest: str) -> Instruction:
  end = _closing(rest) + 1 if rest.startswith("(") else rest.index(" ")
  types, rest = rest[:end], rest[end:].strip()
  opcode, _, rest = rest.partition("(")
  inside = rest[:_closing("(" + rest) - 1]
  operands = tuple(re.findall(r"%([\w.\-]+)", inside))
  matches = _SHAPE.findall(types)
  shapes = tuple((dtype, tuple(int(d) for d in dims.split(",") if d))
                 for dtype, dims, _ in matches)
  in_memory = tuple(not _SPACE.search(layout) for *_, layout in matches)
  if opcode in ("constant", "parameter"):
    operands = (inside,)
  return Instruction(
      name, shapes, in_memory, opcode, operands, rest[len(inside):])


def _closing(text: str) -> int:
  """Index of the parenthesis that closes the first one."""
  depth = 0
  for index, char in enumerate(text):
    depth += (char == "(") - (char == ")")
    if not depth:
      return index
  return len(text) - 1
