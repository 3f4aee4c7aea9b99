"""Measures accuracy by thinking tokens: budget forcing and majority votes.

  python -m experiments.scaling --init=orbax:runs/zero --data=arith \\
      --budgets=4,8,16,32 --max_new_tokens=96 --samples=8

Every question is sampled --samples times with --max_new_tokens. For each budget
of --budgets, thoughts are cut after so many tokens and the model is made to
answer (budget forcing). The other way to spend tokens is the majority vote of
the uncut samples. Writes OUT/result.json, OUT/tokens.png and the generations of
every budget, OUT/budget_N.jsonl.gz.
"""

from __future__ import annotations

import dataclasses

from absl import flags
from etils import epath

from r1jax.core import io
from r1jax.core.config import check
from r1jax.evals import runner, scaling, summaries
from r1jax.report import rollouts, scaling_figure, tables
from r1jax.report.progress import Progress
from r1jax.rewards.combine import RewardConfig
from r1jax.stages import evaluating, judging, tasks
from r1jax.stages.evaluating import EvalConfig
from r1jax.stages.forcing import Forcing

from . import asking, common, data_sets, flagset, start

EVAL = flagset.define(EvalConfig)
REWARDS = flagset.define(RewardConfig, "rewards")
SPLIT = flags.DEFINE_string(
    "split", "test", "Split of --data to evaluate on, such as test[:100].")
TEMPLATE = flags.DEFINE_string("template", "", asking.TEMPLATE)
BUDGETS = flags.DEFINE_list(
    "budgets", ["8", "16", "32", "64"],
    "Budgets: lengths at which thoughts are cut, in tokens.")
CLOSE = flags.DEFINE_string(
    "close", " </think> <answer>", "Text that is appended to a cut thought to"
    " begin the answer; for R1's format, </think> alone.")
ANSWER = flags.DEFINE_integer(
    "answer_tokens", 32, "Longest answer after a cut thought, in tokens.")
OUT = flags.DEFINE_string("out", "runs/scaling", "Folder for the results.")


def main() -> None:
  with common.alone(OUT.value):
    measure()


def measure() -> None:
  """Samples, forces and draws."""
  cfg, template = EVAL.value(), asking.template(TEMPLATE.value)
  budgets = sorted({int(text) for text in BUDGETS.value})
  check(bool(budgets) and 0 < budgets[0] and budgets[-1] <= cfg.max_new_tokens,
        f"--budgets={','.join(BUDGETS.value)} must lie between 1 and"
        f" --max_new_tokens={cfg.max_new_tokens}")
  rewards = {k: v for k, v in dataclasses.asdict(REWARDS.value()).items()
             if k != "workers"}
  init = common.frozen(common.INIT.value)
  out = common.take(OUT.value, {
      "init": init, "data": data_sets.DATA.value,
      "split": SPLIT.value, "template": template, "budgets": budgets,
      "close": CLOSE.value, "answer_tokens": ANSWER.value, "rewards": rewards,
      "sampling": cfg.settings()})
  policy, tokenizer = common.policy(cfg.seed, common.mesh(), init)
  tokenizer = common.settled(tokenizer, template)
  parts = data_sets.sources(SPLIT)
  engine = evaluating.sampler(cfg, policy.model, tokenizer, common.mesh())
  limit = (policy.model.cfg.max_position - cfg.max_new_tokens - ANSWER.value
           - len(tokenizer.encode_chat(CLOSE.value)))
  results = {}
  with judging.judge(tokenizer, template, REWARDS.value(),
                     tasks.verifiers(data_sets.DATA.value)) as judge:
    prompts = tasks.joined(
        tasks.all_fitting(parts, judge, limit, SPLIT.value))
    forcing = Forcing(
        engine, evaluating.laid_out(policy, engine, donate=True),
        policy.router_bias_LE, judge, cfg.samples, cfg.seed, close=CLOSE.value,
        answer_tokens=ANSWER.value)
    with Progress("thoughts", len(prompts), unit="problems") as shown:
      forcing.draw(prompts, lambda count: shown.step({}, count))
    for budget in budgets:
      found = runner.evaluate(
          prompts, evaluating.answers(forcing.sample(budget), judge),
          batch_size=cfg.batch, path=file(out, budget),
          name=f"thoughts of {budget}")
      results[budget] = dataclasses.asdict(found) | {
          "forced": forcing.forced / forcing.asked}
  told = lines({budget: summaries.by_source(rollouts.read_file(
      file(out, budget))) for budget in budgets})
  io.write_json(out / "result.json", {
      "init": common.INIT.value, "data": data_sets.DATA.value,
      "config": dataclasses.asdict(cfg), "budgets": results, "lines": told})
  scaling_figure.tokens(told, out / "tokens.png")
  print(tables.render(
      ["data", "line", "at", "tokens", "accuracy", "95 % interval"], [
          [source, name, row["label"], f"{row['tokens']:.0f}",
           tables.percent(row["mean"]),
           f"{100 * row['low']:.1f} - {100 * row['high']:.1f} %"]
          for source, of in told.items() for name, rows in of.items()
          for row in rows]))
  print(f"figure: {out / 'tokens.png'}", flush=True)


def file(out: epath.Path, budget: int) -> epath.Path:
  """The file with the generations of a budget."""
  return out / f"budget_{budget:06d}.jsonl.gz"


def lines(by_budget):
  """By data set: accuracies by forced length, and of majority votes by k.

  The votes are among samples of the largest budget.
  """
  longest = by_budget[max(by_budget)]
  told = {}
  for source, problems in longest.items():
    told[source] = {"one sample, forced length": [
        row | {"label": f"≤ {row['budget']}"} for row in scaling.forced(
            {budget: of[source] for budget, of in by_budget.items()})]}
    if problems.samples > 1:
      told[source]["majority of k"] = [
          row | {"label": f"k = {row['k']}"}
          for row in scaling.majority(problems)]
  return told


if __name__ == "__main__":
  start.run(main)
