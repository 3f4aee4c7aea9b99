"""Atomic file writes, local or on gs://.

An object on gs:// appears when its upload ends and can only be replaced as a
whole, so there it needs no renaming, and cannot be appended to.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from typing import IO, Any

import fsspec
from etils import epath

# gcsfs would cache the listing of a folder, and so miss files that are written
# there later by other processes, or by TensorStore in this one.
fsspec.config.conf.setdefault("gcs", {})["use_listings_cache"] = False


def is_remote(path: str | os.PathLike) -> bool:
  """Whether `path` is in an object store (gs://), not in a file system."""
  return "://" in os.fspath(path)


def write_bytes(path: str | os.PathLike, data: bytes) -> None:
  """Writes to a temporary file beside `path`, then renames it to `path`.

  Raises:
    OSError: the disk is full or read-only, or there is no such bucket; `path`
      keeps its old content.
  """
  with written(path) as file:
    file.write(data)


@contextlib.contextmanager
def written(path: str | os.PathLike) -> Iterator[IO[bytes]]:
  """A file to write piece by piece; `path` appears when the block ends.

  If the block raises, `path` keeps its old content.

  Raises:
    OSError: as `write_bytes`.
  """
  path = epath.Path(path)
  part = path.parent / f".{path.name}.{os.getpid()}.part"
  try:
    if is_remote(path):
      # Closing an upload publishes it, even if the block has raised: so it
      # starts only when the data are complete.
      with tempfile.TemporaryFile() as local:
        yield local
        local.seek(0)
        with path.open("wb") as file:
          shutil.copyfileobj(local, file)
    else:
      path.parent.mkdir(parents=True, exist_ok=True)
      with part.open("wb") as file:
        yield file
      part.replace(path)
  except BaseException as error:
    # On a read-only file system unlink fails even if there is no such file.
    with contextlib.suppress(OSError):
      part.unlink(missing_ok=True)
    if not isinstance(error, OSError):
      raise
    if is_remote(path) and isinstance(error, FileNotFoundError):
      raise OSError(errno.ENOENT, f"could not write {path}: there is no such"
                    " bucket; make it or choose another --workdir") from error
    raise OSError(
        error.errno, f"could not write {path}: {error.strerror or error};"
        " free some space or choose another --workdir") from error


def write_text(path: str | os.PathLike, text: str) -> None:
  """UTF-8 `write_bytes`."""
  write_bytes(path, text.encode())


def write_json(path: str | os.PathLike, value: Any) -> None:
  """Indented JSON, written whole or not at all."""
  write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def read_json(path: str | os.PathLike) -> Any:
  """Parsed JSON.

  Raises:
    ValueError: the file is not JSON; names the file and the place.
  """
  try:
    return json.loads(epath.Path(path).read_text())
  except json.JSONDecodeError as error:
    raise ValueError(f"{path} is not valid JSON: {error}") from error
