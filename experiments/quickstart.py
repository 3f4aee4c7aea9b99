"""R1-Zero in minutes: the embedded base model learns to reason by GRPO.

  bash launch/quickstart.sh [--seed=1]

Evaluates the base on the held-out test split, trains it by GRPO with accuracy
and format rewards only, evaluates it again, and writes figures and a report.
Each evaluation uses three decoding methods, because sampling at temperature 1
alone would understate what the base can do. The same command resumes after an
interruption.
"""

from __future__ import annotations

import time

from absl import flags
from etils import epath

from r1jax.core import io
from r1jax.evals.runner import EvalResult
from r1jax.models import config as model_config
from r1jax.report import tables, workdir
from r1jax.sharding import processes
from r1jax.stages import zero
from r1jax.stages.reports import reporting

from . import common, start

SEED = flags.DEFINE_integer(
    "seed", 0, "Seed of the order of prompts and of the samples.",
    lower_bound=0)
WORKDIR = flags.DEFINE_string(
    "workdir", "runs/quickstart", "Folder to write, with a subfolder per seed.")
STEPS = flags.DEFINE_integer("steps", 80, "GRPO steps (rollouts).")


def main() -> None:
  began = time.monotonic()
  cfg = zero.config(SEED.value, STEPS.value)
  top = epath.Path(WORKDIR.value)
  folder = top / f"seed_{cfg.seed}"
  init = init_of(folder)
  if processes.from_writer(lambda: complete(top, folder)):
    return
  base, tokenizer = common.policy(cfg.seed, common.mesh(), init)
  print(f"base: {model_config.describe(base.model.cfg)}\n{cfg.explain()}",
        flush=True)
  results = zero.run(
      cfg, zero.DECODINGS, base, tokenizer, folder, mesh=common.mesh())
  if "R1-Zero" not in results:
    return

  def finished():
    report = reporting.write(folder / "train", results)
    finish(top, folder, results, (time.monotonic() - began) / 60)
    print(f"report: {report}", flush=True)

  processes.from_writer(finished)


def init_of(folder: epath.Path) -> str:
  """--init as the run in the folder began: for orbax:DIR with its step.

  Raises:
    ValueError: it began with another one.
  """
  init = common.frozen_in(folder / "init")
  processes.from_writer(lambda: workdir.prepare(
      folder / "init", {"init": init}, workdir.versions()) and None)
  return init


def complete(top: epath.Path, folder: epath.Path) -> bool:
  """Whether the run was done before; then prints its results."""
  if not (folder / "summary.json").exists():
    return False
  io.write_json(top / "summary.json", io.read_json(folder / "summary.json"))
  print((folder / "table.txt").read_text())
  print("This run is complete; another --seed or --workdir makes a new one.")
  return True


def finish(top: epath.Path, folder: epath.Path,
           results: dict[str, dict[str, EvalResult]], minutes: float) -> None:
  """Prints and writes the table and the summary."""
  table = tables.comparison(reporting.all_cells(results))
  io.write_text(folder / "table.txt", table + "\n")
  base, trained = results["base"]["T = 1"], results["R1-Zero"]["T = 1"]
  summary = {
      "base_pass1": base.pass1, "base_maj16": base.maj_k,
      "zero_pass1": trained.pass1, "zero_maj16": trained.maj_k,
      "base_length": base.mean_length, "zero_length": trained.mean_length,
      "zero_format": trained.format}
  for name, ways in (("base", results["base"]), ("zero", results["R1-Zero"])):
    summary |= {name + suffix: ways[way].pass1
                for way, (_, suffix) in zero.DECODINGS.items() if suffix}
  summary["minutes"] = round(minutes, 2)
  for path in (folder, top):
    io.write_json(path / "summary.json", summary)
  print(f"\n{table}\n{minutes:.1f} minutes; {top / 'summary.json'}")


if __name__ == "__main__":
  start.run(main, many=True)
