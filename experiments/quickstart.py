"""The main job: the embedded base teaches itself to reason, in minutes.

  bash launch/quickstart.sh [--seed=1]

Evaluates the base on the held-out test split, trains it by GRPO with accuracy
and format rewards alone, evaluates it again, draws the figures and the report.
Both are evaluated in three ways of decoding: a base that guesses only where it
is sampled at random would hide what it can do. The same command resumes after
an interruption.
"""

from __future__ import annotations

import time
from collections.abc import Mapping

import jax
from absl import flags
from etils import epath

from experiments import common, start
from r1jax.core import io
from r1jax.data.tokenizer import Tokenizer
from r1jax.evals.runner import EvalResult
from r1jax.losses import presets as loss_presets
from r1jax.models import config as model_config
from r1jax.report import tables, workdir
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

# As in training, nothing cut off.
EVAL = EvalConfig(temperature=1.0, top_p=1.0)
# Each way's evaluation, and what it adds to the name of the model's file.
DECODINGS = {
    "T = 1": (EVAL, ""),
    "T = 0.6, top-p 0.95": (EvalConfig(temperature=0.6, top_p=0.95), "_t06"),
    # All samples would be alike.
    "greedy": (EvalConfig(
        temperature=0.0, top_p=1.0, samples=1, batch=64), "_greedy"),
}


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
  base, tokenizer = common.policy(cfg.seed, common.mesh(), began(folder))
  print(f"base: {model_config.describe(base.model.cfg)}\n{cfg.explain()}",
        flush=True)
  results = run(cfg, DECODINGS, base, tokenizer, folder, mesh=common.mesh())
  if "R1-Zero" not in results:
    return

  def finished():
    report = reporting.write(folder / "train", results)
    finish(top, folder, results, (time.monotonic() - began) / 60)
    print(f"report: {report}", flush=True)

  processes.from_writer(finished)


def began(folder: epath.Path) -> str:
  """--init as the run in the folder began: orbax:DIR with its step."""
  init = common.frozen_in(folder / "init")
  processes.from_writer(lambda: io.write_json(
      folder / "init" / workdir.CONFIG, {"config": {"init": init}}))
  return init


def complete(top: epath.Path, folder: epath.Path) -> bool:
  """Whether the run was done before; then prints what it found."""
  if not (folder / "summary.json").exists():
    return False
  io.write_json(top / "summary.json", io.read_json(folder / "summary.json"))
  print((folder / "table.txt").read_text())
  print("This run is complete; another --seed or --workdir makes a new one.")
  return True


def run(cfg: GrpoConfig, decodings: Mapping[str, tuple[EvalConfig, str]],
        base: Weights, tokenizer: Tokenizer, folder: epath.Path, *,
        mesh: jax.sharding.Mesh | None = None, test: str = "test",
        held_out: str = "validation[:64]") -> dict[str, dict[str, EvalResult]]:
  """Evaluates the base, trains it, evaluates what became of it.

  Args:
    cfg: of the training.
    decodings: see `DECODINGS`; the first is that of the evaluations during the
      training.
    base: where it starts.
    tokenizer: of the base.
    folder: gets the evaluations, and in train/ the run.
    mesh: to train and sample on; None for one device.
    test: split evaluated before and after.
    held_out: split evaluated during the training.

  Returns:
    The evaluations of "base" and "R1-Zero" by the way of decoding; without the
    latter if the training was interrupted.
  """
  test, held_out, train = (
      tasks.joined(tasks.load("arith", split))
      for split in (test, held_out, "train"))
  engines = {way: evaluating.sampler(evals, base.model, tokenizer, mesh)
             for way, (evals, _) in decodings.items()}
  first = next(iter(decodings))
  with judging.judge(tokenizer, cfg.template) as judge:

    def evaluated(policy, name):
      return {way: evaluating.once(
          evals, engines[way], judge, policy, test, folder, name + suffix)
              for way, (evals, suffix) in decodings.items()}

    results = {"base": evaluated(base, "base")}
    train = tasks.fitting(
        train, judge, cfg.prompt_limit(base.model.cfg.max_position),
        "training")
    zero = grpo.run(
        cfg, Handover(base), judge, train, folder / "train",
        evaluate=evaluating.during(
            decodings[first][0], engines[first], judge, held_out,
            folder / "train"), mesh=mesh)
    if grpo.finished(folder / "train", cfg):
      results["R1-Zero"] = evaluated(zero, "zero")
  return results


def finish(top: epath.Path, folder: epath.Path,
           results: dict[str, dict[str, EvalResult]], minutes: float) -> None:
  """Prints and writes the table and the summary."""
  table = tables.comparison(reporting.all_cells(results))
  (folder / "table.txt").write_text(table + "\n")
  base, zero = results["base"]["T = 1"], results["R1-Zero"]["T = 1"]
  summary = {
      "base_pass1": base.pass1, "base_maj16": base.maj_k,
      "zero_pass1": zero.pass1, "zero_maj16": zero.maj_k,
      "base_length": base.mean_length, "zero_length": zero.mean_length,
      "zero_format": zero.format}
  for name, ways in (("base", results["base"]), ("zero", results["R1-Zero"])):
    summary |= {name + suffix: ways[way].pass1
                for way, (_, suffix) in DECODINGS.items() if suffix}
  summary["minutes"] = round(minutes, 2)
  for path in (folder, top):
    io.write_json(path / "summary.json", summary)
  print(f"\n{table}\n{minutes:.1f} minutes; {top / 'summary.json'}")


if __name__ == "__main__":
  start.run(main, many=True)
