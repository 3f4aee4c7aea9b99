"""Figures of a run, drawn from plain lists of dicts.

Metric rows are those of metrics.jsonl; null or absent values are not drawn.
Evaluation rows: {"step", "pass1", and if known "pass1_low", "pass1_high",
"maj", "k"}. Accuracies and other shares are between 0 and 1.
"""

from __future__ import annotations

import contextlib
import io as memory
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import matplotlib.axes
import matplotlib.figure
import matplotlib.lines
import matplotlib.ticker
import numpy as np

from r1jax.core import io

Rows = Sequence[Mapping[str, Any]]

# Okabe and Ito's colours, which the colour-blind can tell apart.
_BLUE, _RED, _GREEN, _PINK = "#0072B2", "#D55E00", "#009E73", "#CC79A7"
_AMBER, _SKY = "#E69F00", "#56B4E9"
COLOURS = (_BLUE, _RED, _GREEN, _PINK, _AMBER, _SKY)
INK, GREY, _PALE = "#222222", "#6b6b6b", "#e6e6e6"
PERCENT = matplotlib.ticker.PercentFormatter(1.0, decimals=0)


def learning_curves(
    metrics: Rows, evals: Rows, base: Mapping[str, float],
    path: str | os.PathLike, *, length: str = "rollout/length_mean") -> None:
  """Accuracy and response length against step (as Fig. 1 of Nature 645, 633).

  Left: pass@1 with its interval, and maj@k, of the evaluations; the base's
  pass@1 as a dashed line. Right: mean response length of the training samples.

  Args:
    metrics: rows with `length`.
    evals: evaluation rows, oldest first.
    base: {"pass1": share} of the base on the same problems.
    path: PNG to write.
    length: name of the metric on the right.
  """
  with in_a_row(path, 2) as (left, right):
    steps, share = series(evals, "pass1")
    low, high = series(evals, "pass1_low")[1], series(evals, "pass1_high")[1]
    if len(low) == len(high) == len(steps):
      left.fill_between(steps, low, high, color=_BLUE, alpha=0.15, lw=0)
    ends = []
    k = next((row["k"] for row in evals if row.get("k")), "k")
    for name, key, colour in ((f"maj@{k}", "maj", _RED),
                              ("pass@1", "pass1", _BLUE)):
      steps, share = series(evals, key)
      left.plot(steps, share, color=colour, marker="o", ms=3.5)
      ends.append((name, colour, steps, share))
    left.axhline(base["pass1"], color=GREY, ls=(0, (5, 3)), lw=1.3, zorder=1)
    left.set_ylim(0, 1.02)
    left.yaxis.set_major_formatter(PERCENT)
    left.set_title("Accuracy on held-out problems")
    name_ends(left, ends)
    left.annotate(
        f"base {base['pass1']:.0%}", (1, base["pass1"]), xytext=(-4, 4),
        xycoords=("axes fraction", "data"), textcoords="offset points",
        ha="right", color=GREY)
    smooth(right, metrics, length, _GREEN)
    right.set_ylim(bottom=0)
    right.set_title("Mean response length (tokens)")


def curves(rows: Rows, path: str | os.PathLike, names: Sequence[str],
           title: str) -> None:
  """Metrics against step; a line is labelled with the part after the last /."""
  with in_a_row(path, 1) as (axes,):
    ends = []
    for i, name in enumerate(names):
      colour = COLOURS[i % len(COLOURS)]
      ends.append((name.rsplit("/", 1)[-1], colour,
                   *smooth(axes, rows, name, colour)))
    axes.set_title(title)
    name_ends(axes, ends)


def reward_curves(
    metrics: Rows, path: str | os.PathLike, *, prefix: str = "reward/") -> None:
  """Every metric whose name starts with `prefix`, against step."""
  names = sorted({k for row in metrics for k in row if k.startswith(prefix)})
  curves(metrics, path, names, "Mean reward of the training samples")


def by_domain(metrics: Rows, path: str | os.PathLike, *,
              prefix: str = "domain/") -> None:
  """Accuracy and combined reward of every domain against step.

  Args:
    metrics: rows with metrics named `domain/DOMAIN/RULE`.
    path: PNG to write.
    prefix: what the names of these metrics begin with.
  """
  with in_a_row(path, 2) as panels:
    for axes, rule, title in zip(
        panels, ("accuracy", "combined"),
        ("Accuracy of the training samples", "Combined reward"), strict=True):
      names = sorted({name for row in metrics for name in row
                      if name.startswith(prefix) and name.endswith("/" + rule)})
      ends = []
      for i, name in enumerate(names):
        colour = COLOURS[i % len(COLOURS)]
        ends.append((name.split("/")[1], colour,
                     *smooth(axes, metrics, name, colour)))
      axes.set_title(title)
      axes.set_ylim(bottom=min(0.0, axes.get_ylim()[0]))
      name_ends(axes, ends)


def entropy_and_kl(
    metrics: Rows, path: str | os.PathLike, *, entropy: str = "policy/entropy",
    kl: str = "policy/kl") -> None:
  """Entropy per token and KL to the reference policy against step."""
  with in_a_row(path, 2) as (left, right):
    smooth(left, metrics, entropy, _BLUE)
    left.set_title("Entropy (nats per token)")
    left.set_ylim(bottom=0)
    smooth(right, metrics, kl, _RED)
    right.set_ylim(bottom=0)
    right.set_title("KL to the reference (nats per token)")


def by_level(rows: Rows, path: str | os.PathLike) -> None:
  """Accuracy by difficulty against step (as in the paper's MATH by level).

  Args:
    rows: {"step", "level", "pass1"}, in any order.
    path: PNG to write.
  """
  levels = sorted({row["level"] for row in rows})
  with in_a_row(path, 1) as (axes,):
    ends = []
    for i, level in enumerate(levels):
      mine = sorted((r for r in rows if r["level"] == level),
                    key=lambda r: r["step"])
      steps, share = series(mine, "pass1")
      # Light to dark: the levels are an order, not categories.
      shade = 0.35 + 0.6 * (i / max(len(levels) - 1, 1))
      colour = matplotlib.colormaps["viridis_r"](shade)
      axes.plot(steps, share, color=colour, marker="o", ms=3.5)
      ends.append((f"level {level}", colour, steps, share))
    axes.set_ylim(0, 1.02)
    axes.yaxis.set_major_formatter(PERCENT)
    axes.set_title("pass@1 by difficulty")
    name_ends(axes, ends)


def decodings(results: Mapping[str, Mapping[str, Mapping[str, Any]]],
              path: str | os.PathLike) -> None:
  """pass@1 of every model as bars, grouped by decoding (greedy, T = 1, ...).

  Args:
    results: {model: {decoding: row with "pass1" (a share) and, if known,
      "interval" (low, high)}}.
    path: PNG to write.
  """
  ways = list(dict.fromkeys(way for rows in results.values() for way in rows))
  width = 0.8 / max(len(results), 1)
  with drawn(path, 6.2, 3.5) as figure:
    axes = figure.add_subplot()
    for i, (model, rows) in enumerate(results.items()):
      colour = (GREY, *COLOURS)[i % (1 + len(COLOURS))]
      for j, row in ((ways.index(way), row) for way, row in rows.items()):
        x, share = j + width * (i - (len(results) - 1) / 2), row["pass1"]
        low, high = row.get("interval") or (share, share)
        axes.bar(x, share, 0.9 * width, color=colour,
                 label=model if j == 0 else None)
        axes.plot([x, x], [low, high], color=INK, lw=1.2)
        axes.annotate(f"{share:.0%}", (x, high), xytext=(0, 3), ha="center",
                      textcoords="offset points", color=colour,
                      fontweight="bold")
    axes.set_xticks(range(len(ways)), ways, color=INK)
    axes.set_ylim(0, 1.1)
    axes.set_yticks(np.linspace(0, 1, 6))
    axes.yaxis.set_major_formatter(PERCENT)
    axes.set_title("pass@1 on the test problems, by decoding")
    figure.legend(loc="outside right upper", frameon=False)


def outcomes(cells: Rows, path: str | os.PathLike) -> None:
  """Runs over a grid of two settings, a panel for each pair.

  Rows of the grid are shares of worked pages, columns weights of the format
  reward. Each panel shows accuracy and format reward of the training samples
  against step, a line per seed. Panels without runs say "not run".

  Args:
    cells: {"worked", "format_weight", "seed", "accuracy" (the final one),
      "curve": [{"step", "accuracy", "format"}, ...]}.
    path: PNG to write.
  """
  shares = sorted({cell["worked"] for cell in cells}, reverse=True)
  factors = sorted({cell["format_weight"] for cell in cells})
  with drawn(path, 2.2 + 3.0 * len(factors), 0.9 + 2.2 * len(shares)
              ) as figure:
    panels = figure.subplots(len(shares), len(factors), squeeze=False,
                             sharex=True, sharey=True)
    for i, share in enumerate(shares):
      for j, factor in enumerate(factors):
        mine = [cell for cell in cells if (share, factor) == (
            cell["worked"], cell["format_weight"])]
        _outcome(panels[i][j], mine)
        if not i:
          panels[i][j].set_title(f"format reward × {factor:g}", loc="center")
      panels[i][0].set_ylabel(
          f"worked pages: {share:.0%}", color=INK, fontweight="bold")
    for axes in panels[-1]:
      axes.set_xlabel("step")
    panels[0][0].set_ylim(0, 1.02)
    panels[0][0].yaxis.set_major_formatter(PERCENT)
    figure.suptitle("Does it learn to think? Accuracy at the end, of each seed",
                    x=0.01, ha="left", fontsize=13, fontweight="bold")
    figure.legend(
        handles=[matplotlib.lines.Line2D([], [], color=colour, label=name)
                 for name, colour in (("accuracy", _BLUE), ("format", _AMBER))],
        loc="outside lower right", frameon=False, ncols=2)


def _outcome(axes: matplotlib.axes.Axes, cells: Rows) -> None:
  """A panel of `outcomes`: the runs of one pair, their final accuracies."""
  if not cells:
    axes.annotate("not run", (0.5, 0.5), xycoords="axes fraction",
                  ha="center", va="center", color=GREY)
    return
  for cell in cells:
    for key, colour in (("format", _AMBER), ("accuracy", _BLUE)):
      axes.plot(*series(cell["curve"], key), color=colour, lw=1.5)
  ends = sorted(cell["accuracy"] for cell in cells)
  lives = ends[len(ends) // 2] > 0.5
  axes.annotate(
      " · ".join(f"{share:.0%}" for share in ends),
      (0.97, 0.5), xycoords="axes fraction", ha="right", va="center",
      color=_BLUE, fontweight="bold", fontsize=14,
      bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.8})
  axes.set_facecolor("#eef6fb" if lives else "#fbf1ee")


# Label, colour, line width and opacity of each precision; float32 is wide and
# drawn first, below the others.
_PRECISIONS = {
    "float32": ("float32", GREY, 5.0, 0.45),
    "bfloat16": ("bfloat16, float32 masters", _BLUE, 1.8, 1.0),
    "stochastic": ("bfloat16 alone, stochastic rounding", _GREEN, 1.8, 1.0),
    "nearest": ("bfloat16 alone, rounded to nearest", _RED, 1.8, 1.0),
}


def precision(rl: Rows, sft: Rows, path: str | os.PathLike) -> None:
  """Runs that differ only in precision: movement, gap, rewards, and loss.

  Args:
    rl: {"form" (see `_PRECISIONS`), "lr", "curve": [{"step", "moved",
      "computing_share", "gap", "gap_max", "combined"}, ...]}. The first four
      panels show the runs with the smallest lr, the fifth those with the
      largest.
    sft: {"form", "curve": [{"step", "held_out"}, ...]}, for the last panel.
    path: PNG to write.
  """
  rates = sorted({run["lr"] for run in rl}) or [0.0]
  slow, fast = ([run for run in rl if run["lr"] == lr]
                for lr in (rates[0], rates[-1]))
  with drawn(path, 14.0, 7.2) as figure:
    panels = figure.subplots(2, 3)
    # "3e-6", not "3e-06".
    low, high = (f"{lr:.0e}".replace("e-0", "e-")
                 for lr in (rates[0], rates[-1]))
    for axes, runs, key, title in zip(panels.flat, (
        slow, slow, slow, slow, fast, sft), (
        "moved", "computing_share", "gap", "combined", "combined", "held_out"),
        (f"Moved, |p − p₀| / |p₀| (lr {low})",
         "Weights with another bfloat16 value",
         "Sampler to trainer, nats (dotted: largest)", f"Reward (lr {low})",
         f"Reward (lr {high})", "LoRA by SFT: held-out loss, nats"),
        strict=True):
      _precisions(axes, runs, key)
      axes.set_title(title)
      axes.set_xlabel("update")
    _precisions(panels[0, 2], slow, "gap_max", ls=":")
    panels[0, 0].ticklabel_format(axis="y", scilimits=(0, 0))
    panels[0, 1].yaxis.set_major_formatter(PERCENT)
    panels[0, 2].set_yscale("log")
    for axes in panels[1, :2]:
      axes.set_ylim(0, 2.05)
    figure.legend(
        handles=[matplotlib.lines.Line2D(
            [], [], label=label, color=colour, lw=width, alpha=alpha)
                 for label, colour, width, alpha in _PRECISIONS.values()],
        loc="outside upper center", frameon=False, ncols=4)


def _precisions(axes: matplotlib.axes.Axes, runs: Rows, key: str,
                ls: str = "-") -> None:
  """A panel of `precision`: a line per run; noisy metrics as running means."""
  if not runs:
    axes.annotate("not run", (0.5, 0.5), xycoords="axes fraction",
                  ha="center", va="center", color=GREY)
  order = list(_PRECISIONS)
  for run in sorted(runs, key=lambda run: order.index(run["form"])):
    _, colour, width, alpha = _PRECISIONS[run["form"]]
    steps, values = series(run["curve"], key)
    if key in ("combined", "gap", "gap_max"):
      values = running(values, len(values) // 16)
    axes.plot(steps, values, color=colour, lw=width, alpha=alpha, ls=ls)


@contextlib.contextmanager
def drawn(path: str | os.PathLike, width: float, height: float
           ) -> Iterator[matplotlib.figure.Figure]:
  """A figure, written to `path` as PNG when the block ends; without pyplot.

  Args:
    path: PNG to write.
    width, height: in inches.
  """
  with matplotlib.rc_context({
      "font.size": 11, "axes.titlesize": 12, "axes.titlelocation": "left",
      "axes.titleweight": "bold", "axes.titlepad": 10, "text.color": INK,
      "axes.edgecolor": "#bbbbbb", "axes.labelcolor": GREY,
      "xtick.color": GREY, "ytick.color": GREY, "axes.spines.top": False,
      "axes.spines.right": False, "axes.grid": True, "axes.grid.axis": "y",
      "grid.color": _PALE, "axes.axisbelow": True, "lines.linewidth": 2.0,
      "xtick.major.size": 0, "ytick.major.size": 0}):
    figure = matplotlib.figure.Figure(
        figsize=(width, height), layout="constrained")
    yield figure
    data = memory.BytesIO()
    figure.savefig(data, format="png", dpi=160, facecolor="white")
  io.write_bytes(path, data.getvalue())


@contextlib.contextmanager
def in_a_row(
    path: str | os.PathLike, panels: int
) -> Iterator[list[matplotlib.axes.Axes]]:
  """`panels` axes in one row, with the step as their x axis."""
  width = 5.2 * panels + (1.0 if panels == 1 else 0.0)
  with drawn(path, width, 3.5) as figure:
    axes = [figure.add_subplot(1, panels, i + 1) for i in range(panels)]
    yield axes
    for a in axes:
      a.set_xlabel("step")
      a.xaxis.set_major_locator(matplotlib.ticker.MaxNLocator(integer=True))
      a.margins(x=0.02)


def series(rows: Rows, key: str) -> tuple[np.ndarray, np.ndarray]:
  """(steps, values), float64, of the rows that have a value for `key`."""
  pairs = [(r["step"], r[key]) for r in rows if r.get(key) is not None]
  values = np.asarray(pairs, np.float64).reshape(-1, 2)
  return values[:, 0], values[:, 1]


def smooth(
    axes: matplotlib.axes.Axes, rows: Rows, key: str, colour: str
) -> tuple[np.ndarray, np.ndarray]:
  """Draws the values faintly and their centred running mean over them.

  Returns:
    (steps, running mean), float64.
  """
  steps, values = series(rows, key)
  mean = running(values, len(values) // 40)
  axes.plot(steps, values, color=colour, alpha=0.25, lw=1.0)
  axes.plot(steps, mean, color=colour, marker="o" if len(steps) == 1 else "")
  return steps, mean


def running(values: np.ndarray, half: int) -> np.ndarray:
  """Centred running mean over `half` values on either side (fewer at ends)."""
  sums = np.concatenate([[0.0], np.cumsum(values)])
  first = np.maximum(np.arange(len(values)) - half, 0)
  last = np.minimum(np.arange(len(values)) + half + 1, len(values))
  return (sums[last] - sums[first]) / (last - first)


def name_ends(axes: matplotlib.axes.Axes, ends: Sequence[tuple]) -> None:
  """Labels each line at its right end; labels that would overlap are moved.

  Args:
    axes: with the lines; its limits must be final.
    ends: (name, colour, steps, values) of each line.
  """
  ends = [e for e in ends if len(e[3])]
  low, high = axes.get_ylim()
  axes.set_ylim(low, high)
  apart, at = 0.08 * (high - low), -np.inf
  heights = {}
  for name, _, _, values in sorted(ends, key=lambda e: e[3][-1]):
    at = max(values[-1], at + apart)
    heights[name] = at
  over = at - high
  for name, colour, steps, _ in ends:
    y = heights[name] - max(over, 0.0)
    axes.annotate(
        name, (steps[-1], y), xytext=(7, 0), textcoords="offset points",
        va="center", color=colour, fontweight="bold", annotation_clip=False)
