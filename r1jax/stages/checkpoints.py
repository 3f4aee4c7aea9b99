"""One evaluation of every checkpoint of a run: how it came to reason.

OUT/evaluations has the generations by step, as a run stores its own, so that
all that reads a run's evaluations reads these. What is there already is kept.
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
  """The steps that `all` or `10,20` name of the run in `init`.

  Raises:
    ValueError: `init` is no run, or it has no such checkpoint; lists those
      that it has.
  """
  kind, _, workdir = init.partition(":")
  check(kind == "orbax" and bool(workdir), f"--checkpoints are those of a run:"
        f" give --init=orbax:WORKDIR, not {init}")
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
  """Steps of the checkpoints that a run still has, the oldest first."""
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
      answers the same problems with the same random numbers.
    init: orbax:WORKDIR.
    steps: of the checkpoints.
    out: folder to write.
    compute, mesh: as the model is loaded.
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
  """Accuracy, response length and reflective words against the step.

  The length is that of the run's training samples, where it logged it, as the
  paper's figure has it, else of these answers.
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
