"""R1, whole: every stage by one command, from a plan.

  python -m experiments.r1 --workdir=runs/r1
  python -m experiments.r1 --preset=paper --init=hf:DIR --data_dir=DATA \\
      --workdir=runs/r1 --dry_run
  python -m experiments.r1 --plan=my_plan.toml --workdir=runs/mine \\
      --until=dev1

A stage is an experiment of its own, run as `python -m experiments.NAME` in
WORKDIR/STAGE; the command is printed and can be given by hand. Killed anywhere,
the same command goes on, and a finished stage is not done twice. Another
setting, and a file or folder that was changed since a stage read it, is an
error that names the stages it concerns. r1jax/stages/plan.py says what a plan
is; --preset=embedded is the small world on two CPU cores, --preset=paper has
the paper's sizes.
"""

from __future__ import annotations

import pathlib
import shlex

from absl import flags
from etils import epath

from experiments import start
from r1jax.sharding import watchdog
from r1jax.stages import plan as plan_lib
from r1jax.stages.pipeline import Pipeline

PLANS = pathlib.Path(__file__).parent / "plans"

WORKDIR = flags.DEFINE_string("workdir", "runs/r1", "Folder of all stages.")
PRESET = flags.DEFINE_enum(
    "preset", "embedded", sorted(path.stem for path in PLANS.glob("*.toml")),
    "A plan that comes with r1jax.")
PLAN = flags.DEFINE_string("plan", "", "Instead: the TOML file of a plan.")
SEED = flags.DEFINE_integer("seed", 0, "What stands for {seed} in the plan.")
INIT = flags.DEFINE_string(
    "init", "", "What stands for {init}: the first parameters, as base or"
    " hf:DIR; default: the plan's own, if it has one.")
DATA_DIR = flags.DEFINE_string(
    "data_dir", "", "What stands for {data_dir}, likewise.")
FROM = flags.DEFINE_string(
    "from", "", "Stage to begin at; those before must be done, and are taken as"
    " they are.")
UNTIL = flags.DEFINE_string("until", "", "Stage to end with.")
LAUNCH = flags.DEFINE_string(
    "launch", "", "Words before every command, as srun, or 'bash"
    " launch/local.sh 2 --'.")


def main() -> None:
  plan = plan_lib.read(PLAN.value or PLANS / f"{PRESET.value}.toml")
  values = plan.values(
      seed=SEED.value, data_dir=DATA_DIR.value, init=INIT.value)
  pipeline = Pipeline(
      plan=plan, workdir=epath.Path(WORKDIR.value), values=values,
      launch=shlex.split(LAUNCH.value))
  stages = pipeline.chosen(FROM.value, UNTIL.value)
  if not pipeline.run(stages):
    raise SystemExit(watchdog.AGAIN)
  left = [s.name for s in plan.stages if not pipeline.done(s.name)]
  if left:
    print(f"done; left of the plan: {', '.join(left)}", flush=True)


if __name__ == "__main__":
  start.run(main)
