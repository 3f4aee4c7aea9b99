"""Processes a list in batches and stores each batch when it is complete.

Stored batches are not repeated, so that a killed run resumes with the batch
that was in progress. Every batch is a file of its own, written whole or not at
all.
"""

from __future__ import annotations

import gzip
import json
import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

from etils import epath

from r1jax.accounting import cost
from r1jax.core import io
from r1jax.report.progress import Progress
from r1jax.sharding import processes
from r1jax.stages.loop.signals import Preemption

T = TypeVar("T")
Rows = list[dict[str, Any]]


def store(folder: str | os.PathLike, items: Sequence[T], size: int,
          work: Callable[[Sequence[T]], Rows], *, title: str, unit: str
          ) -> bool:
  """Applies `work` to every batch that is not in `folder` yet.

  Args:
    work: function from the items of a batch to its rows, JSON-ready.
    folder, items, size, title, unit: see `store_all`.

  Returns, raises: as `store_all`.
  """
  return store_all(folder, items, size, lambda batches: map(work, batches),
                   title=title, unit=unit)


def store_all(folder: str | os.PathLike, items: Sequence[T], size: int,
              work: Callable[[Sequence[Sequence[T]]], Iterator[Rows | None]], *,
              title: str, unit: str) -> bool:
  """Stores the results of `work` for the batches that are not in `folder` yet.

  Args:
    folder: gets a gzipped JSONL file for each batch; its parent folder gets the
      record of the cost.
    items: the same list in the same order at every call and in every process.
    size: items of a batch; the last may have fewer.
    work: takes the missing batches; yields the rows of each in order,
      JSON-ready, and None, any number of times, while the next batch is not
      complete. Under several processes each yields its own rows, and the file
      gets those of all.
    title: title of the progress bar.
    unit: name of the items, in the plural.

  Returns:
    Whether all batches are complete; False after SIGINT or SIGTERM.

  Raises:
    OSError: the disk is full or read-only; stored batches stay.
  """
  starts = range(0, len(items), size)
  done = set(processes.from_writer(lambda: [
      at for at in range(len(starts)) if _path(folder, at).exists()]))
  left = [at for at in range(len(starts)) if at not in done]
  before = sum(len(items[starts[at]:][:size]) for at in done)

  def lost() -> str:
    return f"the current batch is lost, {folder} keeps those before it"

  record = cost.Record(epath.Path(folder).parent)
  with Preemption(lost) as preemption, Progress(
      title, len(items), start=before, unit=unit,
      quiet=not processes.is_writer()) as progress:
    if done:
      progress.say(f"{folder} has {before} of {len(items)} {unit} already")
    batches = [items[starts[at]:starts[at] + size] for at in left]
    found = work(batches)
    for at, batch in zip(left, batches, strict=True):
      rows = None
      while rows is None:
        if preemption.requested():
          progress.say(f"{preemption.name}: stopped; {folder} has the complete"
                       " batches, the same command resumes")
          return False
        with cost.phase(title):
          rows = next(found)
      rows = sum(processes.gather(rows), [])
      processes.from_writer(lambda at=at, rows=rows: _write(folder, at, rows))
      record.write()
      progress.step({}, len(batch))
  return True


def read(folder: str | os.PathLike, count: int, size: int
         ) -> Iterator[dict[str, Any]]:
  """The rows of all batches in order, one batch in memory at a time.

  Args:
    folder: as given to `store`.
    count: number of items.
    size: items of a batch.

  Raises:
    ValueError: a file is missing or damaged; names it.
  """
  for at in range(-(-count // size)):
    path = _path(folder, at)
    try:
      text = gzip.decompress(path.read_bytes()).decode()
      rows = [json.loads(line) for line in text.split("\n") if line]
    except (OSError, EOFError, ValueError) as error:
      raise ValueError(f"{path} is missing or damaged ({error}); remove it, and"
                       " the same command makes it again") from error
    yield from rows


def _path(folder, at) -> epath.Path:
  return epath.Path(folder) / f"batch_{at:06d}.jsonl.gz"


def _write(folder, at, rows: Rows) -> None:
  text = "".join(json.dumps(row) + "\n" for row in rows)
  io.write_bytes(_path(folder, at), gzip.compress(text.encode(), mtime=0))
