"""report.html: one self-contained page about a run.

Everything that a model wrote is hostile: Jinja escapes it, and the page's own
policy forbids scripts and remote resources besides.
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
    config: every flag as resolved; nested dictionaries are shown dotted.
    versions: packages and commit.
    tables: (heading, header, rows of cells) each, a cell a text or a
      `tables.Cell`; one without rows is left out.
    figures: (caption, PNG file) each, embedded.
    problems: see `select`.
    notes: paragraphs above the tables.
    claims: {"claim", "verdict", "must", "lines" (of text)} each, above them.
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
  """The same problems as the first, a middle and the last evaluation saw them.

  Each is {"question", "reference", "steps": [(step, [row, ...]), ...]}, the
  rows as `evals.runner` stores them. Problems are taken evenly over the set.
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
  """The problems of `select` as HTML, a column a step, for a notebook."""
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
  """(data URL, width in CSS pixels): all figures at one scale."""
  data = epath.Path(png).read_bytes()
  width = int.from_bytes(data[16:20], "big")  # of the PNG's first chunk
  return f"data:image/png;base64,{base64.b64encode(data).decode()}", width // 2


def _dotted(config: Mapping[str, Any], at: str = "") -> list[tuple[str, Any]]:
  lines = []
  for key, value in config.items():
    if isinstance(value, Mapping):
      lines += _dotted(value, f"{at}{key}.")
    else:
      lines.append((f"{at}{key}", value))
  return lines
