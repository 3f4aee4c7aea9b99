"""Rows of JSON Lines files, or of files with one JSON array; also of .gz."""

from __future__ import annotations

import codecs
import contextlib
import gzip
import json
import os
import zlib
from collections.abc import Iterator
from typing import IO, Any

from r1jax.core import io
from r1jax.core.config import DataError, check

_GZIP = b"\x1f\x8b"
# How files that are no UTF-8 text begin, what they are and how to convert them.
_FOREIGN = {
    codecs.BOM_UTF32_LE: ("UTF-32 text", "save it as UTF-8"),
    codecs.BOM_UTF16_LE: ("UTF-16 text", "save it as UTF-8"),
    codecs.BOM_UTF16_BE: ("UTF-16 text", "save it as UTF-8"),
    b"PAR1": ("a Parquet file", "write it as JSON Lines (pandas: read_parquet("
              "FILE).to_json(NEW, orient='records', lines=True))"),
    b"PK\x03\x04": ("a zip archive", "unpack it"),
    b"\x28\xb5\x2f\xfd": ("packed by zstd", "unpack it"),
    b"BZh": ("packed by bzip2", "unpack it"),
    b"\xfd7zXZ": ("packed by xz", "unpack it")}
# The first line of a file that is one indented JSON value.
_OPENINGS = (b"[", b"{")


def lines(path: str | os.PathLike) -> Iterator[tuple[str, bytes]]:
  """(FILE:LINE, JSON) of every line that is not blank.

  For a file with one JSON array (FILE:NUMBER, JSON) of every element.

  Raises:
    DataError: the file cannot be read or is no text, or begins as a JSON array
      but is not valid JSON.
  """
  with reading(path), io.opened(path) as raw:
    start = raw.read(8)
    raw.seek(0)
    file = gzip.open(raw) if start.startswith(_GZIP) else raw
    if file is not raw:
      start = file.read(8)
      file.seek(0)
    check_text(start, path)
    if is_whole(next((line for line in file if not is_blank(line)), b"")):
      file.seek(0)
      elements = _elements(file, str(path))
      if elements is not None:
        yield from elements
        return
    file.seek(0)
    for number, line in enumerate(file, 1):
      if not is_blank(line):
        yield f"{path}:{number}", line


@contextlib.contextmanager
def reading(path: str | os.PathLike) -> Iterator[None]:
  """Turns errors of the file system in the block into DataErrors."""
  try:
    yield
  except (OSError, EOFError, zlib.error) as error:
    raise DataError(
        f"{path} cannot be read"
        f" ({getattr(error, 'strerror', '') or error}); give JSONL files,"
        " separated by commas") from error


def check_text(start: bytes, path: str | os.PathLike) -> None:
  """Raises DataError if a file that begins like this is not UTF-8 text."""
  for mark, (what, remedy) in _FOREIGN.items():
    check(not start.startswith(mark), f"{path} is {what}; {remedy}", DataError)
  check(not start.startswith(_GZIP), f"{path} is packed by gzip; unpack it",
        DataError)
  check(b"\0" not in start, f"{path} has null bytes, as UTF-16 text or binary"
        " files have; save it as UTF-8 text", DataError)


def is_blank(line: bytes) -> bool:
  """Whether a line has no text, not counting a byte order mark."""
  return not line.removeprefix(codecs.BOM_UTF8).strip()


def is_whole(line: bytes) -> bool:
  """Whether a file with this first line is one JSON value, not JSON Lines."""
  line = line.removeprefix(codecs.BOM_UTF8).strip()
  return line.startswith(b"[") or line in _OPENINGS


def _elements(file: IO[bytes], path: str) -> list[tuple[str, bytes]] | None:
  """The rows of one JSON value; None if it turns out to be JSON Lines."""
  text = file.read()
  try:
    value = json.loads(text.decode("utf-8-sig"))
  except (ValueError, RecursionError) as error:
    first = text.removeprefix(codecs.BOM_UTF8).lstrip().partition(b"\n")[0]
    lines_of_json = (getattr(error, "msg", "") == "Extra data"
                     and first.strip() not in _OPENINGS)
    check(lines_of_json, f"{path} begins as a JSON array but is not valid"
          f" JSON ({error}); repair it, or give JSON Lines, one row per line"
          " (jq -c . FILE writes indented rows so)", DataError)
    return None
  rows = value if isinstance(value, list) else [value]
  return [(f"{path}:{number}", json.dumps(row).encode())
          for number, row in enumerate(rows, 1)]


def parse(line: bytes) -> dict[str, Any]:
  """The fields of a row.

  Raises:
    ValueError: it is not UTF-8, not JSON, or not an object.
  """
  try:
    row = json.loads(line.decode("utf-8-sig"))
  except UnicodeDecodeError as error:
    raise ValueError(f"it is not UTF-8 text ({error.reason} at byte"
                     f" {error.start})") from error
  except json.JSONDecodeError as error:
    raise ValueError(f"it is not JSON ({error.msg} at column {error.colno})"
                     ) from error
  except RecursionError as error:
    raise ValueError("its JSON is nested too deeply") from error
  check(isinstance(row, dict), "it is not a JSON object")
  return row
