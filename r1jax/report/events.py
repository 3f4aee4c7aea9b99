"""TensorBoard event files, local or on gs://; a failure never ends a run.

They repeat what metrics.jsonl holds. So if they cannot be written (a full
disk), there is one warning instead of tracebacks from tensorboardX's thread.
"""

from __future__ import annotations

import logging
import os
from typing import TYPE_CHECKING

from etils import epath

from r1jax.core import io

if TYPE_CHECKING:
  import tensorboardX

_SCHEME = "r1jax"  # prefix of a path that makes tensorboardX write by `File`


def summaries(workdir: str | os.PathLike, purge_step: int
              ) -> tensorboardX.SummaryWriter:
  """A SummaryWriter in a folder, local or gs://.

  Args:
    workdir: the folder.
    purge_step: TensorBoard drops events of this and later steps from earlier
      files.
  """
  # Imported here: it imports torch, if that is installed, which takes seconds
  # that commands without events need not spend.
  import tensorboardX
  from tensorboardX import record_writer
  record_writer.register_writer_factory(_SCHEME, _Files())
  return tensorboardX.SummaryWriter(
      f"{_SCHEME}:{os.fspath(workdir)}", purge_step=purge_step, flush_secs=30)


class File:
  """The file object that tensorboardX writes records to."""

  def __init__(self, path: str | os.PathLike) -> None:
    """Creates no file before the first flush."""
    self._path = epath.Path(path)
    self._pending, self._whole = b"", b""
    self._broken = False

  def write(self, data: bytes) -> None:
    """Buffers the data until the next flush."""
    self._pending += data

  def flush(self) -> None:
    """Appends the buffered data; on gs:// by uploading the whole file again."""
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
    except Exception as error:  # gcsfs raises errors of many classes
      self._broken = True
      logging.warning("no more TensorBoard events are written to %s: %s",
                      self._path, error)

  close = flush


class _Files:
  """The factory of writers, as tensorboardX wants it."""

  def open(self, path: str) -> File:
    return File(path.removeprefix(f"{_SCHEME}:"))

  def directory_check(self, path: str) -> None:
    if not io.is_remote(path):
      epath.Path(path.removeprefix(f"{_SCHEME}:")).mkdir(
          parents=True, exist_ok=True)
