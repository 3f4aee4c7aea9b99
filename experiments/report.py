"""Writes one report on several runs, with tables like the paper's.

  python -m experiments.report --runs=runs/eval_zero,runs/eval_r1
  python -m experiments.report --runs=zero=A,r1=B --published=R1-Zero,R1
  python -m experiments.report --runs=runs/sft,runs/helpful --out=runs/training

A run is a folder of experiments.evaluate or evaluate_safety, a folder with
several of them, or the --workdir of training. Writes OUT/report.html, which is
self-contained, and OUT/report.md with OUT/figures.
"""

from __future__ import annotations

from absl import flags

from r1jax.evals import published
from r1jax.report import workdir as workdir_lib
from r1jax.stages.reports import run_report
from r1jax.stages.reports import runs as runs_lib

from . import start

RUNS = flags.DEFINE_string(
    "runs", "", "Folders of the runs, separated by commas, optionally as"
    " name=FOLDER.")
AGAINST = flags.DEFINE_string(
    "against", "", "Name of the run that paired differences are taken from;"
    " default: the first that was evaluated.")
PUBLISHED = flags.DEFINE_string(
    "published", "", "Models whose figures in the paper are shown too, marked"
    f" as published: all, or some of {', '.join(published.models())}.")
TITLE = flags.DEFINE_string(
    "title", "Models side by side", "Heading of the report.")
OUT = flags.DEFINE_string("out", "runs/report", "Folder to write.")


def main() -> None:
  runs = runs_lib.parse(RUNS.value)
  # A report on the same runs is overwritten, because runs grow.
  workdir_lib.take_for("report.html", OUT.value, {
      "runs": RUNS.value, "against": AGAINST.value,
      "published": PUBLISHED.value}, workdir_lib.versions())
  path = run_report.write(
      OUT.value, runs, against=AGAINST.value,
      shown=published.choose(PUBLISHED.value), title=TITLE.value)
  print(f"\nreport: {path}", flush=True)


if __name__ == "__main__":
  start.run(main, devices=False)
