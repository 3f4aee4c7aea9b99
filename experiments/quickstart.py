"""The main job: the embedded base teaches itself to reason, in minutes.

  bash launch/quickstart.sh [--seed=1]

Evaluates the base on the held-out test split, trains it by GRPO with accuracy
and format rewards alone, evaluates it again, draws the figures and the report.
The same command resumes after an interruption.
"""

from __future__ import annotations

import time

import jax
from absl import flags
from etils import epath

from experiments import common, start
from r1jax.core import io
from r1jax.data.tokenizer import Tokenizer
from r1jax.evals.runner import EvalResult
from r1jax.losses import presets as loss_presets
from r1jax.models import config as model_config
from r1jax.report import tables
from r1jax.sharding import processes
from r1jax.stages import evaluating, grpo, judging, reporting, tasks
from r1jax.stages.evaluating import EvalConfig
from r1jax.stages.grpo_config import GrpoConfig
from r1jax.stages.weights import Handover, Weights
from r1jax.training.optimizer import OptimizerConfig

SEED = flags.DEFINE_integer("seed", 0, "Of prompts and samples.")
WORKDIR = flags.DEFINE_string(
    "workdir", "runs/quickstart", "Folder; each seed gets one inside it.")
STEPS = flags.DEFINE_integer("steps", 80, "GRPO steps.")

# Both models are sampled as in training: temperature 1, nothing cut off.
EVAL = EvalConfig(temperature=1.0, top_p=1.0)


def config(seed: int, steps: int) -> GrpoConfig:
  """R1-Zero's objective at the size of a laptop."""
  return GrpoConfig(
      steps=steps, seed=seed, eval_every=10,
      policy=loss_presets.get("r1-zero").policy,
      optimizer=OptimizerConfig(lr=2e-4, warmup_steps=5))


def main() -> None:
  began = time.monotonic()
  cfg = config(SEED.value, STEPS.value)
  top = epath.Path(WORKDIR.value)
  folder = top / f"seed_{cfg.seed}"
  if processes.from_writer(lambda: complete(top, folder)):
    return
  base, tokenizer = common.policy(cfg.seed, common.mesh())
  print(f"base: {model_config.describe(base.model.cfg)}\n{cfg.explain()}",
        flush=True)
  results = run(cfg, EVAL, base, tokenizer, folder, mesh=common.mesh())
  if "R1-Zero" not in results:
    return

  def finished():
    report = reporting.write(folder / "train", results)
    finish(top, folder, results, (time.monotonic() - began) / 60)
    print(f"report: {report}", flush=True)

  processes.from_writer(finished)


def complete(top: epath.Path, folder: epath.Path) -> bool:
  """Whether the run was done before; then prints what it found."""
  if not (folder / "summary.json").exists():
    return False
  io.write_json(top / "summary.json", io.read_json(folder / "summary.json"))
  print((folder / "table.txt").read_text())
  print(f"This run is complete; delete {folder} to run it again.")
  return True


def run(cfg: GrpoConfig, evals: EvalConfig, base: Weights,
        tokenizer: Tokenizer, folder: epath.Path, *,
        mesh: jax.sharding.Mesh | None = None, test: str = "test",
        held_out: str = "validation[:64]") -> dict[str, EvalResult]:
  """Evaluates the base, trains it, evaluates what became of it.

  Args:
    cfg: of the training.
    evals: of every evaluation.
    base: where it starts.
    tokenizer: of the base.
    folder: gets the evaluations, and in train/ the run.
    mesh: to train and sample on; None for one device.
    test: split evaluated before and after.
    held_out: split evaluated during the training.

  Returns:
    The evaluations of "base" and "R1-Zero"; without the latter if the training
    was interrupted.
  """
  test, held_out, train = (
      tasks.joined(tasks.load("arith", split))
      for split in (test, held_out, "train"))
  engine = evaluating.sampler(evals, base.model, tokenizer, mesh)
  with judging.judge(tokenizer, cfg.template) as judge:
    results = {"base": evaluating.once(
        evals, engine, judge, base, test, folder, "base")}
    train = tasks.fitting(
        train, judge, cfg.prompt_limit(base.model.cfg.max_position),
        "training")
    zero = grpo.run(
        cfg, Handover(base), judge, train, folder / "train",
        evaluate=evaluating.during(
            evals, engine, judge, held_out, folder / "train"), mesh=mesh)
    if grpo.finished(folder / "train", cfg):
      results["R1-Zero"] = evaluating.once(
          evals, engine, judge, zero, test, folder, "zero")
  return results


def finish(top: epath.Path, folder: epath.Path,
           results: dict[str, EvalResult], minutes: float) -> None:
  """Prints and writes the table and the summary."""
  table = tables.comparison(reporting.cells(results))
  (folder / "table.txt").write_text(table + "\n")
  base, zero = results["base"], results["R1-Zero"]
  summary = {
      "base_pass1": base.pass1, "base_maj16": base.maj_k,
      "zero_pass1": zero.pass1, "zero_maj16": zero.maj_k,
      "base_length": base.mean_length, "zero_length": zero.mean_length,
      "zero_format": zero.format, "minutes": round(minutes, 2)}
  for path in (folder, top):
    io.write_json(path / "summary.json", summary)
  print(f"\n{table}\n{minutes:.1f} minutes; {top / 'summary.json'}")


if __name__ == "__main__":
  start.run(main, many=True)
