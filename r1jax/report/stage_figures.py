"""Figures of the stages from base to R1, in the style of `figures`.

Evaluation rows have "step" and the means of measures (`evals.measures`), each
with its interval as NAME_low and NAME_high; missing values are not drawn.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.axes
import numpy as np

from r1jax.report.figures import (
  COLOURS,
  GREY,
  INK,
  PERCENT,
  Rows,
  drawn,
  in_a_row,
  name_ends,
  running,
  series,
  smooth,
)

# Of each line (key in the rows, label).
Lines = Sequence[tuple[str, str]]


def self_evolution(metrics: Rows, evals: Rows, path: str | os.PathLike, *,
                   accuracy: Lines, length: str = "rollout/length_mean"
                   ) -> None:
  """Accuracy, length and reflective words of R1-Zero (Nature 645, 633, Fig. 1).

  The panel of reflective words is left out if there are none.

  Args:
    metrics: rows of metrics.jsonl.
    evals: evaluation rows, oldest first.
    path: PNG to write.
    accuracy: lines of the first panel.
    length: name of the metric in the second panel.
  """
  reflects = any(row.get("reflective") for row in evals)
  with in_a_row(path, 2 + reflects) as (left, middle, *right):
    _shares(left, "Accuracy on held-out problems")
    _lines(left, [(evals, key, name) for key, name in accuracy])
    smooth(middle, metrics, length, COLOURS[2])
    middle.set_ylim(bottom=0)
    middle.set_title("Mean response length (tokens)")
    for axes in right:
      _lines(axes, [(evals, "reflective", "")])
      axes.set_ylim(bottom=0)
      axes.set_title("Reflective words per answer")


def with_and_without(runs: Mapping[str, Rows], path: str | os.PathLike) -> None:
  """Language consistency and accuracy of runs against step.

  Args:
    runs: {label of the line: evaluation rows}.
    path: PNG to write.
  """
  with in_a_row(path, 2) as (left, right):
    for axes, key, title in (
        (left, "language", "Language consistency of thoughts"),
        (right, "reasoning", "Accuracy on held-out problems")):
      axes.yaxis.set_major_formatter(PERCENT)
      axes.set_title(title)
      _lines(axes, [(rows, key, name) for name, rows in runs.items()])


def hacking(metrics: Rows, evals: Rows, path: str | os.PathLike, *,
            truths: Lines, proxy: str = "reward/helpful",
            kl: str = "policy/kl", length: str = "rollout/length_mean") -> None:
  """Reward hacking: a reward model's score and the true utility in a long run.

  Top: score of the training samples. Bottom: accuracy and true utility on
  held-out questions. Left: against the step. Right: against the square root of
  the KL to the reference policy in nats per answer (Gao et al.,
  arXiv:2210.10760): the running mean of KL per token times mean length.

  Args:
    metrics: rows of metrics.jsonl.
    evals: evaluation rows, oldest first.
    path: PNG to write.
    truths: lines of the bottom panels.
    proxy, kl, length: names of metrics.
  """
  steps, distances = _distances(metrics, kl, length)
  with drawn(path, 10.4, 6.2) as figure:
    panels = figure.subplots(2, 2, sharex="col", sharey="row")
    (above, above_kl), (below, below_kl) = panels
    at, scores = smooth(above, metrics, proxy, COLOURS[4])
    _shares(below, "Held-out questions")
    _lines(below, [(evals, key, name) for key, name in truths])
    if len(steps):
      above_kl.plot(np.interp(at, steps, distances), scores, color=COLOURS[4],
                    lw=1.2)
      moved = [row | {"step": float(np.interp(row["step"], steps, distances))}
               for row in evals]
      # The KL may fall again, and bands would then overlap.
      _lines(below_kl, [(moved, key, "") for key, _ in truths], bands=False)
    else:
      for axes in (above_kl, below_kl):
        axes.annotate("the run logged no KL (--log_kl)", (0.5, 0.5),
                      xycoords="axes fraction", ha="center", color=GREY)
    above.set_title("Score of the helpful model (proxy)")
    below.set_xlabel("step")
    below_kl.set_xlabel("√KL to the reference (nats per answer)")


def models(cells: Mapping[str, Mapping[str, Any]], panels: Lines,
           path: str | os.PathLike) -> None:
  """A panel per measure, with a dot and its interval per model.

  Args:
    cells: {model: {measure: (value, low, high), shares}}, in drawing order.
    panels: (measure, title) each.
    path: PNG to write.
  """
  columns = min(3, max(1, len(panels)))
  rows = -(-len(panels) // columns)
  with drawn(path, 4.2 * columns, 2.9 * rows) as figure:
    grid = figure.subplots(max(rows, 1), columns, squeeze=False).flat
    for axes, (measure, title) in zip(grid, panels, strict=False):
      for x, of_model in enumerate(cells.values()):
        if measure not in of_model:
          continue
        value, low, high = of_model[measure]
        colour = (GREY, *COLOURS)[x % (1 + len(COLOURS))]
        axes.plot([x, x], [low, high], color=colour, lw=2.5, alpha=0.5,
                  clip_on=False)
        axes.plot([x], [value], color=colour, marker="o", ms=7, clip_on=False)
        axes.annotate(f"{value:.0%}", (x, value), xytext=(8, 0), va="center",
                      textcoords="offset points", color=INK, fontsize=9)
      axes.set_xticks(range(len(cells)), list(cells), color=INK, fontsize=9)
      axes.set_xlim(-0.5, len(cells) - 0.2)
      _shares(axes, title)
    for axes in list(figure.axes)[len(panels):]:
      axes.remove()


def _lines(axes: matplotlib.axes.Axes,
           lines: Sequence[tuple[Rows, str, str]], *, bands: bool = True
           ) -> None:
  """Draws lines, (rows, key, label) each, labelled at their ends.

  Intervals are drawn as bands, or without `bands` as bars at each point.
  """
  ends = []
  for i, (rows, key, name) in enumerate(lines):
    steps, values = series(rows, key)
    low, high = series(rows, f"{key}_low")[1], series(rows, f"{key}_high")[1]
    colour = COLOURS[i % len(COLOURS)]
    if len(low) == len(high) == len(steps):
      if bands:
        axes.fill_between(steps, low, high, color=colour, alpha=0.15, lw=0)
      else:
        axes.vlines(steps, low, high, color=colour, alpha=0.3, lw=2.5)
    axes.plot(steps, values, color=colour, marker="o", ms=3.5)
    if name:
      ends.append((name, colour, steps, values))
  name_ends(axes, ends)


def _shares(axes: matplotlib.axes.Axes, title: str) -> None:
  axes.set_ylim(0, 1.02)
  axes.yaxis.set_major_formatter(PERCENT)
  axes.set_title(title)


def _distances(metrics: Rows, kl: str, length: str
               ) -> tuple[np.ndarray, np.ndarray]:
  """(steps, sqrt of the KL per answer); at step 0 it is 0."""
  rows = [{"step": row["step"], "kl": row[kl] * row[length]} for row in metrics
          if row.get(kl) is not None and row.get(length) is not None]
  steps, values = series(rows, "kl")
  if not len(steps):
    return steps, values
  mean = np.maximum(running(values, max(1, len(values) // 40)), 0.0)
  return np.r_[0.0, steps], np.r_[0.0, np.sqrt(mean)]
