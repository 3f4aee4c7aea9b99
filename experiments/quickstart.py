"""The main job: the embedded base teaches itself to reason, in minutes.

  bash launch/quickstart.sh [--seed=1]

Evaluates the base on the held-out test split, trains it by GRPO with accuracy
and format rewards alone, evaluates it again, draws the figures and the report.
The same command resumes after an interruption.
"""

from __future__ import annotations

import dataclasses
import time

from absl import flags
from etils import epath

from experiments import common, start
from r1jax.core import config as config_lib
from r1jax.core import io
from r1jax.evals.runner import EvalResult
from r1jax.losses import presets as loss_presets
from r1jax.models import config as model_config
from r1jax.report import rollouts, tables
from r1jax.rewards.combine import RewardConfig
from r1jax.rollout.engine import Engine
from r1jax.rollout.sampling import SamplingConfig
from r1jax.stages import evaluating, grpo, reporting
from r1jax.stages.evaluating import EvalConfig
from r1jax.stages.grpo import GrpoConfig
from r1jax.training.optimizer import OptimizerConfig

SEED = flags.DEFINE_integer("seed", 0, "Of prompts and samples.")
WORKDIR = flags.DEFINE_string(
    "workdir", "runs/quickstart", "Folder; each seed gets one inside it.")
STEPS = flags.DEFINE_integer("steps", 80, "GRPO steps.")

# Both models are sampled as in training: temperature 1, nothing cut off.
EVAL = EvalConfig(temperature=1.0, top_p=1.0)
SPLIT = "test"
HELD_OUT = "validation[:64]"


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
  if (folder / "summary.json").exists():
    io.write_json(top / "summary.json", io.read_json(folder / "summary.json"))
    print((folder / "table.txt").read_text())
    print(f"This run is complete; delete {folder} to run it again.")
    return
  base, tokenizer = common.policy(cfg.seed, common.mesh())
  print(f"base: {model_config.describe(base.model.cfg)}\n{cfg.explain()}",
        flush=True)
  test, held_out, questions = (
      common.joined(common.sources("arith", split))
      for split in (SPLIT, HELD_OUT, "train"))
  engine = Engine(base.model, SamplingConfig(
      temperature=EVAL.temperature, top_p=EVAL.top_p,
      max_new_tokens=EVAL.max_new_tokens), tokenizer.eos_ids, common.mesh())
  with common.judge(tokenizer, cfg.template, RewardConfig()) as judge:

    def examine(name, params, bias_LE):
      """Evaluates on the test split once; a resumed run reads the result."""
      path = folder / f"{name}.json"
      if path.exists():
        return config_lib.from_dict(EvalResult, io.read_json(path))
      result = evaluating.evaluate(
          EVAL, engine, judge, params, bias_LE, test,
          path=folder / f"{name}.jsonl.gz", name=f"evaluate {name}")
      io.write_json(path, dataclasses.asdict(result))
      return result

    def during(params, bias_LE, step):
      return evaluating.metrics(evaluating.evaluate(
          EVAL, engine, judge, params, bias_LE, held_out, step=step,
          path=rollouts.path(folder / "train", step, rollouts.EVALUATIONS),
          progress=False))

    results = {"base": examine("base", base.params, base.router_bias_LE)}
    questions = common.fitting(
        questions, judge, cfg.prompt_limit(base.model.cfg.max_position),
        "training")
    zero = grpo.run(cfg, base, judge, questions, folder / "train",
                    evaluate=during, mesh=common.mesh())
    if not grpo.finished(folder / "train", cfg):
      return
    results["R1-Zero"] = examine("zero", zero.params, zero.router_bias_LE)
  report = reporting.write(folder / "train", results)
  finish(top, folder, results, (time.monotonic() - began) / 60)
  print(f"report: {report}", flush=True)


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
  start.run(main)
