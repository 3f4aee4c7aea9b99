"""Figures and report.html of a GRPO run, from what it left on disk."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

from etils import epath

from r1jax.core import io
from r1jax.evals.runner import EvalResult
from r1jax.report import figures, html, tables, writer


def write(workdir: str | os.PathLike,
          results: Mapping[str, EvalResult] | None = None, *,
          title: str = "R1-Zero") -> epath.Path:
  """Draws WORKDIR/figures/*.png and writes WORKDIR/report.html.

  Args:
    workdir: of a run with at least one step.
    results: evaluations by the model's name, for the table. The dashed line of
      the learning curve is the run's own evaluation before its first step.
    title: of the report.

  Returns:
    The path of the report.
  """
  workdir = epath.Path(workdir)
  rows = writer.read(workdir)
  evals = [{"step": row["step"], "pass1": row["eval/pass1"],
            "pass1_low": row["eval/pass1_low"],
            "pass1_high": row["eval/pass1_high"], "maj": row["eval/maj"],
            "k": int(row["eval/k"])} for row in rows if "eval/pass1" in row]
  results = results or {}
  folder = workdir / "figures"
  folder.mkdir(parents=True, exist_ok=True)
  domains = domain_cells(rows)
  drawn = [("Rewards", folder / "rewards.png"),
           ("Entropy and KL", folder / "entropy_kl.png")]
  figures.reward_curves(rows, drawn[0][1])
  figures.entropy_and_kl(rows, drawn[1][1])
  if domains[1]:
    drawn.insert(0, ("Rewards by domain", folder / "domains.png"))
    figures.by_domain(rows, drawn[0][1])
  if evals:
    drawn.insert(0, ("Accuracy and response length",
                     folder / "learning_curves.png"))
    figures.learning_curves(rows, evals, evals[0], drawn[0][1])
    if levels := _levels(rows):
      drawn.append(("Accuracy by difficulty", folder / "by_level.png"))
      figures.by_level(levels, drawn[-1][1])
  saved = io.read_json(workdir / "config.json")
  path = workdir / "report.html"
  html.write(path, title=title, config=saved["config"],
             versions=saved["versions"],
             tables=[("Results", *tables.comparison_cells(cells(results))),
                     ("Rewards by domain", *domains)],
             figures=drawn, problems=html.select(workdir))
  return path


def cells(results: Mapping[str, EvalResult]) -> dict[str, dict[str, Any]]:
  """Evaluations as `report.tables` takes them."""
  return {name: {
      "pass1": r.pass1, "interval": (r.pass1_low, r.pass1_high),
      "maj": r.maj_k, "k": r.n_samples, "format": r.format,
      "length": r.mean_length} for name, r in results.items()}


def domain_cells(rows: Sequence[Mapping[str, float]]
                 ) -> tuple[list[str], list[list[str]]]:
  """(header, cells): mean rewards by domain, early in the run and late.

  Early and late are the first and the last tenth of the steps, at least one.
  """
  names = sorted({k for row in rows for k in row if k.startswith("domain/")})
  rules = sorted({name.split("/")[2] for name in names})
  header = ["domain", *(f"{rule}, {when}" for rule in rules
                        for when in ("early", "late"))]
  domains = sorted({name.split("/")[1] for name in names})
  return header, [
      [domain, *(cell for rule in rules
                 for cell in _early_late(rows, f"domain/{domain}/{rule}"))]
      for domain in domains]


def _early_late(rows, name):
  values = [row[name] for row in rows if name in row]
  if not values:
    return ["-", "-"]
  tenth = max(1, len(values) // 10)
  return [f"{sum(part) / tenth:.2f}"
          for part in (values[:tenth], values[-tenth:])]


def _levels(rows):
  prefix = "eval/level_"
  return [{"step": row["step"], "level": int(name.removeprefix(prefix)),
           "pass1": value}
          for row in rows for name, value in row.items()
          if name.startswith(prefix)]
