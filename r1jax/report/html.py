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

Rows = Sequence[Mapping[str, Any]]


def write(
    path: str | os.PathLike, *, title: str, config: Mapping[str, Any],
    versions: Mapping[str, str], table: tuple[Sequence[str], Rows],
    figures: Sequence[tuple[str, str | os.PathLike]],
    problems: Rows, notes: Sequence[str] = ()) -> None:
  """Renders the report.

  Args:
    path: HTML file to write, whole or not at all.
    title: heading of the page.
    config: every flag as resolved; nested dictionaries are shown dotted.
    versions: packages and commit.
    table: (header, rows of cells), see `tables.comparison_cells`.
    figures: (caption, PNG file) each, embedded.
    problems: see `select`.
    notes: paragraphs above the table.

  Raises:
    OSError: a figure cannot be read, or the page cannot be written.
  """
  environment = jinja2.Environment(
      autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True,
      lstrip_blocks=True)
  source = importlib.resources.files(__package__).joinpath("report.html.j2")
  page = environment.from_string(source.read_text("utf-8")).render(
      title=title, config=_dotted(config), versions=versions,
      header=table[0], rows=table[1], problems=problems, notes=notes,
      figures=[(caption, _embedded(png)) for caption, png in figures])
  io.write_bytes(path, page.encode("utf-8", errors="replace"))


def select(
    workdir: str | os.PathLike, *, problems: int = 4, samples: int = 2
) -> list[dict[str, Any]]:
  """Rollouts to read: the first, middle and last steps of the same problems.

  Each problem is {"prompt", "reference", "steps": [(step, [row, ...]), ...]}
  for problems that were sampled at several stored steps; where too few recur,
  those of the last, middle and first step fill up.
  """
  steps = rollout_files.steps(workdir)
  chosen = sorted({*steps[:1], *steps[len(steps) // 2:][:1], *steps[-1:]})
  by_problem: dict[Any, dict[int, list]] = {}
  for step in chosen:
    for row in rollout_files.read(workdir, step):
      of_step = by_problem.setdefault(row["prompt_id"], {})
      of_step.setdefault(step, []).append(row)
  # Most recurrent first, then the latest; Python's sort keeps file order.
  ranked = sorted(
      by_problem.values(), key=lambda s: (len(s), max(s)), reverse=True)
  picked = []
  for of_step in ranked[:problems]:
    first = next(iter(of_step.values()))[0]
    picked.append({
        "prompt": first["prompt"], "reference": first.get("reference"),
        "steps": [(step, rows[:samples]) for step, rows in of_step.items()]})
  return picked


def _embedded(png: str | os.PathLike) -> str:
  data = base64.b64encode(epath.Path(png).read_bytes()).decode()
  return f"data:image/png;base64,{data}"


def _dotted(config: Mapping[str, Any], at: str = "") -> list[tuple[str, Any]]:
  lines = []
  for key, value in config.items():
    if isinstance(value, Mapping):
      lines += _dotted(value, f"{at}{key}.")
    else:
      lines.append((f"{at}{key}", value))
  return lines
