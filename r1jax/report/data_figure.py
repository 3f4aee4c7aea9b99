"""How many prompts a data set has by domain, and how long they are."""

from __future__ import annotations

import io as memory
import os
from collections.abc import Mapping, Sequence

import matplotlib
import matplotlib.figure
import matplotlib.ticker
import numpy as np

from r1jax.core import io

# Okabe and Ito's colours, which the colour-blind can tell apart.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
_INK, _GREY, _PALE = "#222222", "#6b6b6b", "#e6e6e6"
_BINS = 40
_HEIGHT = 0.72  # of a histogram; a domain's row has height 1
_NAMED = 4  # most sources that are named under a bar


def draw(lengths: Mapping[str, Mapping[str, Sequence[float]]],
         path: str | os.PathLike) -> None:
  """Counts (left) and distributions of length (right), one row per domain.

  A bar has a segment for every source. A distribution is a histogram with
  logarithmic bins, scaled to the same height in every row, with a tick at the
  median.

  Args:
    lengths: {domain: {source: number of words of every prompt}}.
    path: PNG to write.
  """
  domains = sorted(lengths)
  with matplotlib.rc_context({
      "font.size": 11, "axes.titlesize": 12, "axes.titlelocation": "left",
      "axes.titleweight": "bold", "axes.titlepad": 10, "text.color": _INK,
      "axes.edgecolor": "#bbbbbb", "axes.labelcolor": _GREY,
      "xtick.color": _GREY, "ytick.color": _INK, "axes.spines.top": False,
      "axes.spines.right": False, "axes.spines.left": False,
      "axes.grid": True, "axes.grid.axis": "x", "grid.color": _PALE,
      "axes.axisbelow": True, "xtick.major.size": 0, "ytick.major.size": 0}):
    figure = matplotlib.figure.Figure(
        figsize=(11, 1.4 + 0.9 * max(len(domains), 2)), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    _counts(left, lengths, domains)
    _distributions(right, lengths, domains)
    left.set_yticks(range(len(domains)), domains)
    left.set_ylim(len(domains) - 0.5 + 0.1, -0.5 - 0.1)  # the first on top
    data = memory.BytesIO()
    # Without date and version, so that equal data give equal bytes.
    figure.savefig(data, format="png", dpi=160, facecolor="white",
                   metadata={"Software": None})
  io.write_bytes(path, data.getvalue())


def _counts(axes, lengths, domains) -> None:
  most = max((sum(map(len, lengths[d].values())) for d in domains), default=1)
  for y, domain in enumerate(domains):
    start, colour = 0, _COLOURS[y % len(_COLOURS)]
    sources = sorted(lengths[domain].items())
    for i, (_, of_source) in enumerate(sources):
      axes.barh(y, len(of_source), _HEIGHT * 0.7, left=start, color=colour,
                alpha=1.0 if i % 2 == 0 else 0.6, edgecolor="white", lw=1)
      start += len(of_source)
    axes.annotate(f"{start:,}", (start, y), xytext=(5, 0), va="center",
                  textcoords="offset points", color=_INK, fontweight="bold")
    names = [f"{source} {len(of_source):,}"
             for source, of_source in sources[:_NAMED]]
    if len(sources) > _NAMED:
      names.append(f"{len(sources) - _NAMED} more")
    axes.annotate(" · ".join(names), (0, y + _HEIGHT * 0.35), xytext=(2, -2),
                  textcoords="offset points", va="top", color=_GREY,
                  fontsize=8)
  axes.set_xlim(0, most * 1.15)
  axes.xaxis.set_major_locator(
      matplotlib.ticker.MaxNLocator(5, integer=True))
  axes.xaxis.set_major_formatter(
      matplotlib.ticker.FuncFormatter(lambda x, _: f"{x:,.0f}"))
  axes.set_title("Prompts by domain and source")
  axes.set_xlabel("prompts")


def _distributions(axes, lengths, domains) -> None:
  values = {domain: np.maximum(1.0, np.concatenate(
      [np.zeros(0), *lengths[domain].values()])) for domain in domains}
  longest = max((v.max() for v in values.values() if len(v)), default=10.0)
  shortest = min((v.min() for v in values.values() if len(v)), default=1.0)
  edges = np.geomspace(
      shortest / 1.1, max(longest * 1.1, 10 * shortest), _BINS + 1)
  for y, domain in enumerate(domains):
    mine, colour = values[domain], _COLOURS[y % len(_COLOURS)]
    if not len(mine):
      continue
    counts, _ = np.histogram(mine, edges)
    base = y + _HEIGHT / 2
    heights = _HEIGHT * counts / counts.max()
    axes.stairs(base - heights, edges, baseline=base, fill=True, color=colour,
                alpha=0.85)
    median = float(np.median(mine))
    axes.plot([median, median], [base - _HEIGHT, base], color=_INK, lw=1.5)
    axes.annotate(f"median {median:,.0f}", (median, base - _HEIGHT),
                  xytext=(0, 2), textcoords="offset points", va="bottom",
                  ha="center", color=_INK, fontsize=9)
  axes.set_xscale("log")
  axes.xaxis.set_major_formatter(
      matplotlib.ticker.FuncFormatter(lambda x, _: f"{x:,.0f}"))
  axes.xaxis.set_minor_formatter(matplotlib.ticker.NullFormatter())
  axes.set_title("Length of the prompts")
  axes.set_xlabel("words (logarithmic)")
