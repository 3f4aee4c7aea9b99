"""Which checkpoint orbax:DIR, orbax:DIR@STEP and orbax:DIR@best name."""

from __future__ import annotations

import os
from typing import Any

from etils import epath

from r1jax.checkpoint import retention
from r1jax.core import io
from r1jax.core.config import check
from r1jax.report import workdir as workdir_lib
from r1jax.sharding import processes

# What tells the best checkpoint of a run, the first of these that it measures.
BEST_BY = {"eval/pass1": "max", "eval/cross_entropy": "min",
           "eval/loss": "min"}


def frozen(init: str, began: str = "") -> str:
  """`init` as a run keeps it: `orbax:DIR` and `@best` with their step.

  Every process calls it; all get the same.

  Args:
    init: as `load` takes it.
    began: what the run froze it to when it began, which then stays.

  Raises:
    ValueError: DIR is no run's, or has no such checkpoint.
  """
  kind, _, what = init.partition(":")
  workdir, at = workdir_lib.named(what)
  if kind != "orbax" or not what or at.isdecimal():
    return init
  before, step = workdir_lib.named(began.partition(":")[2])
  if began.startswith("orbax:") and before == workdir and step.isdecimal():
    return began
  return f"orbax:{workdir}@{processes.from_writer(lambda: step_of(what))}"


def or_own(init: str, workdir: str | os.PathLike) -> str:
  """`init`, or the run in `workdir` itself where that checkpoint is gone.

  For a run that trains all parameters: it has them in checkpoints of its own,
  and DIR, which has gone on, has removed what it began with.
  """
  kind, _, what = init.partition(":")
  folder, at = workdir_lib.named(what)

  def gone() -> bool:
    kept = retention.complete(epath.Path(folder) / "checkpoints")
    own = retention.complete(epath.Path(workdir) / "checkpoints")
    return bool(own) and int(at) not in kept

  frozen_one = kind == "orbax" and at.isdecimal()
  return (f"orbax:{os.fspath(workdir)}"
          if frozen_one and processes.from_writer(gone) else init)


def step_of(what: str) -> int:
  """The checkpoint that `what`, behind `orbax:`, names today.

  Raises:
    ValueError: it is no run's, or has no such checkpoint.
  """
  workdir, at = workdir_lib.named(what)
  settings_of(workdir)
  directory = epath.Path(workdir) / "checkpoints"
  steps = retention.complete(directory)
  check(bool(steps), f"{workdir} has no checkpoint yet; let its own command go"
        " on until it has saved one")
  if at.isdecimal():
    check(int(at) in steps, f"{workdir} has no checkpoint of step {at} (any"
          f" more); there are {', '.join(map(str, steps))}")
    return int(at)
  if not at:
    return steps[-1]
  for name, mode in BEST_BY.items():
    scores = {step: retention.metrics(directory, step).get(name)
              for step in steps}
    if (best := retention.best(scores, mode)) is not None:
      return best
  raise ValueError(
      f"{workdir}@best: none of its checkpoints has been evaluated; give"
      f" {workdir}@STEP, of {', '.join(map(str, steps))}")


def settings_of(workdir: str | os.PathLike) -> dict[str, Any]:
  """The config of the run in `workdir`, or of the one that WORKDIR@... names.

  Raises:
    ValueError: it is not a run's.
  """
  path = epath.Path(workdir_lib.named(os.fspath(workdir))[0]) / "config.json"
  if not path.exists():
    raise ValueError(f"{path} does not exist; orbax:DIR must be the --workdir"
                     " of a training run")
  return io.read_json(path)["config"]
