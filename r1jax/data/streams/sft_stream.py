"""Supervised examples that stay in their files, for data larger than memory.

  data = sft_stream.load(paths, tokenizer, template, capacity, workers=8)

Worker processes read the files once to find the position and length of each
example; about 30 bytes per example are held in memory. When a batch needs an
example, a worker reads and tokenizes it again. The batches are bit-identical to
those of `sft.Packed` with examples in memory.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io as bytes_io
import os
from collections.abc import Mapping, Sequence
from typing import Any

import grain
import numpy as np

from r1jax.core import io
from r1jax.core.config import DataError, check
from r1jax.core.prompt import ask
from r1jax.data.sources import json_rows, sft_rows
from r1jax.data.sources.sft_rows import Row
from r1jax.data.streams import sft
from r1jax.data.streams.sft import Data, Example
from r1jax.data.text import templates
from r1jax.data.text.tokenizer import Tokenizer
from r1jax.report.progress import Progress

_LINES = 256  # lines that a worker reads per task
_BLOCK = 2**20  # bytes read at once


@dataclasses.dataclass(frozen=True, eq=False)
class Reader:
  """Converts lines to examples; is pickled and sent to workers.

  Attributes:
    tokenizer: the model's.
    template: how messages become text.
    eos_id: ends an answer.
  """

  tokenizer: Tokenizer
  template: str
  eos_id: int

  def examples(self, where: str, line: bytes
               ) -> tuple[Row, list[Example]]:
    """A row and its examples, with the row's own weight.

    Raises:
      sft.Malformed: the row is malformed and may be left out.
      DataError: an answer is empty.
    """
    row = sft_rows.parsed(line)
    dialogues = sft.checked(where, row, self.template, self.tokenizer)
    return row, [sft.encode(spans, self.template, self.tokenizer, self.eos_id,
                            row.weight) for spans in dialogues]


@dataclasses.dataclass(frozen=True, eq=False)
class Lines:
  """The lines of a file, found by their offsets.

  Attributes:
    path: the file.
    starts_L: int64 [lines + 1], byte offset of each line, and the file's size.
  """

  path: str
  starts_L: np.ndarray

  @classmethod
  def of(cls, path: str | os.PathLike) -> Lines:
    """Reads a file's offsets.

    Raises:
      DataError: the file cannot be read, or is no text.
    """
    starts, at = [np.zeros(1, np.int64)], 0
    with json_rows.reading(path), io.opened(path) as file:
      while block := file.read(_BLOCK):
        if not at:
          json_rows.check_text(block[:8], path)
        ends = np.flatnonzero(np.frombuffer(block, np.uint8) == ord("\n"))
        starts.append(at + ends + 1)
        at += len(block)
    starts_L = np.concatenate(starts)
    if starts_L[-1] != at:  # no newline at the end of the file
      starts_L = np.append(starts_L, at)
    return cls(os.fspath(path), starts_L)

  def __len__(self) -> int:
    return len(self.starts_L) - 1

  def opening(self) -> bytes:
    """The first line that is not blank; or b""."""
    lines = (line for number in range(len(self))
             for line in self.read(number, number + 1))
    return next((x for x in lines if not json_rows.is_blank(x)), b"")

  def read(self, first: int, end: int) -> list[bytes]:
    """Lines first..end-1, with their newlines."""
    with io.opened(self.path) as file:
      file.seek(int(self.starts_L[first]))
      text = file.read(int(self.starts_L[end] - self.starts_L[first]))
    return list(bytes_io.BytesIO(text))


@dataclasses.dataclass(frozen=True, eq=False)
class Streamed(Sequence):
  """Examples in files, read and tokenized on access.

  Attributes:
    reader: makes examples of lines.
    files: the files.
    file_E, line_E, part_E: int32, each example's index in `files`, line, and
      index among the line's examples.
    lengths_E: int32, tokens of each example.
    weights_E: float32, factor of each example's loss by its source.
  """

  reader: Reader
  files: tuple[Lines, ...]
  file_E: np.ndarray
  line_E: np.ndarray
  part_E: np.ndarray
  lengths_E: np.ndarray
  weights_E: np.ndarray

  def __len__(self) -> int:
    return len(self.lengths_E)

  def __getitem__(self, i: int) -> Example:
    lines, number = self.files[self.file_E[i]], int(self.line_E[i])
    (line,) = lines.read(number, number + 1)
    where = f"{lines.path}:{number + 1}"
    _, examples = self.reader.examples(where, line)
    example = examples[self.part_E[i]]
    check(len(example.tokens) == self.lengths_E[i], f"{where} has changed since"
          " the run read it first; start the command again")
    return example._replace(weight=float(self.weights_E[i]) * example.weight)


@dataclasses.dataclass(frozen=True, eq=False)
class _Scan:
  """A worker's task: scans some lines of a file for their examples' sizes."""

  reader: Reader
  files: tuple[Lines, ...]
  tasks: tuple[tuple[int, int], ...]  # (file, first line)

  def __call__(self, task: int) -> dict[str, Any]:
    which, first = self.tasks[task]
    lines, rows = self.files[which], []
    scan: dict[str, Any] = {"rows": 0, "malformed": []}
    sources: dict[str, tuple[int, str]] = {}  # (index, first FILE:LINE)
    unread: set[str] = set()
    end = min(first + _LINES, len(lines))
    for number, line in enumerate(lines.read(first, end), first):
      if json_rows.is_blank(line):
        continue
      scan["rows"] += 1
      where = f"{lines.path}:{number + 1}"
      try:
        row, examples = self.reader.examples(where, line)
      except sft.Malformed as error:
        scan["malformed"].append(str(error))
        continue
      except DataError as error:
        return {"error": str(error)}
      at, _ = sources.setdefault(row.source, (len(sources), where))
      unread |= row.unread
      rows += [(which, number, part, len(e.tokens), int(e.trained.sum()), at)
               for part, e in enumerate(examples)]
    # A list, because grain sorts dicts that it sends between processes.
    return scan | {
        "sources": [(name, where) for name, (_, where) in sources.items()],
        "unread": sorted(unread),
        "examples": np.array(rows, np.int64).reshape(-1, 6)}


def load(paths: Sequence[str | os.PathLike], tokenizer: Tokenizer,
         template: str, capacity: int,
         weights: Mapping[str, float] | None = None, *, workers: int = 0,
         quiet: bool = False) -> Data:
  """`sft.load` that leaves examples in their files; same examples and order.

  Args:
    paths, tokenizer, template, capacity, weights: as for `sft.load`.
    workers: number of processes that read and tokenize; 0 for none. They need
      absl's flags to be parsed, as in every experiment.
    quiet: shows no progress.

  Raises:
    ValueError, DataError: as `sft.load`; or a file is one JSON value, not JSON
      Lines.
  """
  # An unknown template is an error, not the fault of every row.
  templates.prompt(ask(""), template, tokenizer)
  reader = Reader(tokenizer, template, sft.end_of_answer(template, tokenizer))
  files = tuple(Lines.of(path) for path in paths)
  for lines in files:
    opening = lines.opening()
    sft_rows.check_any(lines.path, len(opening))
    check(not json_rows.is_whole(opening), f"{lines.path} is one JSON value;"
          " with --workers give JSON Lines, one row per line (jq -c '.[]' FILE"
          " writes them), or omit --workers", DataError)
  tasks = tuple((which, first) for which, lines in enumerate(files)
                for first in range(0, len(lines), _LINES))
  total, too_long, trained = 0, 0, 0
  malformed: list[str] = []
  parts, sources, unread = [np.zeros((0, 4), np.int32)], set(), set()
  factors = [np.zeros(0, np.float32)]
  scans = grain.MapDataset.range(len(tasks)).map(_Scan(reader, files, tasks))
  with Progress("reading", len(tasks), unit=f"x {_LINES} rows",
                quiet=quiet) as progress, contextlib.closing(
                    sft.ahead(scans, workers)) as pieces:
    for scan in pieces:
      check("error" not in scan, scan.get("error", ""), DataError)
      total += scan["rows"]
      malformed += scan["malformed"]
      sources |= {source for source, _ in scan["sources"]}
      unread |= set(scan["unread"])
      factor = np.array([
          sft.weight_of(where, source, weights)
          for source, where in scan["sources"]] or [1.0])
      rows = scan["examples"]
      fits = rows[:, 3] - 1 <= capacity
      too_long += int((~fits).sum())
      trained += int(rows[fits, 4].sum())
      # int32, because this is most of the memory that is held.
      parts.append(rows[fits, :4].astype(np.int32))
      factors.append(factor[rows[fits, 5]].astype(np.float32))
      progress.step({})
  sft.check_rows(paths, malformed, total, sum(map(len, parts)), capacity)
  table = np.concatenate(parts)
  examples = Streamed(reader, files, *table.T, np.concatenate(factors))
  return Data(examples, too_long, malformed, frozenset(sources - {""}),
              trained, frozenset(unread))
