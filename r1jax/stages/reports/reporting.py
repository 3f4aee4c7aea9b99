"""Figures and report.html of a GRPO run, from its files."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from etils import epath

from r1jax.core import io
from r1jax.core.config import check
from r1jax.evals.runner import EvalResult
from r1jax.report import evolution, figures, html, rollouts, tables, writer

# Evaluations by the model's name and the decoding method.
Results = Mapping[str, Mapping[str, EvalResult]]


def write(workdir: str | os.PathLike,
          results: Results | None = None, *,
          title: str = "R1-Zero") -> epath.Path:
  """Draws WORKDIR/figures/*.png and writes WORKDIR/report.html.

  Args:
    workdir: folder of a run with at least one step.
    results: further evaluations, for a table and a figure. (The dashed line of
      the learning curve is the run's own evaluation before its first step.)
    title: the page's title.

  Returns:
    The path of the report.
  """
  workdir = epath.Path(workdir)
  drawn = draw(workdir)
  if results:
    drawn.insert(0, ("Accuracy by decoding",
                     workdir / "figures" / "decodings.png"))
    figures.decodings({name: cells(ways) for name, ways in results.items()},
                      drawn[0][1])
  saved = io.read_json(workdir / "config.json")
  path = workdir / "report.html"
  html.write(path, title=title, config=saved["config"],
             versions=saved["versions"],
             tables=[("Results",
                      *tables.comparison_cells(all_cells(results or {}))),
                     ("Rewards by domain",
                      *domain_cells(writer.read(workdir)))],
             figures=drawn, problems=html.select(workdir))
  return path


def draw(workdir: str | os.PathLike) -> list[tuple[str, epath.Path]]:
  """Draws WORKDIR/figures/*.png; returns (caption, path) of each.

  Raises:
    ValueError: the workdir has no step's metrics.
  """
  rows = writer.read(workdir)
  check(bool(rows), f"{workdir} has no metrics; give the --workdir of a run"
        " that has made a step")
  evals = _evaluations(rows)
  folder = epath.Path(workdir) / "figures"
  drawn = [("Rewards", folder / "rewards.png"),
           ("Entropy and KL", folder / "entropy_kl.png")]
  figures.reward_curves(rows, drawn[0][1])
  figures.entropy_and_kl(rows, drawn[1][1])
  if domain_cells(rows)[1]:
    drawn.insert(0, ("Rewards by domain", folder / "domains.png"))
    figures.by_domain(rows, drawn[0][1])
  if evals:
    drawn.insert(0, ("Accuracy and response length",
                     folder / "learning_curves.png"))
    figures.learning_curves(rows, evals, evals[0], drawn[0][1])
    if levels := _levels(rows):
      drawn.append(("Accuracy by difficulty", folder / "by_level.png"))
      figures.by_level(levels, drawn[-1][1])
  return drawn


def by_step(workdir: str | os.PathLike) -> dict[str, dict[str, Any]]:
  """The evaluations during a run, in the form for `report.tables`."""
  return {f"step {row['step']}": row | {
      "interval": (row["pass1_low"], row["pass1_high"])}
          for row in _evaluations(writer.read(workdir))}


def change_cells(workdir: str | os.PathLike, most: int = 10
                 ) -> tuple[list[str], list[list[str]]]:
  """(header, cells): the first evaluation of a run against its last.

  Rows are the `most` questions whose answers' length changed most, and the mean
  of all questions.

  Raises:
    ValueError: the run has not stored two evaluations.
  """
  kind = rollouts.EVALUATIONS
  steps = rollouts.steps(workdir, kind)
  check(len(steps) > 1, f"{workdir} has stored evaluations of steps {steps},"
        " but two are needed; give a run that evaluated (eval_every)")
  changes = evolution.changes(*(
      rollouts.read(workdir, step, kind) for step in (steps[0], steps[-1])))
  check(bool(changes), f"the evaluations of steps {steps[0]} and {steps[-1]} in"
        f" {workdir} share no question")
  names = list(dict.fromkeys(
      name for row in changes for name in row
      if name not in ("id", "question")))
  mean = {name: np.mean([row[name] for row in changes if name in row], axis=0)
          for name in names}
  changes.sort(key=lambda row: -abs(row["length"][1] - row["length"][0]))
  rows = [*changes[:most],
          mean | {"question": f"mean of {len(changes)} questions"}]
  header = [f"step {steps[0]} -> {steps[-1]}", *names]
  return header, [
      [_short(row["question"]), *(_change(name, row.get(name))
                                  for name in names)] for row in rows]


def words_figure(workdir: str | os.PathLike, words: Sequence[str] = ()
                 ) -> epath.Path:
  """Draws WORKDIR/figures/words.png; returns its path.

  Per step, the mean number of the paper's reflective words in a training
  sample, and that of each of `words`.
  """
  rows = []
  for step in rollouts.steps(workdir):
    texts = [row["completion"] for row in rollouts.read(workdir, step)]
    rows.append({"step": step, "reflective": evolution.occurrences(texts)} | {
        word: evolution.occurrences(texts, [word]) for word in words})
  path = epath.Path(workdir) / "figures" / "words.png"
  figures.curves(rows, path, ["reflective", *words],
                 "Words per training sample")
  return path


def cells(results: Mapping[str, EvalResult]) -> dict[str, dict[str, Any]]:
  """Evaluations in the form for `report.tables`; one sample has no majority."""
  return {name: {
      "pass1": r.pass1, "interval": (r.pass1_low, r.pass1_high),
      "format": r.format, "length": r.mean_length} | (
          {"maj": r.maj_k, "k": r.n_samples} if r.n_samples > 1 else {})
          for name, r in results.items()}


def all_cells(results: Results) -> dict[str, dict[str, Any]]:
  """`cells` of all, named by the model and the decoding method."""
  return cells({f"{name}, {way}": result for name, ways in results.items()
                for way, result in ways.items()})


def domain_cells(rows: Sequence[Mapping[str, float]]
                 ) -> tuple[list[str], list[list[str]]]:
  """(header, cells): mean rewards by domain, early and late in the run.

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


def _evaluations(rows):
  return [{"step": row["step"], "pass1": row["eval/pass1"],
           "pass1_low": row["eval/pass1_low"],
           "pass1_high": row["eval/pass1_high"], "maj": row["eval/maj"],
           "k": int(row["eval/k"]), "format": row.get("eval/format"),
           "length": row["eval/length_mean"]}
          for row in rows if "eval/pass1" in row]


def _change(name, ends):
  if ends is None:  # a reward that does not judge this question
    return "-"
  return " -> ".join(f"{end:.{1 if name == 'length' else 2}f}" for end in ends)


def _short(question):
  line = " ".join(question.split())
  return line if len(line) <= 60 else line[:57] + "..."


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
