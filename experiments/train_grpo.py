"""R1-Zero: GRPO with rule rewards, and with reward models.

  python -m experiments.train_grpo --workdir=runs/zero
  python -m experiments.train_grpo --workdir=runs/g --data=gsm8k --data_dir=DIR
  python -m experiments.train_grpo --workdir=runs/five \
      --data=arith:1,functions:1,units:1,ciphers:1,constraints:1
  python -m experiments.train_grpo --workdir=runs/stage2 --data=general.py \
      --rewards.equation=r1-stage2 --rewards.helpful=orbax:runs/helpful \
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
  exporting,
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
    "recipe", "", "All settings of a kind of run: "
    + ", ".join(recipe.names()) + ", or a file of flags; single flags change"
    " it. Default: embedded for --init=base, r1-zero for other parameters.")
LOSS = flags.DEFINE_string(
    "loss", "", "The objective alone by its paper, at the recipe's sizes: "
    + ", ".join(loss_presets.PRESETS) + "; single flags change it.")
WORKDIR = flags.DEFINE_string("workdir", "runs/zero", "Folder of the run.")
MIXTURE = flags.DEFINE_string(
    "mixture", "", "Weights by domain instead: r1-rl has the paper's,"
    " r1-rl:math+code those of two.")
EXPORT = flags.DEFINE_string("export", "", training.EXPORT)
EVAL_DATA = flags.DEFINE_string(
    "eval_data", "", "Data sets evaluated during training; those of --data"
    " unless given.")
EVAL_SPLIT = flags.DEFINE_string(
    "eval_split", "validation[:64]", "Split of each of them, e.g. test[:100].")


def main() -> None:
  train()


def train(teacher: Callable[..., tuple[Weights, Any]] | None = None,
          follow: FlagSet[DistillConfig] | None = None) -> None:
  """What the flags say.

  Args:
    teacher: (tokenizer, mesh) -> whom a student follows, and what defines it.
    follow: how it does.
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
    exporting.check_unused(EXPORT.value)  # before the work
  # pmap makes its replicas by itself; the first device samples.
  mesh = common.mesh() if cfg.driver == "mesh" else None
  first, tokenizer, began = training.begin(
      WORKDIR.value, cfg.seed, mesh, cfg.lora)
  tokenizer = common.settled(tokenizer, cfg.template, WORKDIR.value)
  context = first.model.cfg.max_position
  first.model.cfg.check_length(cfg.row_length, "row_length")
  train = data_sets.sources(data_sets.DATA.value, "train")
  held_out = data_sets.sources(
      EVAL_DATA.value or data_sets.DATA.value, EVAL_SPLIT.value
  ) if cfg.eval_every else {}
  # On another machine a run may go on with another number of children.
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
  """The sources of --data in the amounts of --mixture, or else of --data."""
  prompts = Mixture(parts, mixture.parse(MIXTURE.value or data_sets.DATA.value))
  if len(parts) > 1:
    print(prompts.explain(), flush=True)
  return prompts


def evaluation(evals: EvalConfig, held_out: Sequence[Prompt]
               ) -> dict[str, Any]:
  """What the evaluations of a run are, for config.json; {} without any."""
  if not held_out:
    return {}
  return evals.settings() | {
      "data": EVAL_DATA.value or data_sets.DATA.value,
      "split": EVAL_SPLIT.value, "digest": tasks.digest(held_out)}


def ruled(prompts: list[Prompt]) -> list[Prompt]:
  """Those that a rule judges; says how many are not evaluated.

  A reward model's score that rises proves nothing, so it is no evaluation.
  """
  kept = [prompt for prompt in prompts if prompt.verifier]
  if len(kept) < len(prompts):
    print(f"{len(prompts) - len(kept)} of {len(prompts)} held-out prompts have"
          " no rule and are not evaluated", flush=True)
  return kept


def report() -> None:
  """Writes the report, unless the run was stopped before its first row."""
  if writer.read(WORKDIR.value):
    title = f"GRPO: {epath.Path(WORKDIR.value).name}"
    print(f"report: {reporting.write(WORKDIR.value, title=title)}", flush=True)


if __name__ == "__main__":
  start.run(main, many=True)
