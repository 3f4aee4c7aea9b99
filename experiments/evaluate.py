"""Evaluates a model on a data set or on suites of benchmarks.

  python -m experiments.evaluate --init=orbax:runs/zero --split=test
  python -m experiments.evaluate --suite=quick
  python -m experiments.evaluate --init=hf:DIR --template=chat-think \\
      --suite=paper --benchmarks_dir=FILES --judge=hf:JUDGE --out=runs/r1
  python -m experiments.evaluate --init=https://HOST/v1 --served.model=NAME \\
      --suite=gsm8k,ifeval --benchmarks_dir=FILES

A suite is paper (R1's table), quick (generated, minutes on a laptop), shared
(openly licensed sets) or names of benchmarks separated by commas. Benchmarks
are sampled as in the paper, at T = 0.6 and top-p 0.95, with their own number of
samples and longest answer unless --samples and --max_new_tokens are given.
Benchmarks with missing files are skipped, and the publishers' sources are
printed. Without a suite, pass@1, pass@k and majority voting are measured on
--data.

Every batch is stored when it is complete, and the same command resumes after
the last one. Problems whose prompt and --max_new_tokens exceed the model's
context are left out of the results; their number is printed and stored.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from absl import flags
from etils import epath

from r1jax.core import io
from r1jax.core.config import check
from r1jax.core.prompt import Prompt, ask
from r1jax.data.text import templates
from r1jax.evals import runner
from r1jax.evals.benchmarks import suites
from r1jax.evals.benchmarks.benchmark import BARE, Benchmark
from r1jax.report import tables
from r1jax.rewards.combine import RewardConfig
from r1jax.rewards.endpoint import Connection, EndpointConfig
from r1jax.rewards.programs.sandbox import SandboxError
from r1jax.sharding import processes
from r1jax.stages import (
  benchmarking,
  checkpoints,
  evaluating,
  judging,
  programs,
  respondents,
  reward_models,
  seen,
  tasks,
  traces,
)
from r1jax.stages.benchmarking import OtherSettingsError, Referee
from r1jax.stages.evaluating import EvalConfig
from r1jax.stages.replies import ReplyConfig
from r1jax.stages.reports import reporting
from r1jax.stages.respondents import Respondent

from . import asking, common, data_sets, flagset, replying, start

EVAL = flagset.define(EvalConfig)
REWARDS = flagset.define(RewardConfig, "rewards")
REPLY = flagset.define(ReplyConfig(temperature=0.0), "judge")
# Temperature, top-p and length are those of EVAL.
SERVED = flagset.define(Connection, "served")
SPLIT = flags.DEFINE_string(
    "split", "test", "Split of --data to evaluate on, such as test[:100].")
TEMPLATE = flags.DEFINE_string("template", "", asking.TEMPLATE)
SUITE = flags.DEFINE_string(
    "suite", "", "Suite to evaluate on instead of --data:"
    f" {', '.join(suites.SUITES)}, or benchmarks separated by commas:"
    f" {', '.join(suites.BENCHMARKS)}.")
BENCHMARKS_DIR = flags.DEFINE_string(
    "benchmarks_dir", "", "Folder of the publishers' files, with a folder for"
    " each benchmark.")
WORDINGS = flags.DEFINE_string(
    "wordings", "", "Folder with your own wordings: NAME.txt, which contains"
    " {question}, is the wording of the benchmark NAME.")
JUDGE = flags.DEFINE_string(
    "judge", "", "Judge of the answers that no rule judges: "
    + programs.HELP.format("(prompt, answer), where answers are compared"
                           " (messages, answer) -> utility,"))
BASELINE = flags.DEFINE_string(
    "baseline", "", "--out of another model's evaluation, whose answers replace"
    " the publisher's baseline in benchmarks that compare answers.")
SEEN = flags.DEFINE_string(
    "seen", "", "Training data of the model, separated by commas: data sets as"
    " gsm8k@train and JSONL files. Problems that share ten consecutive words"
    " with it are listed in contamination.json, and the results give pass@1"
    " without them too.")
CHECKPOINTS = flags.DEFINE_string(
    "checkpoints", "", "Evaluate all checkpoints of --init=orbax:WORKDIR (all)"
    " or those of some steps (such as 40,80), and plot accuracy, length and"
    " reflective words by step.")
OUT = flags.DEFINE_string(
    "out", "runs/evaluate", "Folder for samples, generations and results.")


def main() -> None:
  processes.from_writer(try_seen)  # fail early
  with common.alone(OUT.value):
    if SUITE.value:
      benchmarks()
    else:
      data_set()


def data_set() -> None:
  """Evaluates on --data."""
  cfg, template = EVAL.value(), asking.template(TEMPLATE.value)
  steps = CHECKPOINTS.value and checkpoints.choose(
      CHECKPOINTS.value, common.INIT.value)  # fail early
  began = common.settings_of(OUT.value)
  init = common.frozen(common.INIT.value, began.get("init", ""))
  policy, tokenizer = common.policy(
      cfg.seed, common.mesh(), init, computing=True)
  tokenizer = common.settled(tokenizer, template, date=began.get("date", ""))
  parts = data_sets.sources(SPLIT)
  engine = evaluating.sampler(cfg, policy.model, tokenizer, common.mesh())
  out = epath.Path(OUT.value)
  rewards = rewards_of(template)
  limit = policy.model.cfg.max_position - cfg.max_new_tokens
  models = reward_models.load(rewards, common.COMPUTE.value(), common.mesh())
  settings = {"sampling": cfg.settings(), "init": init,
              "date": tokenizer.date, "dtype": common.COMPUTE.value().dtype,
              "data": data_sets.DATA.value,
              "split": SPLIT.value, "template": template,
              "rules": tasks.rule_digests(data_sets.DATA.value),
              "reward_models": reward_models.digests(rewards), "rewards": {
                  k: v for k, v in dataclasses.asdict(rewards).items()
                  if k != "workers"}}
  with judging.judge(tokenizer, template, rewards,
                     tasks.verifiers(data_sets.DATA.value), models) as judge:
    fitting = tasks.joined(
        tasks.all_fitting(parts, judge, limit, SPLIT.value))
    settings["data_digest"] = tasks.digest(fitting)
    traces.prepare(out, settings, None if CHECKPOINTS.value else policy,
                   tokenizer, "--out")
    if CHECKPOINTS.value:
      print("figure:", checkpoints.evaluate(
          cfg, engine, judge, fitting, common.INIT.value, steps, out,
          common.COMPUTE.value(), common.mesh()), flush=True)
      return
    params = evaluating.laid_out(policy, engine, donate=True)
    rows = evaluating.collect(
        cfg, evaluating.generating(
            cfg, engine, judge, params, policy.router_bias_LE),
        judge, fitting, out)
  if rows is None:
    return
  result = runner.summary(rows)
  left_out = sum(map(len, parts.values())) - len(fitting)
  evaluating.write(out / "generations.jsonl.gz", rows)
  marked = mark(fitting, out)
  processes.from_writer(lambda: io.write_json(
      out / "result.json", dataclasses.asdict(result) | {
          "contamination": marked,
          "config": dataclasses.asdict(cfg), "init": common.INIT.value,
          "data": data_sets.DATA.value, "split": SPLIT.value,
          "template": template,
          "left_out": left_out}))
  print(tables.comparison(reporting.cells({common.INIT.value: result})))
  print("pass@k: " + "  ".join(
      f"{k}: {v:.3f}" for k, v in result.pass_k.items()))
  print(f"{result.n_prompts} problems x {result.n_samples} samples,"
        f" {result.invalid} without a verdict;"
        f" {left_out} problems left out as too long; generations in {out}")
  if len(result.by_domain) > 1:
    print("pass@1 by domain: " + "  ".join(
        f"{k}: {v:.3f}" for k, v in result.by_domain.items()))


def rewards_of(template: str) -> RewardConfig:
  """--rewards; chat templates default to --rewards.extract=last."""
  rewards = REWARDS.value()
  if flags.FLAGS["rewards.extract"].present or not templates.chat_of(template):
    return rewards
  return dataclasses.replace(rewards, extract="last")


def benchmarks() -> None:
  """Evaluates on --suite."""
  chosen, out = suites.named(SUITE.value), epath.Path(OUT.value)
  folders = [out / one.name for one in chosen]
  referee, who = judge_of(out, folders), respondent(folders)
  results, missing, waiting = {}, {}, []
  for one in chosen:
    try:
      check(one.by_rule or referee is not None, f"{one.name} is judged by a"
            " model: give --judge=hf:DIR, orbax:WORKDIR, a URL or a program")
      prompts = benchmarking.questions(
          one, BENCHMARKS_DIR.value, WORDINGS.value)
      cfg = benchmarking.sized(one, EVAL.value(), who.context, typed())
      rows, fitting = benchmarking.sampled(
          one, prompts, cfg, who, rewards_of(who.template), out / one.name)
    except OtherSettingsError:
      raise
    except (ValueError, SandboxError) as error:
      missing[one.name] = str(error)
      print(f"{one.name} is left out: {error}", flush=True)
      continue
    if rows is None:
      return
    found = one, cfg, rows, fitting, len(prompts) - len(fitting)
    if one.by_rule:
      results[one.name] = finished(out, *found)
    else:
      waiting.append(found)
  del who  # the judge may need its memory
  for one, cfg, rows, fitting, left_out in waiting:
    try:
      rows = benchmarking.judged(
          one, rows, fitting, referee, out / one.name, BASELINE.value)
    except OtherSettingsError:
      raise
    except ValueError as error:
      missing[one.name] = str(error)
      print(f"{one.name} is left out: {error}", flush=True)
      continue
    if rows is None:
      return
    results[one.name] = finished(out, one, cfg, rows, fitting, left_out)
  if referee is not None:
    replying.report(JUDGE.value, referee.generate)
  tell(out, [results[one.name] for one in chosen if one.name in results],
       missing)


def tell(out: epath.Path, results: list[dict], missing: dict[str, str]
         ) -> None:
  """Writes the results and why benchmarks were skipped; prints their names."""
  check(bool(results), "nothing was measured: " + "; ".join(missing.values()))
  processes.from_writer(lambda: io.write_json(
      out / benchmarking.RESULTS, {
          "init": common.INIT.value, "judge": JUDGE.value,
          "results": results, "missing": missing}))
  print(benchmarking.table(results))
  if missing:
    print(f"not measured, for the reasons above: {', '.join(missing)}")
  print(f"every figure is in {out / benchmarking.RESULTS}, each benchmark's"
        f" generations in {out}/NAME", flush=True)


def finished(out: epath.Path, one: Benchmark, cfg: EvalConfig,
             rows: benchmarking.Rows, problems: Sequence[Prompt],
             left_out: int) -> dict:
  """Writes and prints a benchmark's result; returns it."""
  folder = out / one.name
  result = benchmarking.told(one, rows, cfg, left_out)
  benchmarking.write(folder, one, rows, result)
  print(benchmarking.table([result], every=True), flush=True)
  if (marked := mark(problems, folder)) is not None:
    result["contamination"] = marked
    processes.from_writer(
        lambda: io.write_json(folder / benchmarking.RESULT, result))
  return result


def try_seen() -> None:
  """Detects data of --seen that cannot be read."""
  with flagset.naming(SEEN):
    seen.try_out(SEEN.value, data_sets.DATA_DIR.value)


def mark(problems: Sequence[Prompt], folder: epath.Path) -> dict | None:
  """Finds, writes and prints problems that overlap --seen; None without it."""
  if not SEEN.value:
    return None
  # Without the wording and examples that a benchmark adds.
  bare = [dataclasses.replace(one, messages=ask(
      one.metadata.get(BARE, one.question))) for one in problems]

  def found() -> dict:
    with flagset.naming(SEEN):
      return seen.mark(bare, SEEN.value, folder, data_sets.DATA_DIR.value)

  marked = processes.from_writer(found)
  print(f"{marked['marked']} of {marked['problems']} problems share text with"
        f" {SEEN.value}: {folder / seen.FILE}", flush=True)
  return marked


def typed() -> set[str]:
  """The sampling flags that the user gave."""
  return {name for name in ("samples", "max_new_tokens")
          if flags.FLAGS[name].present}


def respondent(folders: Sequence[epath.Path]) -> Respondent:
  """The model of --init, at the checkpoint with which `folders` were begun."""
  init = common.INIT.value
  if programs.is_endpoint(init):
    return respondents.behind(EndpointConfig(
        **dataclasses.asdict(SERVED.value()), url=init), replying.key())
  began = next(filter(None, map(common.settings_of, folders)), {})
  init = common.frozen(init, began.get("init", ""))
  template = asking.template(TEMPLATE.value)
  policy, tokenizer = common.policy(EVAL.value().seed, common.mesh(), init)
  tokenizer = common.settled(tokenizer, template, date=began.get("date", ""))
  return respondents.ours(init, policy, tokenizer, template, common.mesh())


def judge_of(out: epath.Path, folders: Sequence[epath.Path]) -> Referee | None:
  """The judge of --judge, as when `folders` were begun; None without one."""
  if not JUDGE.value:
    return None
  means = replying.means(REPLY.value(), out)
  began = next(filter(None, (
      common.settings_of(folder / benchmarking.VERDICTS).get("judge")
      for folder in folders)), {})
  name = common.frozen(JUDGE.value, began.get("name", ""))
  return Referee(name, programs.replier(name, means), means.settings(name),
                 means.reply.seed)


if __name__ == "__main__":
  start.run(main, many=True)
