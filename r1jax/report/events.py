"""TensorBoard's events: in a file or an object, and never what ends a run.

They only show what metrics.jsonl holds. So where they cannot be written (a full
disk) that is said once, instead of by tracebacks of the thread that writes them
around the one error that matters.
"""

from __future__ import annotations

import logging
import os

import tensorboardX
from etils import epath
from tensorboardX import record_writer

from r1jax.core import io

_SCHEME = "r1jax"  # in front of a path, tells tensorboardX to write by `File`


def summaries(workdir: str | os.PathLike, purge_step: int
              ) -> tensorboardX.SummaryWriter:
  """A SummaryWriter in a folder, local or gs://.

  Args:
    workdir: the folder.
    purge_step: events of this step and later ones that earlier files hold are
      to be forgotten.
  """
  return tensorboardX.SummaryWriter(
      f"{_SCHEME}:{os.fspath(workdir)}", purge_step=purge_step, flush_secs=30)


class File:
  """What tensorboardX writes records to."""

  def __init__(self, path: str | os.PathLike) -> None:
    """Makes nothing before the first flush."""
    self._path = epath.Path(path)
    self._pending, self._whole = b"", b""
    self._broken = False

  def write(self, data: bytes) -> None:
    """Keeps the data for the next flush."""
    self._pending += data

  def flush(self) -> None:
    """Appends what is kept; an object is uploaded anew as a whole."""
    data, self._pending = self._pending, b""
    if not data or self._broken:
      return
    try:
      if io.is_remote(self._path):
        self._whole += data
        self._path.write_bytes(self._whole)
      else:
        with self._path.open("ab") as file:
          file.write(data)
    except Exception as error:  # gcsfs raises many kinds.
      self._broken = True
      logging.warning("no more events for TensorBoard in %s: %s", self._path,
                      error)

  close = flush


class _Files:
  """The factory that tensorboardX asks for."""

  def open(self, path: str) -> File:
    return File(path.removeprefix(f"{_SCHEME}:"))

  def directory_check(self, path: str) -> None:
    if not io.is_remote(path):
      epath.Path(path.removeprefix(f"{_SCHEME}:")).mkdir(
          parents=True, exist_ok=True)


record_writer.register_writer_factory(_SCHEME, _Files())
