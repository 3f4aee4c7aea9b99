"""Resolves orbax:DIR, orbax:DIR@STEP and orbax:DIR@best to a checkpoint."""

from __future__ import annotations

import os
from typing import Any

from etils import epath

from r1jax.checkpoint import retention
from r1jax.core.config import check
from r1jax.report import workdir as workdir_lib
from r1jax.sharding import processes

# Metric that decides on the best checkpoint: the first that the run has.
BEST_BY = {"eval/pass1": "max", "eval/cross_entropy": "min",
           "eval/loss": "min"}


def frozen(init: str, began: str = "") -> str:
  """`init` with the step that `orbax:DIR` or `@best` means now, to be stored.

  Every process must call it; all get the same.

  Args:
    init: as `weights.load` takes it.
    began: the value that the run stored when it began, which is kept.

  Raises:
    ValueError: DIR is not a run's folder, or has no such checkpoint.
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
  """`init`, or the run in `workdir` itself if that checkpoint was removed.

  A run that trains all parameters has them in its own checkpoints, so it can
  resume although DIR has removed the checkpoint that it began with.
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
  """The step of the checkpoint that `what` (without `orbax:`) names now.

  Raises:
    ValueError: it is not a run's folder, or has no such checkpoint.
  """
  workdir, at = workdir_lib.named(what)
  settings_of(workdir)
  directory = epath.Path(workdir) / "checkpoints"
  steps = retention.complete(directory)
  check(bool(steps), f"{workdir} has no checkpoint yet; continue that run until"
        " it has saved one")
  if at.isdecimal():
    check(int(at) in steps, f"{workdir} has no checkpoint of step {at}; it has"
          f" those of {', '.join(map(str, steps))}: give orbax:{workdir}@STEP"
          " with one of them. What began with the lost one cannot go on; choose"
          " another folder for it")
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
      f" {workdir}@STEP with one of {', '.join(map(str, steps))}")


def settings_of(workdir: str | os.PathLike) -> dict[str, Any]:
  """The config of the run in WORKDIR or WORKDIR@STEP.

  Raises:
    ValueError: it is not a run's folder.
  """
  path = epath.Path(workdir_lib.named(os.fspath(workdir))[0]) / "config.json"
  if not path.exists():
    raise ValueError(f"{path} does not exist; orbax:DIR must be the --workdir"
                     " of a training run")
  return workdir_lib.stored_in(path.parent)["config"]
