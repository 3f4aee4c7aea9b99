"""Evaluates checkpoints of a run, for learning curves.

OUT/evaluations gets the generations by step in the form that a training run
stores its own, so that the same code reads both. Steps that are stored already
are not evaluated again.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

import jax
from etils import epath

from r1jax.checkpoint.manager import Manager
from r1jax.core.config import check
from r1jax.core.prompt import Prompt
from r1jax.evals import curves
from r1jax.models.compute import Compute
from r1jax.report import rollouts, stage_figures, writer
from r1jax.rollout.engine import Engine
from r1jax.sharding import processes
from r1jax.stages import evaluating, weights
from r1jax.stages.evaluating import EvalConfig
from r1jax.stages.judging import Judge

FIGURE = "evolution.png"
ALL = "all"
_MEASURES = ("reasoning", "consensus", "reflective", "length", "language")


def choose(text: str, init: str) -> list[int]:
  """The checkpoints that "all" or a list such as "10,20" selects.

  Args:
    text: the value of --checkpoints.
    init: orbax:WORKDIR.

  Raises:
    ValueError: `init` is not a run, or has no such checkpoint; the message
      lists those that it has.
  """
  kind, _, workdir = init.partition(":")
  check(kind == "orbax" and bool(workdir), f"--checkpoints needs the folder of"
        f" a run: give --init=orbax:WORKDIR, not {init}")
  there = saved(workdir)
  if text == ALL:
    check(bool(there), f"{workdir} has no checkpoint")
    return there
  steps = [int(part) for part in text.split(",") if part.strip().isdigit()]
  missing = sorted(set(steps) - set(there))
  check(bool(steps) and not missing, f"--checkpoints={text}: {workdir} has"
        f" checkpoints {there}; give all, or some of them")
  return sorted(set(steps))


def saved(workdir: str | os.PathLike) -> list[int]:
  """Steps of a run's remaining checkpoints, the oldest first."""
  manager = Manager(epath.Path(workdir) / "checkpoints", read_only=True)
  steps = manager.steps()
  manager.close()
  return steps


def evaluate(cfg: EvalConfig, engine: Engine, judge: Judge,
             prompts: Sequence[Prompt], init: str, steps: Sequence[int],
             out: str | os.PathLike, compute: Compute,
             mesh: jax.sharding.Mesh | None = None) -> epath.Path:
  """Evaluates the checkpoints and draws OUT/evolution.png; returns its path.

  Args:
    cfg, engine, judge, prompts: see `evaluating.evaluate`; every checkpoint
      answers the same problems with the same random keys.
    init: orbax:WORKDIR.
    steps: steps of the checkpoints.
    out: folder to write.
    compute, mesh: how the model is loaded.
  """
  workdir = init.partition(":")[2]
  for step in steps:
    path = rollouts.path(out, step, rollouts.EVALUATIONS)
    if processes.from_writer(path.exists):
      continue
    policy = weights.load(
        f"{init}@{step}", compute, jax.random.key(cfg.seed), mesh,
        computing=True)
    evaluating.evaluate(
        cfg, engine, judge, evaluating.laid_out(policy, engine, donate=True),
        policy.router_bias_LE, prompts, path=path, name=f"step {step}")
    del policy
  return draw(workdir, out)


def draw(workdir: str | os.PathLike, out: str | os.PathLike) -> epath.Path:
  """Draws accuracy, response length and reflective words against the step.

  The length is that of the run's training samples if it was logged, as in the
  paper's figure; otherwise that of the evaluated answers.
  """
  rows = curves.of_run(out, _MEASURES)
  metrics = writer.read(workdir)
  length = "rollout/length_mean"
  if not any(row.get(length) is not None for row in metrics):
    metrics, length = rows, "length"
  path = epath.Path(out) / FIGURE
  stage_figures.self_evolution(
      metrics, rows, path, length=length,
      accuracy=(("reasoning", "pass@1"), ("consensus", "majority")))
  return path
