"""Draws the data flow of a GRPO step to docs/dataflow.png.

  python docs/dataflow.py
"""

from __future__ import annotations

import pathlib

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot as plt
from matplotlib.patches import FancyBboxPatch

DEVICE, HOST, VALUE = "#dbe7fb", "#fdebd0", "#2f3640"

# (x, y, what happens, module, colour)
BOXES = [
    (0, 2, "questions", "data/streams/pipeline.py", HOST),
    (1, 2, "rollout\nprefill, then decode", "rollout/engine.py", DEVICE),
    (2, 2, "packing\nbest fit into rows", "data/streams/minibatches.py", HOST),
    (3, 2, "old and reference\nlog-probabilities", "training/logprobs.py",
     DEVICE),
    (2, 1, "rewards\nin child processes", "rewards/", HOST),
    (3, 1, "advantages\nwithin the group", "training/advantages.py", HOST),
    (3, 0, "update\nby micro-batches", "training/step.py", DEVICE),
    (1, 0, "policy\nfloat32 masters", "stages/learner.py", DEVICE),
]
WIDTH, HEIGHT, DX, DY = 3.2, 0.95, 4.85, 1.75

# (from, to, value passed on): from and to are indices into BOXES
ARROWS = [
    (0, 1, "Prompt"), (1, 2, "token ids"), (1, 4, "text"),
    (2, 3, "TokenBatch"), (4, 5, "Scored"), (3, 6, ""), (5, 6, ""),
    (6, 7, "TrainState"), (7, 1, "parameters, laid out to decode"),
]


def centre(box):
  return box[0] * DX, box[1] * DY


def edge(a, b):
  """Where the line between the centres of boxes a and b leaves box a."""
  (xa, ya), (xb, yb) = a, b
  dx, dy = xb - xa, yb - ya
  scale = min(WIDTH / 2 / abs(dx) if dx else 9, HEIGHT / 2 / abs(dy) if dy
              else 9)
  return xa + dx * scale, ya + dy * scale


def draw(path: pathlib.Path) -> None:
  """Writes the figure as PNG."""
  figure, axes = plt.subplots(figsize=(11.4, 4.2), dpi=150)
  for box in BOXES:
    (x, y), (_, _, text, where, colour) = centre(box), box
    axes.add_patch(FancyBboxPatch(
        (x - WIDTH / 2, y - HEIGHT / 2), WIDTH, HEIGHT, linewidth=1,
        boxstyle="round,pad=0,rounding_size=0.12", facecolor=colour,
        edgecolor="#7f8c9a"))
    axes.text(x, y + 0.13, text, ha="center", va="center", fontsize=9)
    axes.text(x, y - 0.36, where, ha="center", va="center", fontsize=6.2,
              family="monospace", color="#57606f")
  for first, last, value in ARROWS:
    a, b = centre(BOXES[first]), centre(BOXES[last])
    start, end = edge(a, b), edge(b, a)
    bend = "arc3"
    if (first, last) == (3, 6):  # around the advantages
      start, end = ((x + WIDTH / 2, y) for x, y in (a, b))
      bend = "arc3,rad=-0.5"
    axes.annotate("", end, start, arrowprops={
        "arrowstyle": "-|>", "color": VALUE, "lw": 1.2,
        "connectionstyle": bend})
    middle = (start[0] + end[0]) / 2, (start[1] + end[1]) / 2
    if a[1] == b[1]:  # beside the line, which may be short
      middle = middle[0], middle[1] + 0.2
    axes.text(*middle, value, ha="center", va="center", fontsize=8.5,
              color=VALUE, style="italic",
              bbox={"facecolor": "white", "edgecolor": "none", "pad": 1})
  for y, colour, what in ((1.35, DEVICE, "on the device"),
                          (0.9, HOST, "on the host")):
    axes.add_patch(FancyBboxPatch(
        (-WIDTH / 2, y), 0.3, 0.22, facecolor=colour, edgecolor="#7f8c9a",
        boxstyle="round,pad=0,rounding_size=0.05"))
    axes.text(-WIDTH / 2 + 0.45, y + 0.11, what, fontsize=8.5, va="center")
  axes.set_xlim(-1.7, 3 * DX + 2.9)
  axes.set_ylim(-0.7, 2 * DY + 0.7)
  axes.axis("off")
  figure.savefig(path, bbox_inches="tight", facecolor="white")


if __name__ == "__main__":
  draw(pathlib.Path(__file__).with_name("dataflow.png"))
