"""Figures of evaluations: accuracy against tokens, and by level, topic, ..."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.lines
import matplotlib.ticker

from r1jax.report.figures import (
  COLOURS,
  GREY,
  INK,
  PERCENT,
  drawn,
)

# {"tokens", "mean", "low", "high"} each, some with a "label".
Rows = Sequence[Mapping[str, Any]]
_NAMED = 14  # most parts for which panels stand two in a row


def tokens(panels: Mapping[str, Mapping[str, Rows]], path: str | os.PathLike
           ) -> None:
  """Accuracy against tokens per problem, on a logarithmic scale.

  Args:
    panels: {title of the panel: {name of the line: its points}}.
    path: PNG to write.
  """
  names = list(dict.fromkeys(name for of in panels.values() for name in of))
  with drawn(path, 5.6 * max(len(panels), 1), 4.0) as figure:
    for i, (title, lines) in enumerate(panels.items(), 1):
      axes = figure.add_subplot(1, len(panels), i)
      for name, rows in lines.items():
        _line(axes, rows, names.index(name))
      axes.set_xscale("log")
      axes.xaxis.set_major_locator(
          matplotlib.ticker.LogLocator(subs=(1.0, 2.0, 5.0)))
      axes.xaxis.set_major_formatter(
          matplotlib.ticker.FuncFormatter(lambda x, _: f"{x:,.0f}"))
      axes.xaxis.set_minor_formatter(matplotlib.ticker.NullFormatter())
      axes.set_xlabel("tokens per problem")
      axes.set_ylim(0, 1.04)
      axes.yaxis.set_major_formatter(PERCENT)
      axes.set_title(title)
    figure.legend(
        handles=[matplotlib.lines.Line2D(
            [], [], color=COLOURS[i % len(COLOURS)], marker="o", ms=4,
            label=name) for i, name in enumerate(names)],
        loc="outside lower center", frameon=False, ncols=min(4, len(names)))


def _line(axes, rows: Rows, number: int) -> None:
  """Draws a line with its interval; every other line has its labels below."""
  colour = COLOURS[number % len(COLOURS)]
  x = [row["tokens"] for row in rows]
  axes.fill_between(x, [row["low"] for row in rows],
                    [row["high"] for row in rows], color=colour, alpha=0.13,
                    lw=0)
  axes.plot(x, [row["mean"] for row in rows], color=colour, marker="o", ms=4)
  for row in rows:
    if row.get("label"):
      axes.annotate(
          row["label"], (row["tokens"], row["mean"]),
          xytext=(0, -13 if number % 2 else 6), textcoords="offset points",
          ha="center", fontsize=8, color=colour)


def parts(panels: Mapping[str, Mapping[str, Mapping[str, tuple]]],
          path: str | os.PathLike) -> None:
  """Accuracy by parts of benchmarks (levels, topics, ...), a panel each.

  Args:
    panels: {title of the panel: {model: {part: (value, low, high), shares}}}.
    path: PNG to write.
  """
  names = {title: list(dict.fromkeys(
      name for of in models.values() for name in of))
           for title, models in panels.items()}
  models = list(dict.fromkeys(m for of in panels.values() for m in of))
  columns = 1 if any(len(n) > _NAMED for n in names.values()) else min(
      2, len(panels))
  lines = -(-len(panels) // columns)
  with drawn(path, 5.4 * columns + 1.2 * (columns == 1), 3.0 * lines
             ) as figure:
    grid = figure.subplots(lines, columns, squeeze=False).flat
    for axes, (title, of_models) in zip(grid, panels.items(), strict=False):
      _panel(axes, title, names[title], of_models, models)
    for axes in list(figure.axes)[len(panels):]:
      axes.remove()
    if len(models) > 1:
      figure.legend(
          handles=[matplotlib.lines.Line2D(
              [], [], color=_colour(i), marker="o", lw=0, label=name)
                   for i, name in enumerate(models)],
          loc="outside lower center", frameon=False, ncols=min(6, len(models)))


def _panel(axes, title, names, of_models, models) -> None:
  for i, model in enumerate(models):
    shift = 0.6 * ((i + 0.5) / len(models) - 0.5)
    for x, name in enumerate(names):
      if name in of_models.get(model, {}):
        value, low, high = of_models[model][name]
        axes.plot([x + shift] * 2, [low, high], color=_colour(i), lw=2,
                  alpha=0.5)
        axes.plot([x + shift], [value], color=_colour(i), marker="o", ms=5)
  long = len(names) > 4 and max(map(len, names)) > 6
  axes.set_xticks(range(len(names)), names, color=INK, fontsize=8,
                  rotation=35 if long else 0, ha="right" if long else "center")
  axes.set_xlim(-0.6, len(names) - 0.4)
  axes.set_ylim(0, 1.02)
  axes.yaxis.set_major_formatter(PERCENT)
  axes.set_title(title)


def _colour(i: int) -> str:
  return (GREY, *COLOURS)[i % (1 + len(COLOURS))]
