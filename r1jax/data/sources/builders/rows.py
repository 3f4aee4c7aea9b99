"""Reads rows of local files: numbers and checks them, reports malformed ones.

A parser returns the `Prompt` of a row, or None if the row is not in the split,
or raises a ValueError that says what is wrong with the row.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from etils import epath

from r1jax.core import io as core_io
from r1jax.core.prompt import Prompt
from r1jax.data.sources import json_rows

MAX_BAD_SHARE = 0.01  # largest share of malformed rows in a file
VALUES = "*"  # instead of a key: all values of an object


class BadRow(NamedTuple):
  """A malformed row: its file, its line (from 1) and the reason."""

  file: str
  line: int
  reason: str

  def __str__(self) -> str:
    return f"{self.file}:{self.line}: {self.reason}"


class Row(NamedTuple):
  """A row, the input of a parser.

  Attributes:
    number: counted from 0 over all files of the split; the prompt's id.
    file: that it is from.
    line: its line in the file, from 1; in a JSON array the element's number.
    fields: a mapping (JSON objects, tables with a header) or a list of texts
      (tables without a header); the raw text before it is decoded.
  """

  number: int
  file: epath.Path
  line: int
  fields: Any


Parser = Callable[[Row], Prompt | None]
Items = Iterator[Prompt | BadRow]


def jsonl(paths: Sequence[epath.Path], parse: Parser) -> Items:
  """Prompts of JSON Lines files (plain or .gz), or of Parquet files.

  Raises:
    ValueError: a file is unreadable or empty, or more than 1 % of its rows are
      malformed.
  """
  number = 0
  for path in paths:
    if path.suffix == ".parquet":
      listed = _parquet(path)
      yield from checked(path, (
          Row(number + i, path, i + 1, fields)
          for i, fields in enumerate(listed)), parse)
      number += len(listed)
      continue
    lines = list(_lines(path))
    rows = (Row(number + i, path, i + 1, line.strip())
            for i, line in enumerate(lines) if line.strip())
    yield from checked(path, rows, lambda row: parse(_object(row)))
    number += len(lines)


def elements(
    paths: Sequence[epath.Path], parse: Parser, key: str = "",
    expand: Callable[[Any], list[Any]] = lambda element: [element]) -> Items:
  """Prompts of JSON files with an array of objects.

  A file of JSON Lines is read as such, whatever its name.

  Args:
    paths: the files.
    parse: gets the elements; with `key` the other fields of the file's object
      are added to each under "_file".
    key: of the array in the file's object; "" if the file is an array; `VALUES`
      if the elements are the values of the file's object.
    expand: an element -> its rows.

  Raises:
    ValueError: as `jsonl`.
  """
  number = 0
  for path in paths:
    try:
      whole = json.loads(b"".join(_lines(path)).decode("utf-8-sig"))
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
      if not key and getattr(error, "msg", "") == "Extra data":
        yield from jsonl([path], parse)
        continue
      bad = BadRow(str(path), getattr(error, "lineno", 1), _reason(error))
      yield bad
      raise _too_many(path, [bad], 1) from error
    if key == VALUES and isinstance(whole, dict):
      listed, whole = list(whole.values()), {}
    else:
      listed = whole.pop(key, None) if key and isinstance(
          whole, dict) else whole
    if not isinstance(listed, list):
      raise ValueError(
          f"{path} has no JSON array" + (f" under {key!r}" if key else ""))
    beside = {"_file": whole} if key not in ("", VALUES) else {}
    parts = [
        (i, {**part, **beside} if isinstance(part, dict) else part)
        for i, element in enumerate(listed) for part in expand(element)]
    rows = (Row(number + j, path, i + 1, part)
            for j, (i, part) in enumerate(parts))
    yield from checked(path, rows, lambda row: parse(_mapping(row)))
    number += len(parts)


def objects(paths: Sequence[epath.Path], parse: Parser) -> Items:
  """Prompts of many files with one JSON object each; at most 1 % malformed.

  Raises:
    ValueError: as `jsonl`.
  """
  items = (Row(i, path, 1, b"".join(_lines(path)))
           for i, path in enumerate(paths))
  unit = paths[0].parent
  yield from checked(unit, items, lambda row: parse(_object(row)))


def table(
    paths: Sequence[epath.Path], parse: Parser, *, header: bool = True,
    columns: int = 0, delimiters: str = ",", quoting: int = csv.QUOTE_MINIMAL,
    encodings: tuple[str, ...] = ("utf-8-sig",),
) -> Items:
  """Prompts of tables of delimited text.

  Args:
    paths: the files.
    parse: gets a mapping by column name, or a list if there is no header.
    header: whether the first row names the columns.
    columns: number of columns of a file without a header.
    delimiters: candidates; the most frequent in the first line is used.
    quoting: a constant of the csv module.
    encodings: tried in order.

  Raises:
    ValueError: as `jsonl`.
  """
  number = 0
  for path in paths:
    text = _decoded(path, encodings)
    first = text.partition("\n")[0]
    delimiter = max(delimiters, key=first.count)
    records = list(_records(text, delimiter, quoting))
    names = records.pop(0)[1] if header and records else None
    if isinstance(names, str):
      raise ValueError(f"{path}:1: {names}")
    width = len(names) if names else columns

    def convert(row, names=names, width=width):
      cells = row.fields
      if isinstance(cells, str):
        raise ValueError(cells)
      if len(cells) != width:
        raise ValueError(f"{len(cells)} columns where {width} are expected")
      return parse(
          row._replace(fields=dict(zip(names, cells))) if names else row)

    rows = (Row(number + i, path, line, cells)
            for i, (line, cells) in enumerate(records))
    yield from checked(path, rows, convert)
    number += len(records)


def checked(
    unit: epath.Path, rows: Iterable[Row], parse: Parser) -> Items:
  """Parses rows; yields prompts and malformed rows.

  Raises:
    ValueError: at the end, if more than 1 % of the rows are malformed (the
      message shows the first three), or there are no rows.
  """
  bad, total = [], 0
  for row in rows:
    total += 1
    try:
      prompt = parse(row)
    except ValueError as error:
      bad.append(BadRow(str(row.file), row.line, str(error)))
      yield bad[-1]
    else:
      if prompt is not None:
        yield prompt
  if not total or len(bad) > MAX_BAD_SHARE * total:
    raise _too_many(unit, bad, total)


def text(fields: Mapping[str, Any], key: str) -> str:
  """The text under `key`.

  Raises:
    ValueError: there is none, it is blank, or it has lone surrogates.
  """
  value = fields.get(key)
  if not isinstance(value, str) or not value.strip():
    raise ValueError(f"no text under {key!r}")
  if not value.isascii():
    try:
      value.encode()
    except UnicodeEncodeError as error:
      raise ValueError(f"a lone surrogate under {key!r}") from error
  return value


def integer(fields: Mapping[str, Any], key: str, low: int, high: int) -> int:
  """The integer in low..high under `key`, which may be text, as in tables.

  Raises:
    ValueError: there is none.
  """
  value = fields.get(key)
  if isinstance(value, str) and value.strip().isdecimal():
    value = int(value[:20])
  if type(value) is not int or not low <= value <= high:
    raise ValueError(f"{key!r} is {value!r}, not a number in {low}..{high}")
  return value


def texts(fields: Mapping[str, Any], key: str, least: int = 1) -> list[str]:
  """The list of at least `least` texts (which may be empty) under `key`.

  Raises:
    ValueError: there is none.
  """
  value = fields.get(key)
  if (not isinstance(value, list) or len(value) < least
      or not all(isinstance(item, str) for item in value)):
    raise ValueError(f"no list of {least} or more texts under {key!r}")
  return value


def _parquet(path: epath.Path) -> list[dict[str, Any]]:
  import pyarrow  # comes with tensorflow-datasets; few files are Parquet
  from pyarrow import parquet

  try:
    with path.open("rb") as file:
      return parquet.read_table(file).to_pylist()
  except (OSError, pyarrow.ArrowException) as error:
    raise ValueError(f"{path} cannot be read ({error})") from error


def _lines(path: epath.Path) -> Iterator[bytes]:
  try:
    with core_io.opened(path) as raw:
      file = gzip.open(raw) if path.name.endswith(".gz") else raw
      json_rows.check_text(file.read(8), path)
      file.seek(0)
      yield from file
  except (OSError, EOFError, zlib.error) as error:
    raise ValueError(
        f"{path} cannot be read"
        f" ({getattr(error, 'strerror', None) or error})") from error


def _object(row: Row) -> Row:
  try:
    fields = json.loads(row.fields)
  except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
    raise ValueError(_reason(error)) from error
  return _mapping(row._replace(fields=fields))


def _mapping(row: Row) -> Row:
  if not isinstance(row.fields, dict):
    raise ValueError(f"not an object but {type(row.fields).__name__}")
  return row


def _reason(error: Exception) -> str:
  if isinstance(error, UnicodeDecodeError):
    return "not UTF-8"
  # The line is reported by the caller.
  where = f"column {error.colno}: " if hasattr(error, "colno") else ""
  return f"not JSON ({where}{getattr(error, 'msg', error)})"


def _decoded(path: epath.Path, encodings: tuple[str, ...]) -> str:
  raw = b"".join(_lines(path))
  for encoding in encodings:
    try:
      return raw.decode(encoding)
    except UnicodeDecodeError:
      continue
  raise ValueError(f"{path} is not {' or '.join(encodings)} text")


def _records(
    whole: str, delimiter: str, quoting: int,
) -> Iterator[tuple[int, list[str] | str]]:
  """(line where it ends, its cells or the error) of every record."""
  reader = csv.reader(
      io.StringIO(whole, newline=""), delimiter=delimiter, quoting=quoting,
      strict=True)
  while True:
    try:
      cells = next(reader)
    except StopIteration:
      return
    except csv.Error as error:
      yield reader.line_num, f"not {delimiter!r}-delimited text ({error})"
      continue
    if cells:
      yield reader.line_num, cells


def _too_many(unit: epath.Path, bad: list[BadRow], total: int) -> ValueError:
  if not total:
    return ValueError(f"{unit}: the file is empty; give it at least one row")
  first = "; ".join(map(str, bad[:3]))
  return ValueError(
      f"{unit}: {len(bad)} of {total} rows are malformed (at most"
      f" {MAX_BAD_SHARE:.0%} may be); repair the file. First: {first}")
