"""pass@1, pass@k and majority voting of a model on a data set.

  python -m experiments.evaluate --init=orbax:runs/zero --split=test

Problems whose prompt and --max_new_tokens exceed the model's context are left
out: how many is printed and stored, and the numbers are about the others.
"""

from __future__ import annotations

import dataclasses

from absl import flags
from etils import epath

from experiments import common, flagset, start
from r1jax.accounting import cost
from r1jax.core import io
from r1jax.report import tables
from r1jax.rewards.combine import RewardConfig
from r1jax.sharding import processes
from r1jax.stages import (
  evaluating,
  judging,
  reporting,
  reward_models,
  tasks,
)
from r1jax.stages.evaluating import EvalConfig

EVAL = flagset.define(EvalConfig)
REWARDS = flagset.define(RewardConfig, "rewards")
SPLIT = flags.DEFINE_string("split", "test", "Problems, e.g. test[:100].")
TEMPLATE = flags.DEFINE_string("template", "", common.TEMPLATE)
OUT = flags.DEFINE_string(
    "out", "runs/evaluate", "Folder for generations.jsonl.gz and result.json.")


def main() -> None:
  cfg, template = EVAL.value(), common.template(TEMPLATE.value)
  policy, tokenizer = common.policy(cfg.seed, common.mesh())
  tokenizer = common.settled(tokenizer, template)
  parts = common.sources(common.DATA.value, SPLIT.value)
  engine = evaluating.sampler(cfg, policy.model, tokenizer, common.mesh())
  out = epath.Path(OUT.value)
  # Before the work, not after it.
  processes.from_writer(lambda: out.mkdir(parents=True, exist_ok=True))
  record = cost.Record(out)
  rewards = REWARDS.value()
  limit = policy.model.cfg.max_position - cfg.max_new_tokens
  models = reward_models.load(rewards, common.COMPUTE.value(), common.mesh())
  with judging.judge(tokenizer, template, rewards,
                     tasks.verifiers(common.DATA.value), models) as judge:
    fitting = tasks.joined(
        tasks.all_fitting(parts, judge, limit, SPLIT.value))
    result = evaluating.evaluate(
        cfg, engine, judge, evaluating.laid_out(policy, engine, donate=True),
        policy.router_bias_LE, fitting,
        path=out / "generations.jsonl.gz")
  left_out = sum(map(len, parts.values())) - len(fitting)
  processes.from_writer(lambda: io.write_json(
      out / "result.json", dataclasses.asdict(result) | {
          "config": dataclasses.asdict(cfg), "init": common.INIT.value,
          "data": common.DATA.value, "split": SPLIT.value,
          "template": template,
          "left_out": left_out}))
  record.write()
  print(tables.comparison(reporting.cells({common.INIT.value: result})))
  print("pass@k: " + "  ".join(
      f"{k}: {v:.3f}" for k, v in result.pass_k.items()))
  print(f"{result.n_prompts} problems x {result.n_samples} samples,"
        f" {result.invalid} without a verdict;"
        f" {left_out} problems left out as too long; generations in {out}")
  if len(result.by_domain) > 1:
    print("pass@1 by domain: " + "  ".join(
        f"{k}: {v:.3f}" for k, v in result.by_domain.items()))


if __name__ == "__main__":
  start.run(main, many=True)
