"""Samples to read: rollouts/step_000123.jsonl.gz, one sample a line.

A row has "prompt_id", "prompt", "completion", "reward" (combined), "rewards"
(by name), "advantage" and whatever else the stage adds. What the evaluations
during training sample lies likewise in evaluations/, see `evals.runner`.

Of several processes each writes what it sampled, process 1 into
step_000123.process_1.jsonl.gz; readers take all of a step together.
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

  Non-finite numbers become null. The bytes depend on the rows alone.

  Args:
    workdir: folder of the run.
    step: whose rows they are.
    rows: of this process.
    process: its number.
    count: how many write the step. What more of them left, before a restart, is
      removed by the first.

  Raises:
    OSError: the disk is full or read-only.
  """
  text = "".join(
      json.dumps(_plain(row), ensure_ascii=False, allow_nan=False) + "\n"
      for row in rows)
  # Model output may hold lone surrogates; they must not stop a run.
  data = text.encode("utf-8", errors="backslashreplace")
  file = path(workdir, step)
  io.write_bytes(of_process(file, process), gzip.compress(data, mtime=0))
  if process == 0:
    remove_beyond(file, count)


def read(workdir: str | os.PathLike, step: int, kind: str = ROLLOUTS
         ) -> list[dict[str, Any]]:
  """Rows of one step, of all processes; evaluations in the problems' order.

  Raises:
    ValueError: there are none, or a file is truncated; names it.
  """
  file = path(workdir, step, kind)
  if not file.exists():
    raise ValueError(
        f"{file} does not exist; there are steps {steps(workdir, kind)}")
  return read_file(file)


def read_file(file: str | os.PathLike) -> list[dict[str, Any]]:
  """Rows of a file that one process or several wrote, in their order.

  Raises:
    ValueError: a part is truncated or damaged; names it.
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
  """Steps whose samples are on disk, ascending."""
  folder = epath.Path(workdir) / kind
  if not folder.exists():
    return []
  names = (_NAME.fullmatch(file.name) for file in folder.iterdir())
  return sorted(int(name[1]) for name in names if name)


def path(workdir: str | os.PathLike, step: int, kind: str = ROLLOUTS
         ) -> epath.Path:
  """The file of one step, that of the first process."""
  return epath.Path(workdir) / kind / f"step_{step:06d}.jsonl.gz"


def of_process(file: str | os.PathLike, process: int) -> epath.Path:
  """The file that a process writes where the first writes `file`."""
  file = epath.Path(file)
  stem, dot, ends = file.name.partition(".")
  between = f".process_{process}" if process else ""
  return file.with_name(f"{stem}{between}{dot}{ends}")


def remove_beyond(file: str | os.PathLike, count: int) -> None:
  """Removes what more than `count` processes once wrote beside `file`."""
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
