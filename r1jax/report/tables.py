"""Tables: plain text for the terminal, cells for pages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple


class Cell(NamedTuple):
  """A cell of a page's table that is more than its text.

  Attributes:
    text: what it says.
    bold: it is better than the others of its row, by a test.
    published: somebody else's figure.
    reason: why there is nothing, for a note below the table.
  """

  text: str
  bold: bool = False
  published: bool = False
  reason: str = ""


# (heading, header, rows of cells).
Table = tuple[str, Sequence[str | Cell], Sequence[Sequence[str | Cell]]]


class Noted(NamedTuple):
  """A cell with the number of its note, or ""."""

  text: str
  bold: bool
  published: bool
  mark: str


def missing(reason: str) -> Cell:
  """A dash, and why."""
  return Cell("–", reason=reason)


def noted(table: Table) -> tuple[str, list[Noted], list[list[Noted]],
                                 list[str]]:
  """(heading, header, rows, notes): reasons become numbered notes."""
  heading, header, rows = table
  reasons: dict[str, str] = {}

  def one(cell: str | Cell) -> Noted:
    cell = Cell(cell) if isinstance(cell, str) else cell
    mark = reasons.setdefault(
        cell.reason, str(len(reasons) + 1)) if cell.reason else ""
    return Noted(cell.text, cell.bold, cell.published, mark)

  return (heading, [one(cell) for cell in header],
          [[one(cell) for cell in row] for row in rows], list(reasons))


def plain(rows: Sequence[Sequence[str | Cell]]) -> list[list[str]]:
  """The cells' texts, bold ones with a star, for `render`."""
  return [[cell if isinstance(cell, str) else
           cell.text + ("*" if cell.bold else "") for cell in row]
          for row in rows]


def render(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
  """Columns padded to their widest cell, the first to the left, others right.

  Raises:
    ValueError: a row has another number of cells than the header.
  """
  for row in rows:
    if len(row) != len(header):
      raise ValueError(f"row {list(row)} has {len(row)} cells, the header"
                       f" {len(header)}")
  widths = [max(len(cell) for cell in column)
            for column in zip(header, *rows, strict=True)]

  def line(cells: Sequence[str]) -> str:
    padded = [cells[0].ljust(widths[0])]
    padded += [c.rjust(w) for c, w in zip(cells[1:], widths[1:], strict=True)]
    return "  ".join(padded).rstrip()

  rule = "  ".join("-" * width for width in widths)
  return "\n".join([line(header), rule, *map(line, rows)])


def comparison(results: Mapping[str, Mapping[str, Any]]) -> str:
  """Base against R1-Zero (or any models), one row each.

  Args:
    results: by the model's name: "pass1" (a share), "interval" (low, high),
      "maj", "k" (of maj@k), "format", "length" (mean tokens). Absent values
      print as a dash.
  """
  header, rows = comparison_cells(results)
  return render(header, rows)


def comparison_cells(
    results: Mapping[str, Mapping[str, Any]]
) -> tuple[list[str], list[list[str]]]:
  """(header, rows) of `comparison`, for the terminal and the HTML report."""
  ks = {r["k"] for r in results.values() if "k" in r}
  majority = f"maj@{ks.pop()}" if len(ks) == 1 else "maj@k"
  header = ["model", "pass@1", "95 % interval", majority, "format",
            "mean length"]
  rows = []
  for name, r in results.items():
    low_high = r.get("interval")
    interval = (f"{100 * low_high[0]:.1f} - {100 * low_high[1]:.1f} %"
                if low_high else "-")
    length = r.get("length")
    rows.append([
        name, percent(r.get("pass1")), interval, percent(r.get("maj")),
        percent(r.get("format")), "-" if length is None else f"{length:.1f}"])
  return header, rows


def percent(share: float | None) -> str:
  """`0.1234` -> `12.3 %`, None -> `-`."""
  return "-" if share is None else f"{100 * share:.1f} %"
