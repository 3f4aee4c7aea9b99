"""report.html: one self-contained page about a run.

Model output is untrusted: Jinja escapes it, and the page's Content-Security-
Policy forbids scripts and remote resources as well.
"""

from __future__ import annotations

import base64
import importlib.resources
import os
from collections.abc import Mapping, Sequence
from typing import Any

import jinja2
from etils import epath

from r1jax.core import io
from r1jax.report import rollouts as rollout_files
from r1jax.report import tables as tables_lib
from r1jax.report.tables import Table

Rows = Sequence[Mapping[str, Any]]


def write(
    path: str | os.PathLike, *, title: str, config: Mapping[str, Any],
    versions: Mapping[str, str], tables: Sequence[Table],
    figures: Sequence[tuple[str, str | os.PathLike]],
    problems: Rows, notes: Sequence[str] = (), claims: Rows = (),
    about_problems: str = "The same held-out problems at the first, a middle"
    " and the last evaluation.") -> None:
  """Renders the report.

  Args:
    path: HTML file to write, whole or not at all.
    title: heading of the page.
    config: the resolved value of every flag; keys of nested dictionaries are
      joined by dots.
    versions: of packages, and the commit.
    tables: (heading, header, rows of cells) each; a cell is a text or a
      `tables.Cell`. A table without rows is left out.
    figures: (caption, PNG file) each, embedded.
    problems: samples to show, as `select` returns them.
    notes: paragraphs below the title.
    claims: {"claim", "verdict", "must", "lines" (of text)} each, shown between
      notes and tables.
    about_problems: the line above the problems.

  Raises:
    OSError: a figure cannot be read, or the page cannot be written.
  """
  page = _render(
      "report.html.j2", title=title, config=_dotted(config), versions=versions,
      tables=[tables_lib.noted(table) for table in tables if table[2]],
      problems=problems,
      notes=notes, claims=claims, about_problems=about_problems,
      figures=[(caption, _embedded(png)) for caption, png in figures])
  io.write_bytes(path, page.encode("utf-8", errors="replace"))


def select(
    workdir: str | os.PathLike, *, problems: int = 4, samples: int = 2
) -> list[dict[str, Any]]:
  """Samples of the same problems at the first, middle and last evaluation.

  Args:
    workdir: of a run that stored its evaluations' samples.
    problems: at most so many, spread evenly over the evaluation set.
    samples: at most so many of each problem and evaluation.

  Returns:
    {"question", "reference", "steps": [(step, [row, ...]), ...]} of each
    problem, with rows as `evals.runner` stores them.
  """
  kind = rollout_files.EVALUATIONS
  steps = rollout_files.steps(workdir, kind)
  chosen = sorted({*steps[:1], *steps[len(steps) // 2:][:1], *steps[-1:]})
  by_problem: dict[Any, dict[int, list]] = {}
  for step in chosen:
    for row in rollout_files.read(workdir, step, kind):
      of_step = by_problem.setdefault(row["id"], {})
      of_step.setdefault(step, []).append(row)
  common = [of_step for of_step in by_problem.values()
            if len(of_step) == len(chosen)]
  picked = []
  for of_step in common[::max(1, len(common) // problems)][:problems]:
    first = next(iter(of_step.values()))[0]
    picked.append({
        "question": first["question"], "reference": first["reference"],
        "steps": [(step, rows[:samples]) for step, rows in of_step.items()]})
  return picked


def side_by_side(problems: Rows) -> str:
  """The problems of `select` as HTML with a column per step, for a notebook."""
  return _render("problems.html.j2", problems=problems)


def _render(template: str, **values: Any) -> str:
  folder = importlib.resources.files(__package__)
  environment = jinja2.Environment(
      loader=jinja2.FunctionLoader(
          lambda name: folder.joinpath(name).read_text("utf-8")),
      autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True,
      lstrip_blocks=True)
  return environment.get_template(template).render(**values)


def _embedded(png: str | os.PathLike) -> tuple[str, int]:
  """(data URL, width in CSS pixels), so that all figures have one scale."""
  data = epath.Path(png).read_bytes()
  width = int.from_bytes(data[16:20], "big")  # from the PNG's IHDR chunk
  return f"data:image/png;base64,{base64.b64encode(data).decode()}", width // 2


def _dotted(config: Mapping[str, Any], at: str = "") -> list[tuple[str, Any]]:
  lines = []
  for key, value in config.items():
    if isinstance(value, Mapping):
      lines += _dotted(value, f"{at}{key}.")
    else:
      lines.append((f"{at}{key}", value))
  return lines
