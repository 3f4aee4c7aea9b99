"""Samples to read: rollouts/step_000123.jsonl.gz, one sample a line.

A row has "prompt_id", "prompt", "completion", "reward" (combined), "rewards"
(by name), "advantage" and whatever else the stage adds. What the evaluations
during training sample lies likewise in evaluations/, see `evals.runner`.
"""

from __future__ import annotations

import gzip
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
    workdir: str | os.PathLike, step: int,
    rows: Iterable[Mapping[str, Any]]) -> None:
  """Writes the rows of one step, whole or not at all.

  Non-finite numbers become null. The bytes depend on the rows alone.

  Raises:
    OSError: the disk is full or read-only.
  """
  text = "".join(
      json.dumps(_plain(row), ensure_ascii=False, allow_nan=False) + "\n"
      for row in rows)
  # Model output may hold lone surrogates; they must not stop a run.
  data = text.encode("utf-8", errors="backslashreplace")
  io.write_bytes(path(workdir, step), gzip.compress(data, mtime=0))


def read(workdir: str | os.PathLike, step: int, kind: str = ROLLOUTS
         ) -> list[dict[str, Any]]:
  """Rows of one step.

  Raises:
    ValueError: there are none, or the file is truncated; names it.
  """
  file = path(workdir, step, kind)
  if not file.exists():
    raise ValueError(
        f"{file} does not exist; there are steps {steps(workdir, kind)}")
  try:
    text = gzip.decompress(file.read_bytes()).decode()
    return [json.loads(line) for line in text.split("\n") if line]
  except (OSError, EOFError, ValueError) as error:
    raise ValueError(f"{file} is truncated or damaged: {error}") from error


def steps(workdir: str | os.PathLike, kind: str = ROLLOUTS) -> list[int]:
  """Steps whose samples are on disk, ascending."""
  folder = epath.Path(workdir) / kind
  if not folder.exists():
    return []
  names = (_NAME.fullmatch(file.name) for file in folder.iterdir())
  return sorted(int(name[1]) for name in names if name)


def path(workdir: str | os.PathLike, step: int, kind: str = ROLLOUTS
         ) -> epath.Path:
  """The file of one step."""
  return epath.Path(workdir) / kind / f"step_{step:06d}.jsonl.gz"


def _plain(value: Any) -> Any:
  if isinstance(value, Mapping):
    return {str(k): _plain(v) for k, v in value.items()}
  if isinstance(value, (list, tuple)):
    return [_plain(v) for v in value]
  if isinstance(value, (str, int)) or value is None:
    return value
  return float(value) if math.isfinite(value) else None
