"""Samples on disk: rollouts/step_000123.jsonl.gz, one sample per line.

A row has "prompt_id", "prompt", "completion", "reward" (combined), "rewards"
(by name), "advantage" and what else the stage adds. The samples of evaluations
during training are stored in evaluations/ in the same way, see `evals.runner`.

Every process of a run writes the samples that it drew, process 1 to
step_000123.process_1.jsonl.gz. Readers merge the files of a step.
"""

from __future__ import annotations

import gzip
import itertools
import json
import math
import os
import re
from collections.abc import Iterable, Mapping
from typing import Any

from etils import epath

from r1jax.core import io

ROLLOUTS, EVALUATIONS = "rollouts", "evaluations"

_NAME = re.compile(r"step_(\d+)\.jsonl\.gz")


def write(
    workdir: str | os.PathLike, step: int, rows: Iterable[Mapping[str, Any]],
    *, process: int = 0, count: int = 1) -> None:
  """Writes a process's rows of one step, whole or not at all.

  Non-finite numbers become null. Equal rows give equal bytes.

  Args:
    workdir: folder of the run.
    step: of the rows.
    rows: of this process.
    process: its index.
    count: number of processes. Process 0 removes files of this step that a run
      with more processes left before a restart.

  Raises:
    OSError: the disk is full or read-only.
  """
  text = "".join(
      json.dumps(_plain(row), ensure_ascii=False, allow_nan=False) + "\n"
      for row in rows)
  # Model output may hold lone surrogates, which must not stop a run.
  data = text.encode("utf-8", errors="backslashreplace")
  file = path(workdir, step)
  io.write_bytes(of_process(file, process), gzip.compress(data, mtime=0))
  if process == 0:
    remove_beyond(file, count)


def read(workdir: str | os.PathLike, step: int, kind: str = ROLLOUTS
         ) -> list[dict[str, Any]]:
  """Rows of one step, of all processes; evaluations in the problems' order.

  Raises:
    ValueError: there are no rows of that step, or a file is truncated or
      damaged; the message names it.
  """
  file = path(workdir, step, kind)
  if not file.exists():
    raise ValueError(
        f"{file} does not exist; there are steps {steps(workdir, kind)}")
  return read_file(file)


def read_file(file: str | os.PathLike) -> list[dict[str, Any]]:
  """Rows of `file` and of its siblings from other processes, by "number".

  Raises:
    ValueError: a file is truncated or damaged; the message names it.
  """
  rows: list[dict[str, Any]] = []
  for process in itertools.count():
    part = of_process(file, process)
    if not part.exists():
      return sorted(rows, key=lambda row: row.get("number", 0))
    try:
      text = gzip.decompress(part.read_bytes()).decode()
      rows += [json.loads(line) for line in text.split("\n") if line]
    except (OSError, EOFError, ValueError) as error:
      raise ValueError(f"{part} is truncated or damaged: {error}") from error


def steps(workdir: str | os.PathLike, kind: str = ROLLOUTS) -> list[int]:
  """Steps whose samples are on disk, in ascending order."""
  folder = epath.Path(workdir) / kind
  if not folder.exists():
    return []
  names = (_NAME.fullmatch(file.name) for file in folder.iterdir())
  return sorted(int(name[1]) for name in names if name)


def path(workdir: str | os.PathLike, step: int, kind: str = ROLLOUTS
         ) -> epath.Path:
  """The file of process 0 for one step."""
  return epath.Path(workdir) / kind / f"step_{step:06d}.jsonl.gz"


def of_process(file: str | os.PathLike, process: int) -> epath.Path:
  """The file that a process writes where process 0 writes `file`."""
  file = epath.Path(file)
  stem, dot, ends = file.name.partition(".")
  between = f".process_{process}" if process else ""
  return file.with_name(f"{stem}{between}{dot}{ends}")


def remove_beyond(file: str | os.PathLike, count: int) -> None:
  """Removes the files of processes `count` and above beside `file`."""
  for process in itertools.count(count):
    left = of_process(file, process)
    if not left.exists():
      return
    left.unlink()


def _plain(value: Any) -> Any:
  if isinstance(value, Mapping):
    return {str(k): _plain(v) for k, v in value.items()}
  if isinstance(value, (list, tuple)):
    return [_plain(v) for v in value]
  if isinstance(value, (str, int)) or value is None:
    return value
  return float(value) if math.isfinite(value) else None
