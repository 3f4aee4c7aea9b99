"""One report on several runs: report.md and a self-contained report.html."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

from etils import epath

from r1jax.evals import curves, estimators
from r1jax.evals import samples as samples_lib
from r1jax.report import (
  html,
  markdown,
  scaling_figure,
  stage_figures,
  tables,
)
from r1jax.stages.reports import comparison, training_report
from r1jax.stages.reports import runs as runs_lib
from r1jax.stages.reports.comparison import Runs

HTML, MARKDOWN = "report.html", "report.md"
_EVOLUTION = ("reasoning", "consensus", "reflective")
_QUESTIONS = 6  # questions that are shown with each model's answer


def write(out: str | os.PathLike, folders: Mapping[str, epath.Path], *,
          against: str = "", shown: Sequence[str] = (),
          title: str = "Models side by side") -> epath.Path:
  """Writes OUT/report.html, OUT/report.md and OUT/figures; prints the tables.

  Args:
    out: folder to write.
    folders: folders of evaluations or training, by the name of the column.
    against: the run that paired differences are taken from; by default the
      first that was evaluated.
    shown: published models to show (`evals.published.models`).
    title: the report's title.

  Returns:
    The path of the page.

  Raises:
    ValueError: a folder has neither evaluation nor training, or `against` is
      not the name of a run.
  """
  out = epath.Path(out)
  runs = {name: runs_lib.read(folder) for name, folder in folders.items()}
  evaluated = [name for name, run in runs.items() if run.problems]
  against = against or next(iter(evaluated or runs))
  if against not in runs:
    raise ValueError(f"against={against!r} is not a run; the runs are"
                     f" {', '.join(runs)}")
  made = [*comparison.all_tables(runs, against, shown),
          *training_report.tables(runs), training_report.cost(runs)]
  made = [table for table in made if table[2]]
  notes = [*comparison.NOTES] if evaluated else []
  notes += [comparison.PUBLISHED] if shown else []
  notes += comparison.differing(runs)
  drawn = draw(out / "figures", runs)
  for heading, header, rows in made:
    print(f"\n{heading}\n" + tables.render(*_texts(header, rows)))
  markdown.write(out / MARKDOWN, title=title, notes=notes, tables=made,
                 figures=drawn)
  html.write(
      out / HTML, title=title, config=_config(folders, against, shown),
      versions=_versions(runs), tables=made, figures=drawn,
      problems=questions(runs), notes=notes,
      about_problems="The same questions as each model answers them.")
  return out / HTML


def draw(folder: epath.Path, runs: Runs) -> list[tuple[str, epath.Path]]:
  """Draws all figures of the runs; returns (caption, path) of each."""
  drawn = []
  cells = {name: {
      source: comparison.ends(estimators.pass_at_1(problems.correct_QG))
      for source, problems in run.problems.items()}
           for name, run in runs.items() if run.problems}
  panels = [(source, comparison.title(runs, source))
            for source in dict.fromkeys(s for of in cells.values() for s in of)]
  if cells:
    drawn.append(("pass@1 with 95 % intervals", folder / "models.png"))
    stage_figures.models(cells, panels, drawn[-1][1])
  if by_part := comparison.part_cells(runs):
    drawn.append(("pass@1 by level, topic and language", folder / "parts.png"))
    scaling_figure.parts(by_part, drawn[-1][1])
  if tokens := comparison.token_lines(runs):
    drawn.append((
        "Majority of 1, 2, 4, ... samples against the tokens they take",
        folder / "tokens.png"))
    scaling_figure.tokens(tokens, drawn[-1][1])
  for name, run in runs.items():
    if run.training and runs_lib.evaluates(run.folder):
      rows = curves.of_run(run.folder, _EVOLUTION)
      drawn.append((f"{name} as it learns", folder / f"evolution_{name}.png"))
      stage_figures.self_evolution(
          run.training.rows, rows, drawn[-1][1], accuracy=(
              ("reasoning", "pass@1"), ("consensus", "majority")))
  return drawn + training_report.draw(folder, runs)


def questions(runs: Runs) -> list[dict[str, Any]]:
  """Some questions with each model's first answer, for `html.write`."""
  answered: dict[Any, dict[str, dict[str, Any]]] = {}
  for name, run in runs.items():
    for source, problems in run.problems.items():
      for row, correct_G, lengths_G, texts in zip(
          problems.rows, problems.correct_QG, problems.lengths_QG,
          problems.texts, strict=True):
        answered.setdefault((source, row["question"]), {})[name] = {
            "parts": {"accuracy": float(correct_G[0])},
            "length": int(lengths_G[0]), "completion": texts[0],
            "reference": row["reference"]}
  most = max(map(len, answered.values()), default=0)
  common = [item for item in answered.items() if len(item[1]) == most]
  step = max(1, len(common) // _QUESTIONS)
  return [{"question": question,
           "reference": next(iter(of.values()))["reference"],
           "steps": [(name, [row]) for name, row in of.items()]}
          for (_, question), of in common[::step][:_QUESTIONS]]


def _texts(header, rows) -> tuple[list[str], list[list[str]]]:
  return tables.plain([header])[0], tables.plain(rows)


def _config(folders, against, shown) -> dict[str, Any]:
  return {"runs": {name: str(path) for name, path in folders.items()},
          "against": against, "published": ", ".join(shown) or "none",
          "generations": samples_lib.GENERATIONS}


def _versions(runs: Runs) -> Mapping[str, str]:
  """Package versions of the first training run."""
  for run in runs.values():
    if run.training:
      return run.training.versions
  return {}
