"""Files of our own making, and what readers say of them."""

from __future__ import annotations

import csv
import io
import json
import pathlib

from etils import epath

from r1jax.core.prompt import Prompt


def lines(path: pathlib.Path, *rows) -> epath.Path:
  """JSON Lines; a text is written as it is."""
  path.parent.mkdir(parents=True, exist_ok=True)
  path.write_text("".join(
      (row if isinstance(row, str) else json.dumps(row, ensure_ascii=False))
      + "\n" for row in rows))
  return epath.Path(path)


def table(path: pathlib.Path, *rows, delimiter=",") -> epath.Path:
  """Delimited text; a text is written as it is."""
  path.parent.mkdir(parents=True, exist_ok=True)
  out = io.StringIO()
  writer = csv.writer(out, delimiter=delimiter, lineterminator="\n")
  for row in rows:
    if isinstance(row, str):
      out.write(row + "\n")
    else:
      writer.writerow(row)
  path.write_text(out.getvalue())
  return epath.Path(path)


def read(reader, files, split="test") -> tuple[list[Prompt], list[str]]:
  """Prompts, and `file:line: reason` of the malformed rows.

  That those are more than 1 % of the file is no matter here.
  """
  files = files if isinstance(files, list) else [files]
  prompts, bad = [], []
  try:
    for item in reader(files, split):
      if isinstance(item, Prompt):
        prompts.append(item)
      else:
        name = pathlib.Path(item.file).name
        bad.append(f"{name}:{item.line}: {item.reason}")
  except ValueError as error:
    assert bad and "rows are malformed" in str(error), error
  return prompts, bad


def without(row: dict, key: str) -> dict:
  """The row lacking a field."""
  return {k: v for k, v in row.items() if k != key}
