"""Training curves of one run, or of several in the same panels."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import matplotlib.lines

from r1jax.report.figures import (
  COLOURS,
  GREY,
  PERCENT,
  Rows,
  in_a_row,
  name_ends,
  series,
  smooth,
)


class Panel(NamedTuple):
  """What a panel shows.

  Attributes:
    title: its heading.
    key: name of the metric of the training samples, logged every step.
    held_out: name of the metric of held-out data, or "".
    share: whether values are in [0, 1] and shown in percent.
  """

  title: str
  key: str
  held_out: str = ""
  share: bool = False


def draw(runs: Mapping[str, Rows], panels: Sequence[Panel],
         path: str | os.PathLike) -> list[str]:
  """A line per run in each panel; held-out data as dots on a dashed line.

  Args:
    runs: {label of the line: rows of metrics.jsonl}; a single run is not
      labelled.
    panels: what to draw; panels for which no run has values are left out.
    path: PNG to write, if any panel is left.

  Returns:
    The titles of the panels drawn.
  """
  shown = [panel for panel in panels if any(
      len(series(rows, key)[0]) for rows in runs.values()
      for key in (panel.key, panel.held_out))]
  if not shown:
    return []
  with in_a_row(path, len(shown)) as axes_of:
    for axes, panel in zip(axes_of, shown, strict=True):
      _panel(axes, runs, panel)
  return [panel.title for panel in shown]


def _panel(axes, runs, panel) -> None:
  ends = []
  for i, (name, rows) in enumerate(runs.items()):
    colour = COLOURS[i % len(COLOURS)]
    steps, values = smooth(axes, rows, panel.key, colour)
    at, held = series(rows, panel.held_out)
    if len(at):
      axes.plot(at, held, color=colour, ls=(0, (4, 2)), lw=1.2, marker="o",
                ms=3.5)
    ends.append((name, colour, steps, values) if len(steps)
                else (name, colour, at, held))
  axes.set_title(panel.title)
  if panel.share:
    axes.set_ylim(0, 1.02)
    axes.yaxis.set_major_formatter(PERCENT)
  if len(runs) > 1:
    name_ends(axes, ends)
  if all(any(len(series(rows, key)[0]) for rows in runs.values())
         for key in (panel.key, panel.held_out)):
    axes.legend(handles=[
        matplotlib.lines.Line2D([], [], color=GREY, label="training"),
        matplotlib.lines.Line2D([], [], color=GREY, ls=(0, (4, 2)), marker="o",
                                ms=3.5, label="held out")],
                frameon=False, fontsize=9)
