"""Atomic file writes, local or on gs://.

An object on gs:// appears when its upload ends and can only be replaced as a
whole, so there it needs no renaming, and cannot be appended to.
"""

from __future__ import annotations

import contextlib
import errno
import json
import logging
import os
import shutil
import tempfile
from collections.abc import Iterator
from typing import IO, Any

import fsspec
from etils import epath

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_DENIED = (errno.EROFS, errno.EACCES, errno.EPERM)
# What a file holds that git-lfs has not fetched.
_POINTER = b"version https://git-lfs.github.com/spec/"

# gcsfs would cache the listing of a folder, and so miss files that are written
# there later by other processes, or by TensorStore in this one.
fsspec.config.conf.setdefault("gcs", {})["use_listings_cache"] = False
# Its errors are raised; its log would print their tracebacks before.
logging.getLogger("gcsfs").setLevel(logging.CRITICAL)


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
    if not is_remote(path) and os.path.isdir(path):
      # Whose reason etils has in words of its own.
      error = IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
    if is_remote(path) and isinstance(error, FileNotFoundError):
      raise OSError(errno.ENOENT, f"could not write {path}: there is no such"
                    " bucket; make it or choose another folder") from error
    raise unwritten(path, error) from error


def unwritten(path: str | os.PathLike, error: OSError) -> OSError:
  """The error to raise if `path` could not be written: why, and what to do."""
  return OSError(error.errno, f"could not write {path}:"
                 f" {error.strerror or error}; {remedy(error.errno)}")


def remedy(number: int | None) -> str:
  """What to do about an error of this number while writing."""
  if number in _FULL:
    return "free some space or choose another folder"
  if number in _DENIED:
    return "choose a folder that can be written"
  if number == errno.ENOENT:
    return "its folder is gone; restore it or choose another one"
  if number in (errno.ENOTDIR, errno.EEXIST):
    return "a file has the name of one of its folders; choose another folder"
  if number == errno.EISDIR:
    return "a folder has this name; choose another one"
  return "choose another folder"


def write_text(path: str | os.PathLike, text: str) -> None:
  """UTF-8 `write_bytes`."""
  write_bytes(path, text.encode())


def write_json(path: str | os.PathLike, value: Any) -> None:
  """Indented JSON, written whole or not at all."""
  write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def is_file(path: str | os.PathLike) -> bool:
  """Whether `path` is a regular file, or an object on gs://.

  `epath.Path.is_file` is true for named pipes too, which block whoever opens
  them.
  """
  return (epath.Path(path).is_file() if is_remote(path)
          else os.path.isfile(path))


def opened(path: str | os.PathLike) -> IO[bytes]:
  """A user's file, opened to be read; as `open`, but blocks on no pipe.

  Raises:
    OSError: it cannot be read, or is a pipe or a device.
  """
  if os.path.exists(path) and not (is_file(path) or os.path.isdir(path)):
    raise OSError(errno.EINVAL, "it is a pipe or a device, not a file",
                  os.fspath(path))
  return epath.Path(path).open("rb")


def read_bytes(path: str | os.PathLike) -> bytes:
  """The contents of a user's file; raises OSError as `opened`."""
  with opened(path) as file:
    return file.read()


def read_json(path: str | os.PathLike) -> Any:
  """Parsed JSON.

  Raises:
    ValueError: as `parsed_json`.
    OSError: as `opened`.
  """
  return parsed_json(read_bytes(path), os.fspath(path))


def parsed_json(data: bytes, name: str) -> Any:
  """Parsed JSON of a file's contents, also with a byte order mark.

  Args:
    data: the contents.
    name: of the file, for the message.

  Raises:
    ValueError: it is not JSON; the message has the place, and a hint if the
      file is a pointer of git-lfs.
  """
  try:
    return json.loads(data)
  except (ValueError, RecursionError) as error:
    raise ValueError(f"{name} is not valid JSON: {error}{pointer_hint(data)}"
                     ) from error


def pointer_hint(data: bytes) -> str:
  """What to do if a file with these contents is a git-lfs pointer; or ""."""
  return ("; it is a pointer of git-lfs, not the file: run git lfs pull in the"
          " repository, or download the file"
          if data.startswith(_POINTER) else "")
