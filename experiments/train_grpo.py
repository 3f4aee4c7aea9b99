"""Trains by GRPO with rule rewards (R1-Zero) and reward models (R1).

  python -m experiments.train_grpo --workdir=runs/zero
  python -m experiments.train_grpo --workdir=runs/g --data=gsm8k --data_dir=DIR
  python -m experiments.train_grpo --workdir=runs/five \\
      --data=arith:1,functions:1,units:1,ciphers:1,constraints:1
  python -m experiments.train_grpo --workdir=runs/stage2 --data=general.py \\
      --rewards.equation=r1-stage2 --rewards.helpful=orbax:runs/helpful \\
      --rewards.safety=orbax:runs/safety
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from absl import flags
from etils import epath

from r1jax.core.prompt import Prompt
from r1jax.data.sources import mixture
from r1jax.data.sources.mixture import Mixture
from r1jax.losses import presets as loss_presets
from r1jax.losses.distill import DistillConfig
from r1jax.report import writer
from r1jax.rewards.combine import RewardConfig
from r1jax.sharding import processes
from r1jax.stages import (
  evaluating,
  grpo,
  judging,
  reward_models,
  tasks,
)
from r1jax.stages.evaluating import EvalConfig
from r1jax.stages.grpo_config import GrpoConfig
from r1jax.stages.reports import reporting
from r1jax.stages.weights import Handover, Weights

from . import (
  asking,
  common,
  data_sets,
  flagset,
  recipe,
  start,
  training,
)
from .flagset import FlagSet

GRPO = flagset.define(GrpoConfig)
# As in training.
EVAL = flagset.define(EvalConfig(temperature=1.0, top_p=1.0), "eval")
REWARDS = flagset.define(RewardConfig, "rewards")
RECIPE = flags.DEFINE_string(
    "recipe", "", "Defaults of all other flags: "
    + ", ".join(recipe.names()) + ", or a file of flags; flags that you give"
    " override it. Default: embedded for --init=base, r1-zero for other"
    " models.")
LOSS = flags.DEFINE_string(
    "loss", "", "Objective of a paper, replacing the recipe's: "
    + ", ".join(loss_presets.PRESETS) + "; flags that you give override it.")
WORKDIR = flags.DEFINE_string("workdir", "runs/zero", "Folder of the run.")
MIXTURE = flags.DEFINE_string(
    "mixture", "", "Weights by domain, instead of those in --data: r1-rl are"
    " the paper's, r1-rl:math+code those of two domains.")
EXPORT = flags.DEFINE_string("export", "", training.EXPORT)
EVAL_DATA = flags.DEFINE_string(
    "eval_data", "", "Data sets to evaluate during training; default: those of"
    " --data.")
EVAL_SPLIT = flags.DEFINE_string(
    "eval_split", "validation[:64]", "Split of each data set to evaluate, such"
    " as test[:100].")


def main() -> None:
  train()


def train(teacher: Callable[..., tuple[Weights, Any]] | None = None,
          follow: FlagSet[DistillConfig] | None = None) -> None:
  """Trains as the flags say.

  Args:
    teacher: from (tokenizer, mesh) to the teacher for distillation and its
      settings; None without distillation.
    follow: the flags of distillation.
  """
  cfg, evals, rewards = GRPO.value(), EVAL.value(), REWARDS.value()
  print(recipe.explain(
      RECIPE.value, LOSS.value,
      (GRPO, EVAL, REWARDS, common.COMPUTE, common.MESH, *filter(
          None, [follow])), "" if RECIPE.present else common.INIT.value),
      flush=True)
  cfg = dataclasses.replace(
      cfg, template=asking.template(cfg.template),
      distill=follow.value() if follow else cfg.distill)
  if EXPORT.value:
    training.check_export(EXPORT.value, WORKDIR.value)  # fail early
  # pmap replicates by itself; the first device samples.
  mesh = common.mesh() if cfg.driver == "mesh" else None
  first, tokenizer, began = training.begin(
      WORKDIR.value, cfg.seed, mesh, cfg.lora)
  tokenizer = common.settled(tokenizer, cfg.template, WORKDIR.value)
  context = first.model.cfg.max_position
  first.model.cfg.check_length(cfg.row_length, "row_length")
  train = data_sets.sources("train")
  held_out = data_sets.sources(
      EVAL_SPLIT, EVAL_DATA if EVAL_DATA.value else data_sets.DATA
  ) if cfg.eval_every else {}
  # A run may resume with another number of child processes.
  judged = {k: v for k, v in dataclasses.asdict(rewards).items()
            if k != "workers"}
  taught, about = teacher(tokenizer, mesh) if teacher else (None, None)
  print(cfg.explain(), flush=True)
  data = ",".join(dict.fromkeys([*train, *held_out]))
  models = reward_models.load(
      rewards, common.COMPUTE.value(), mesh, offload="rewards" in cfg.offload)
  with judging.judge(tokenizer, cfg.template, rewards, tasks.verifiers(data),
                     models) as judge:
    engine = evaluating.sampler(evals, first.model, tokenizer, mesh)
    train = tasks.all_fitting(
        train, judge, cfg.prompt_limit(context), "training")
    questions = mixed(train)
    held_out = ruled(tasks.joined(tasks.all_fitting(
        held_out, judge, context - evals.max_new_tokens, EVAL_SPLIT.value)))
    trained = grpo.run(
        cfg, Handover(first), judge, questions, WORKDIR.value,
        evaluate=evaluating.during(
            evals, engine, judge, held_out, WORKDIR.value)
        if held_out else None,
        mesh=mesh, teacher=taught,
        skip_damaged=training.SKIP_DAMAGED.value, remedies=common.REMEDIES,
        settings=began | {
            "recipe": RECIPE.value, "data": data_sets.DATA.value,
            "mixture": MIXTURE.value, "rewards": judged,
            "data_digest": {name: tasks.digest(prompts)
                            for name, prompts in train.items()},
            "rules": tasks.rule_digests(data),
            "evaluation": evaluation(evals, held_out),
            "reward_models": reward_models.digests(rewards)
        } | ({"teacher": about} if about else {}))
  processes.from_writer(report)
  if EXPORT.value and grpo.finished(WORKDIR.value, cfg):
    training.export(EXPORT.value, trained, tokenizer, WORKDIR.value)


def mixed(parts: Mapping[str, Sequence[Prompt]]) -> Mixture:
  """The questions of --data with the weights of --mixture, or of --data."""
  prompts = Mixture(parts, mixture.parse(MIXTURE.value or data_sets.DATA.value))
  if len(parts) > 1:
    print(prompts.explain(), flush=True)
  return prompts


def evaluation(evals: EvalConfig, held_out: Sequence[Prompt]
               ) -> dict[str, Any]:
  """Settings of a run's evaluations for config.json; {} if there are none."""
  if not held_out:
    return {}
  return evals.settings() | {
      "data": EVAL_DATA.value or data_sets.DATA.value,
      "split": EVAL_SPLIT.value, "digest": tasks.digest(held_out)}


def ruled(prompts: list[Prompt]) -> list[Prompt]:
  """The prompts that a rule judges; prints how many are left out.

  Scores of a reward model that is trained against are no evaluation.
  """
  kept = [prompt for prompt in prompts if prompt.verifier]
  if len(kept) < len(prompts):
    print(f"{len(prompts) - len(kept)} of {len(prompts)} held-out prompts have"
          " no rule and are not evaluated", flush=True)
  return kept


def report() -> None:
  """Writes the report, unless the run was stopped in its first step."""
  if writer.read(WORKDIR.value):
    title = f"GRPO: {epath.Path(WORKDIR.value).name}"
    print(f"report: {reporting.write(WORKDIR.value, title=title)}", flush=True)


if __name__ == "__main__":
  start.run(main, many=True)
