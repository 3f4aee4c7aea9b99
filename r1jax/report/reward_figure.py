"""The quality of a reward model in one figure."""

from __future__ import annotations

import io as memory
import os
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import matplotlib.figure
import matplotlib.ticker
import numpy as np

from r1jax.core import io

# Okabe and Ito's colours, which the colour-blind can tell apart.
_BLUE, _RED, _GREEN = "#0072B2", "#D55E00", "#009E73"
_INK, _GREY, _PALE = "#222222", "#6b6b6b", "#e6e6e6"
_MOST = 12  # most sources that are shown
_PERCENT = matplotlib.ticker.PercentFormatter(1.0, decimals=0)


def draw(evaluation: Mapping[str, Any], good: Sequence[float],
         bad: Sequence[float], lengths: Sequence[int],
         path: str | os.PathLike, *, blank: float | None = None) -> None:
  """Accuracy by source and length, scores, and calibration or scores by length.

  Args:
    evaluation: as `evals.preference` returns it; if it has "reliability", the
      calibration curve is drawn, else scores against length.
    good, bad: scores of preferred (good) answers and of the others.
    lengths: tokens of all answers, the good ones first.
    path: PNG to write.
    blank: score of an answer that shows nothing (see `rewards.models`), marked
      by a line.
  """
  with matplotlib.rc_context({
      "font.size": 10, "axes.titlesize": 11, "axes.titlelocation": "left",
      "axes.titleweight": "bold", "text.color": _INK,
      "axes.edgecolor": "#bbbbbb", "axes.labelcolor": _GREY,
      "xtick.color": _GREY, "ytick.color": _INK, "axes.spines.top": False,
      "axes.spines.right": False, "axes.grid": True, "grid.color": _PALE,
      "axes.axisbelow": True}):
    figure = matplotlib.figure.Figure(figsize=(11, 7), layout="constrained")
    (source, length), (scores, last) = figure.subplots(2, 2)
    _bars(source, evaluation["by_source"], "Accuracy by source")
    _bars(length, evaluation["by_length"], "Accuracy by length of the answer")
    length.set_ylabel("tokens")
    _histograms(scores, good, bad, blank)
    if "reliability" in evaluation:
      _calibration(last, evaluation)
    else:
      _by_length(last, evaluation, good, bad, lengths)
    data = memory.BytesIO()
    # Without date and version, so that equal data give equal bytes.
    figure.savefig(data, format="png", dpi=150, facecolor="white",
                   metadata={"Software": None})
  io.write_bytes(path, data.getvalue())


def _bars(axes, groups, title) -> None:
  names = sorted(groups, key=lambda n: -groups[n]["count"])[:_MOST]
  names = [name for name in groups if name in names]
  for y, name in enumerate(names):
    row = groups[name]
    axes.barh(y, row["accuracy"], 0.6, color=_BLUE)
    axes.annotate(f"{row['accuracy']:.0%} of {row['count']:,}",
                  (row["accuracy"], y), xytext=(4, 0), va="center",
                  textcoords="offset points", fontsize=8)
  axes.axvline(0.5, color=_GREY, lw=1, ls=(0, (5, 3)))
  axes.set_yticks(range(len(names)), names)
  axes.set_ylim(max(len(names), 3) - 0.4, -0.6)
  axes.set_xlim(0, 1.18)
  axes.xaxis.set_major_formatter(_PERCENT)
  axes.grid(axis="y", visible=False)
  axes.set_title(title)


def _histograms(axes, good, bad, blank) -> None:
  every = np.concatenate([np.asarray(good, float), np.asarray(bad, float)])
  low, high = (every.min(), every.max()) if len(every) else (0.0, 1.0)
  edges = np.linspace(low, max(high, low + 1e-6), 41)
  for values, colour, name in ((good, _GREEN, "preferred"), (bad, _RED,
                                                           "the others")):
    axes.hist(values, edges, color=colour, alpha=0.55, label=name)
  if blank is not None:
    axes.axvline(blank, color=_INK, lw=1.2, ls=(0, (2, 2)),
                 label=f"blank {blank:.3g}")
  axes.legend(frameon=False, fontsize=8)
  axes.set_title("Scores")


def _calibration(axes, evaluation) -> None:
  curve = evaluation["reliability"]
  said, share = ([row[k] for row in curve] for k in ("said", "found"))
  axes.plot([0, 1], [0, 1], color=_GREY, lw=1, ls=(0, (5, 3)))
  axes.plot(said, share, color=_BLUE, marker="o", ms=4)
  auroc = "" if evaluation["auroc"] is None else (
      f", AUROC {evaluation['auroc']:.3f}")
  axes.set_title(f"Calibration: ECE {evaluation['ece']:.3f}{auroc}")
  axes.set_xlabel("probability that the model gives")
  axes.set_ylabel("share that is good")
  axes.set_xlim(0, 1)
  axes.set_ylim(0, 1)


def _by_length(axes, evaluation, good, bad, lengths) -> None:
  size = len(good)
  for values, at, colour in ((good, lengths[:size], _GREEN),
                             (bad, lengths[size:], _RED)):
    axes.scatter(at, values, s=6, color=colour, alpha=0.35, lw=0)
  value = evaluation["length_correlation"]
  said = "" if value is None else f": correlation {value:+.2f}"
  axes.set_title(f"Score by length{said}")
  axes.set_xlabel("tokens of the answer")
