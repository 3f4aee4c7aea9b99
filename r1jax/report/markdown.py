"""A report as Markdown, for a repository or the draft of a paper."""

from __future__ import annotations

import os
from collections.abc import Sequence

from etils import epath

from r1jax.core import io
from r1jax.report import tables as tables_lib
from r1jax.report.tables import Noted, Table


def write(path: str | os.PathLike, *, title: str, notes: Sequence[str] = (),
          tables: Sequence[Table] = (),
          figures: Sequence[tuple[str, str | os.PathLike]] = ()) -> None:
  """Writes tables, and links to figures.

  Args:
    path: file to write, whole or not at all.
    title: heading.
    notes: paragraphs above the tables.
    tables: (heading, header, rows) each; one without rows is left out.
    figures: (caption, PNG) each, linked by its path relative to the file's
      folder.
  """
  path = epath.Path(path)
  parts = [f"# {_text(title)}", *map(_text, notes)]
  for table in tables:
    if table[2]:
      parts.append(_table(table))
  for caption, png in figures:
    where = os.path.relpath(os.fspath(png), os.fspath(path.parent))
    parts.append(f"![{_text(caption)}]({where})\n\n*{_text(caption)}*")
  io.write_text(path, "\n\n".join(parts) + "\n")


def _table(table: Table) -> str:
  heading, header, rows, reasons = tables_lib.noted(table)
  lines = [header, *rows]
  text = ["| " + " | ".join(map(_cell, line)) + " |" for line in lines]
  rule = "| --- |" + " ---: |" * (len(header) - 1)
  notes = [f"{number}. {_text(reason)}"
           for number, reason in enumerate(reasons, 1)]
  return "\n\n".join([f"## {_text(heading)}",
                      "\n".join([text[0], rule, *text[1:]]),
                      *(["\n".join(notes)] if notes else [])])


def _cell(cell: Noted) -> str:
  # Markdown would drop the spaces that indent a row's name.
  indent = len(cell.text) - len(cell.text.lstrip(" "))
  text = _text(cell.text.strip())
  if cell.bold and text:
    text = f"**{text}**"
  if cell.published and text:
    text = f"*{text}*"
  mark = f"<sup>{cell.mark}</sup>" if cell.mark else ""
  return "&nbsp;" * indent + text + mark


def _text(text: str) -> str:
  """Text on one line, escaped so that it makes neither columns nor markup."""
  line = " ".join(text.split())
  for sign in "\\`*_|[]<>":
    line = line.replace(sign, f"\\{sign}")
  return line
