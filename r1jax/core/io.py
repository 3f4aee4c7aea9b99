"""Files, local or gs://, written whole or not at all."""

from __future__ import annotations

import contextlib
import json
import os
from typing import Any

from etils import epath


def write_bytes(path: str | os.PathLike, data: bytes) -> None:
  """Writes to a temporary name beside `path` and renames.

  Raises:
    OSError: the disk is full or read-only; `path` keeps its old content.
  """
  path = epath.Path(path)
  part = path.parent / f".{path.name}.{os.getpid()}.part"
  try:
    path.parent.mkdir(parents=True, exist_ok=True)
    part.write_bytes(data)
    part.replace(path)
  except OSError as error:
    # On a read-only file system even unlinking nothing fails.
    with contextlib.suppress(OSError):
      part.unlink(missing_ok=True)
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
