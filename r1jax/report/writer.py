"""Writes a run's metrics to metrics.jsonl (a line a step), TensorBoard, sinks.
"""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Mapping, Sequence
from typing import Any

from etils import epath

from r1jax.core import io
from r1jax.report import events
from r1jax.report.sinks import Sink

METRICS = "metrics.jsonl"
# Seconds between two uploads of metrics.jsonl to gs://. Each uploads the whole
# file, and gs:// refuses more than one write a second to the same name.
_REMOTE_SECONDS = 30.0


class Writer:
  """Appends rows to `WORKDIR/metrics.jsonl` and TensorBoard events.

  A row is one JSON object with "step" (updates done, 1 after the first) and the
  metrics. Non-finite values are written as null (JSON has no NaN) and left out
  of TensorBoard and the sinks. In a multi-process run only process 0 creates a
  writer.
  """

  def __init__(self, workdir: str | os.PathLike, *,
               resumed: int | None = None,
               sinks: Sequence[Sink] = ()) -> None:
    """Opens the files.

    Args:
      workdir: folder of the run, local or gs://.
      resumed: steps done when the run resumes; None for a new run. Lines of
        later steps, written before a kill, are dropped from metrics.jsonl and
        TensorBoard, so that each step appears once; a new run drops all lines.
      sinks: further services, as `sinks.opened` returns them.

    Raises:
      OSError: the disk is full or read-only.
    """
    self._path = epath.Path(workdir) / METRICS
    rows = [] if resumed is None else [
        row for row in read(workdir) if row["step"] <= resumed]
    io.write_text(self._path, "".join(_line(row) for row in rows))
    self._rows: list[str] = []
    self._remote = io.is_remote(workdir)
    self._uploaded = "".join(map(_line, rows)) if self._remote else ""
    self._next = 0.0
    self._events = events.summaries(
        workdir, 0 if resumed is None else resumed + 1)
    self._sinks = sinks

  def write(self, step: int, metrics: Mapping[str, Any]) -> None:
    """Adds one row; values are numbers or scalar arrays."""
    row, numbers = {"step": int(step)}, {}
    for name, value in metrics.items():
      value = value if isinstance(value, (int, str)) else float(value)
      row[name] = value if _finite(value) else None
      if row[name] is not None and not isinstance(value, str):
        self._events.add_scalar(name, value, step)
        numbers[name] = value
    for sink in self._sinks:
      sink.write(row["step"], numbers)
    self._rows.append(_line(row))

  def flush(self, *, lazily: bool = False) -> None:
    """Writes the buffered rows to disk.

    Args:
      lazily: on gs://, upload at most every 30 seconds; for the flush after
        each step. Not before a checkpoint: a kill could then lose rows that a
        resumed run does not repeat.

    Raises:
      OSError: the disk is full or read-only. Stop the run: a partial last line
        is dropped when it resumes.
    """
    now = time.monotonic()
    if self._remote and lazily and now < self._next:
      return
    self._next = now + _REMOTE_SECONDS
    text = "".join(self._rows)
    # Cleared before writing: after an error a part may be on disk already.
    self._rows.clear()
    if text:
      self._append(text)
    self._events.flush()

  def _append(self, text: str) -> None:
    if self._remote:
      self._uploaded += text
      io.write_text(self._path, self._uploaded)
      return
    try:
      with self._path.open("a") as file:
        file.write(text)
    except OSError as error:
      raise io.unwritten(self._path, error) from error

  def close(self) -> None:
    """Flushes and closes."""
    self.flush()
    self._events.close()
    for sink in self._sinks:
      sink.close()


def read(workdir: str | os.PathLike) -> list[dict[str, Any]]:
  """Rows of `WORKDIR/metrics.jsonl`, oldest first; [] if there is no file.

  A last line that a kill cut off is dropped.

  Raises:
    ValueError: any other line is not JSON; the message names the line.
  """
  path = epath.Path(workdir) / METRICS
  if not path.exists():
    return []
  lines = path.read_text().split("\n")
  rows = []
  for number, line in enumerate(lines, start=1):
    if not line:
      continue
    try:
      rows.append(json.loads(line))
    except json.JSONDecodeError as error:
      if number == len(lines):
        break
      raise ValueError(
          f"{path} line {number} is not JSON ({error}); correct or delete it"
      ) from error
  return rows


def _finite(value: int | float | str) -> bool:
  return not isinstance(value, float) or math.isfinite(value)


def _line(row: Mapping[str, Any]) -> str:
  return json.dumps(row, allow_nan=False) + "\n"
