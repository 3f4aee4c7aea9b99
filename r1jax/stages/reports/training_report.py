"""Reports on SFT, pre-training and reward-model runs, alone or side by side."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from etils import epath

from r1jax.report import html, training_figure, writer
from r1jax.report.tables import Cell, Table, missing
from r1jax.report.training_figure import Panel
from r1jax.stages import reward
from r1jax.stages.reports import r1_cells
from r1jax.stages.reports import runs as runs_lib
from r1jax.stages.reports.runs import (
  PRETRAINING,
  REWARD,
  RL,
  SFT,
  Run,
  Training,
)

# The panels of each kind's figure.
PANELS: dict[str, tuple[Panel, ...]] = {
    PRETRAINING: (
        Panel("Cross-entropy (nats per token)", "loss/cross_entropy"),
        Panel("MTP loss (token after next)", "loss/mtp"),
        Panel("Gradient norm", "grad_norm")),
    SFT: (
        Panel("Cross-entropy of answers (nats per token)",
              "loss/cross_entropy", "eval/cross_entropy"),
        Panel("Learning rate", "learning_rate"),
        Panel("Gradient norm", "grad_norm")),
    REWARD: (
        Panel("Loss", "loss", "eval/loss"),
        Panel("Accuracy", "accuracy", "eval/accuracy", share=True),
        Panel("Gradient norm", "grad_norm")),
    RL: (
        Panel("Combined reward", "reward/combined"),
        Panel("pass@1, held out", "", "eval/pass1", share=True),
        Panel("Mean response length (tokens)", "rollout/length_mean"))}
# The main metric of each kind, and that on held-out data.
_TOLD = {PRETRAINING: ("loss/cross_entropy", ""),
         SFT: ("loss/cross_entropy", "eval/cross_entropy"),
         REWARD: ("accuracy", "eval/accuracy"),
         RL: ("reward/combined", "eval/pass1")}

Runs = Mapping[str, Run]


def tables(runs: Runs) -> list[Table]:
  """Tables of training runs, one row each, and of reward models' validation."""
  rows = [_row(name, run.training) for name, run in runs.items()
          if run.training]
  about = {name: run.training.about for name, run in runs.items()
           if run.training and run.training.about}
  return [("Training", [
      "run", "kind", "from", "data", "updates", "tokens an update", "measured",
      "first tenth", "last tenth", "held out", "skipped"], rows),
          ("Reward models, held out", *r1_cells.reward_models(about))]


def draw(folder: epath.Path, runs: Runs) -> list[tuple[str, epath.Path]]:
  """Draws one figure per kind of training; returns (caption, path) of each.

  Figures of reward models are included as they are.
  """
  drawn = []
  for kind, panels in PANELS.items():
    of_kind = {name: run.training.rows for name, run in runs.items()
               if run.training and run.training.kind == kind}
    path = folder / f"{kind.replace(' ', '_').replace('-', '_').lower()}.png"
    if of_kind and training_figure.draw(of_kind, panels, path):
      drawn.append((f"{kind[0].upper()}{kind[1:]}", path))
  for name, run in runs.items():
    file = run.folder / reward.FIGURE
    if run.training and run.training.kind == REWARD and file.exists():
      drawn.append((f"The reward model {name}", file))
  return drawn


def write(workdir: str | os.PathLike) -> epath.Path:
  """Writes WORKDIR/report.html of one training run; returns its path.

  Raises:
    ValueError: there is no run with a step.
  """
  folder = epath.Path(workdir)
  run = runs_lib.read(folder)
  if run.training is None:
    raise ValueError(f"{workdir} has no metrics; give the --workdir of a run"
                     " that has made a step")
  runs = {folder.name: run}
  kind = run.training.kind
  html.write(
      folder / "report.html", title=f"{kind[0].upper()}{kind[1:]}:"
      f" {folder.name}", config=run.training.config,
      versions=run.training.versions, tables=[*tables(runs), cost(runs)],
      figures=draw(folder / "figures", runs), problems=[])
  return folder / "report.html"


def tell(workdir: str | os.PathLike) -> None:
  """Writes the report and prints its path; nothing for a run without a step."""
  if writer.read(workdir):
    print(f"report: {write(workdir)}", flush=True)


def cost(runs: Runs) -> Table:
  """The table of recorded costs."""
  columns = (("seconds", "seconds", "{:,.0f}"), ("chips", "chips", "{:g}"),
             ("chip_hours", "chip-hours", "{:,.3g}"),
             ("tokens", "tokens", "{:,.0f}"), ("flops", "FLOPs", "{:.2e}"))
  rows = [[name, *(form.format(run.cost[key]) if run.cost.get(key) is not None
                   else missing("it was not recorded")
                   for key, _, form in columns)]
          for name, run in runs.items() if run.cost]
  return "Cost", ["run", *(title for _, title, _ in columns)], rows


def _row(name: str, training: Training) -> list[str | Cell]:
  config, rows = training.config, training.rows
  key, held_out = _TOLD[training.kind]
  early, late = r1_cells.early_late(rows, key)
  held = [row[held_out] for row in rows if row.get(held_out) is not None]
  tokens = (config.get("rows") or config.get("micro_rows", 0)) * config.get(
      "row_length", 0)
  return [
      name, training.kind, str(config.get("init", "-")), _data(config),
      str(rows[-1]["step"]),
      f"{tokens:,}" if training.kind != RL else
      f"{config['questions']} questions × {config['samples']}",
      key, early, late,
      f"{held[0]:.3f} → {held[-1]:.3f}" if held else missing(
          "nothing was held out, or not yet measured"),
      str(int(sum(row.get("skipped") or 0 for row in rows)))]


def _data(config: Mapping[str, Any]) -> str:
  if "corpus" in config:
    return "embedded pages"
  data = next((config[name] for name in ("sft_data", "reward_data", "data")
               if name in config), None)
  if isinstance(data, Mapping):
    return ", ".join(epath.Path(path).name for path in data)
  return str(data or "-")
