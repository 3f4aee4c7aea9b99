"""Tables: plain text for the terminal, cells for HTML and Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple


class Cell(NamedTuple):
  """A table cell with more than its text.

  Attributes:
    text: what is printed.
    bold: whether it is significantly better than the others of its row.
    published: whether the figure is another publication's, not measured here.
    reason: why there is no figure, for a note below the table.
  """

  text: str
  bold: bool = False
  published: bool = False
  reason: str = ""


# (heading, header, rows of cells).
Table = tuple[str, Sequence[str | Cell], Sequence[Sequence[str | Cell]]]


class Noted(NamedTuple):
  """A cell as it is printed; `mark` is the number of its note, or ""."""

  text: str
  bold: bool
  published: bool
  mark: str


def missing(reason: str) -> Cell:
  """A dash with the reason why there is no figure."""
  return Cell("–", reason=reason)


def noted(table: Table) -> tuple[str, list[Noted], list[list[Noted]],
                                 list[str]]:
  """(heading, header, rows, notes), with the reasons as numbered notes."""
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
  """The cells' texts for `render`; bold ones get a star."""
  return [[cell if isinstance(cell, str) else
           cell.text + ("*" if cell.bold else "") for cell in row]
          for row in rows]


def render(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
  """A text table: the first column is left-aligned, the others right-aligned.

  Raises:
    ValueError: a row has more or fewer cells than the header.
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
  """A text table that compares models (base and R1-Zero), one row each.

  Args:
    results: {name of the model: {"pass1" (a share), "interval" (low, high),
      "maj", "k" (of maj@k), "format", "length" (mean tokens)}}. Missing values
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
