"""One report on several runs: models side by side, as the paper's tables.

  python -m experiments.report --runs=runs/eval_zero,runs/eval_r1
  python -m experiments.report --runs=zero=A,r1=B --published=R1-Zero,R1
  python -m experiments.report --runs=runs/sft,runs/helpful --out=runs/training

A run is a folder of experiments.evaluate or evaluate_safety, one that holds
several of them, or the --workdir of training. Writes OUT/report.html, which
needs nothing beside it, and OUT/report.md with OUT/figures.
"""

from __future__ import annotations

from absl import flags

from r1jax.evals import published
from r1jax.report import workdir as workdir_lib
from r1jax.stages.reports import run_report
from r1jax.stages.reports import runs as runs_lib

from . import start

RUNS = flags.DEFINE_string(
    "runs", "", "Folders, separated by commas, each perhaps as name=FOLDER.")
AGAINST = flags.DEFINE_string(
    "against", "", "The run that paired differences are from; default: the"
    " first that was evaluated.")
PUBLISHED = flags.DEFINE_string(
    "published", "", "Columns of the paper's own figures, marked as published:"
    f" all, or some of {', '.join(published.models())}.")
TITLE = flags.DEFINE_string("title", "Models side by side", "Heading.")
OUT = flags.DEFINE_string("out", "runs/report", "Folder to write.")


def main() -> None:
  runs = runs_lib.parse(RUNS.value)
  # Of the same runs a report is written anew, as they grow.
  workdir_lib.take_for("report.html", OUT.value, {
      "runs": RUNS.value, "against": AGAINST.value,
      "published": PUBLISHED.value}, workdir_lib.versions())
  path = run_report.write(
      OUT.value, runs, against=AGAINST.value,
      shown=published.choose(PUBLISHED.value), title=TITLE.value)
  print(f"\nreport: {path}", flush=True)


if __name__ == "__main__":
  start.run(main, devices=False)
