"""Runs all stages of R1 from a plan, by one command.

  python -m experiments.r1 --workdir=runs/r1
  python -m experiments.r1 --preset=paper --dry_run
  python -m experiments.r1 --plan=my_plan.toml --workdir=runs/mine \\
      --until=dev1

Each stage is an experiment, run as `python -m experiments.NAME` in
WORKDIR/STAGE; its command is printed and can be run by hand. After a kill at
any point the same command resumes; finished stages are not repeated. If a
setting, or a file or folder that a stage read, has changed since, the error
names the stages concerned. r1jax/plans/plan.py documents plans;
--preset=embedded is the small world on two CPU cores, --preset=paper has the
paper's sizes. At the end WORKDIR/report.html, summary.json and claims.json have
the results.
"""

from __future__ import annotations

import os
import pathlib
import shlex
from collections.abc import Mapping

from absl import flags
from etils import epath

from r1jax.core import io
from r1jax.core.config import check
from r1jax.plans import forecast
from r1jax.plans import plan as plan_lib
from r1jax.plans.pipeline import COST, Pipeline
from r1jax.plans.plan import Stage
from r1jax.report import tables
from r1jax.sharding import distributed, watchdog
from r1jax.stages.reports import r1_report

from . import command, recipe, start

PLANS = pathlib.Path(__file__).parent / "plans"

WORKDIR = flags.DEFINE_string("workdir", "runs/r1", "Folder of all stages.")
PRESET = flags.DEFINE_enum(
    "preset", "embedded", sorted(path.stem for path in PLANS.glob("*.toml")),
    "The plan, one of those in the package.")
PLAN = flags.DEFINE_string(
    "plan", "", "TOML file of a plan, instead of --preset.")
SEED = flags.DEFINE_integer(
    "seed", 0, "Value of {seed} in the plan.", lower_bound=0)
INIT = flags.DEFINE_string(
    "init", "", "Value of {init} in the plan, the first model, such as base or"
    " hf:DIR; default: the plan's own, if it has one.")
DATA_DIR = flags.DEFINE_string(
    "data_dir", "", "Value of {data_dir} in the plan; default: the plan's own,"
    " if it has one.")
FROM = flags.DEFINE_string(
    "from", "", "First stage to run; the earlier ones must be done, and are not"
    " checked.")
UNTIL = flags.DEFINE_string("until", "", "Last stage to run.")
DRY_RUN = flags.DEFINE_bool(
    "dry_run", False, "Print an estimate of what every stage needs, and run"
    " nothing.")
PRICE = flags.DEFINE_float(
    "price", None, "Dollars per chip-hour; default: the plan's.",
    lower_bound=0.0)
CHIP = flags.DEFINE_string(
    "chip", "", "For --dry_run: part of a chip's name, such as H100 or"
    " 'TPU v5'; default: the plan's.")
LAUNCH = flags.DEFINE_string(
    "launch", "", "Words before the command of every stage that can run in"
    " several processes, such as srun, or 'bash launch/local.sh 2 --'.")


def main() -> None:
  check(distributed.detect(os.environ, tpu_host=False) is None,
        "this command must be started as one process; give the launcher of its"
        " stages' processes, such as srun, as --launch")
  plan = plan_lib.read(PLAN.value or PLANS / f"{PRESET.value}.toml")
  unknown = sorted(set(plan.report) - set(r1_report.KEYS))
  check(not unknown, f"{plan.path}: [report] has {', '.join(unknown)}; known:"
        f" {', '.join(r1_report.KEYS)}")  # fail early
  values = plan.values(
      seed=SEED.value, data_dir=DATA_DIR.value, init=INIT.value,
      partly=DRY_RUN.value)
  rates = forecast.rates(plan, CHIP.value, PRICE.value)
  pipeline = Pipeline(
      plan=plan, workdir=epath.Path(WORKDIR.value), values=values,
      launch=shlex.split(LAUNCH.value), experiment=command.words)
  stages = pipeline.chosen(FROM.value, UNTIL.value)
  if DRY_RUN.value:
    print(forecast.text(plan, stages, resolved, values, rates))
    return
  if not pipeline.run(stages):
    raise SystemExit(watchdog.AGAIN)
  print(costs(pipeline, rates.price), flush=True)
  left = [s.name for s in plan.stages if not pipeline.done(s.name)]
  if left:
    print(f"done; remaining stages: {', '.join(left)}", flush=True)
  elif plan.report:
    print(f"report: {r1_report.write(WORKDIR.value, plan.report)}", flush=True)


def resolved(stage: Stage) -> Mapping[str, str]:
  """The flags of a stage, which override those of its recipe if it has one."""
  if stage.run not in ("train_grpo", "distill"):
    return stage.flags
  name = stage.flags.get("recipe") or recipe.chosen(
      stage.flags.get("init", "base"))
  return {line.name: line.value for line in recipe.read(recipe.find(name))
          } | dict(stage.flags)


def costs(pipeline: Pipeline, price: float) -> str:
  """Tables of the cost of all finished stages; also writes WORKDIR/cost.json.
  """
  found, parts = pipeline.costs(), {}
  for stage in pipeline.plan.stages:
    if stage.name in found:
      part = stage.part or stage.name
      parts[part] = parts.get(part, 0.0) + found[stage.name]["chip_hours"]
  io.write_json(pipeline.workdir / COST, {
      "price": price, "stages": found, "parts": parts})
  rows = [[name, f"{cost['seconds'] / 60:.1f}", f"{cost['tokens']:.3g}",
           f"{cost['flops']:.2e}", *forecast.priced(cost["chip_hours"], price)]
          for name, cost in found.items()]
  return "\n".join(["", tables.render(
      ["stage", "minutes", "tokens", "FLOPs", "chip-hours", "dollars"], rows),
      "", forecast.by_part(parts, price)])


if __name__ == "__main__":
  start.run(main, devices=False)
