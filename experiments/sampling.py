"""Flags and start of experiments that sample several answers per question."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from absl import flags

from r1jax.core.config import check
from r1jax.core.prompt import Prompt
from r1jax.rewards.combine import RewardConfig
from r1jax.stages import (
  evaluating,
  judging,
  programs,
  reward_models,
  tasks,
  traces,
)
from r1jax.stages.evaluating import EvalConfig
from r1jax.stages.judging import Judge
from r1jax.stages.replies import ReplyConfig
from r1jax.stages.traces import Judged

from . import asking, common, data_sets, flagset, replying

# Sampling settings of training.
SAMPLE = flagset.define(EvalConfig(temperature=1.0, top_p=1.0))
REWARDS = flagset.define(RewardConfig, "rewards")
SPLIT = flags.DEFINE_string(
    "split", "train", "Split of --data to answer, such as train[:1000].")
TEMPLATE = flags.DEFINE_string("template", "", asking.TEMPLATE)
JUDGE = flags.DEFINE_string(
    "judge", "", "Judge of answers to questions that no rule judges: "
    + programs.HELP.format("(prompt, answer)"))
REPLY = flagset.define(ReplyConfig(temperature=0.0), "judge")


class Asked(NamedTuple):
  """What was sampled, and how.

  Attributes:
    cfg: sampling settings.
    prompts: the questions.
    judge: applies the rules.
    judged: judges answers to questions without a rule; None if --judge is "".
    done: whether all samples are there; False after a signal.
  """

  cfg: EvalConfig
  prompts: Sequence[Prompt]
  judge: Judge
  judged: Judged | None
  done: bool


@contextlib.contextmanager
def asked(workdir: str, title: str) -> Iterator[Asked]:
  """Samples what is not in `workdir` yet, as the flags say.

  Args:
    workdir: folder of the stage.
    title: title of the progress bar.
  """
  with common.alone(workdir):
    yield from _asked(workdir, title)


def _asked(workdir: str, title: str) -> Iterator[Asked]:
  cfg, rewards = SAMPLE.value(), REWARDS.value()
  template, mesh = asking.template(TEMPLATE.value), common.mesh()
  unread = sorted(reward_models.named(rewards))
  check(not unread, f"--rewards.{', --rewards.'.join(unread)}: this command"
        " judges by rules, and by --judge if a question has none; leave reward"
        " models out")
  judged = generate = None
  began, means = common.settings_of(workdir), replying.means(
      REPLY.value(), workdir)
  judge_name = common.frozen(JUDGE.value, (began.get("judge") or {}).get(
      "name", ""))
  if judge_name:
    generate = programs.replier(judge_name, means)
    judged = programs.judge(judge_name, generate, seed=means.reply.seed)
  init = common.frozen(common.INIT.value, began.get("init", ""))
  policy, tokenizer = common.policy(cfg.seed, mesh, init)
  tokenizer = common.settled(tokenizer, template, date=began.get("date", ""))
  parts = data_sets.sources(SPLIT)
  engine = evaluating.sampler(cfg, policy.model, tokenizer, mesh)
  limit = policy.model.cfg.max_position - cfg.max_new_tokens
  with judging.judge(tokenizer, template, rewards,
                     tasks.verifiers(data_sets.DATA.value)) as judge:
    prompts = tasks.joined(tasks.all_fitting(parts, judge, limit, SPLIT.value))
    traces.prepare(workdir, {
        "samples": cfg.settings(), "init": init,
        "date": tokenizer.date, "dtype": common.COMPUTE.value().dtype,
        "data": data_sets.DATA.value, "split": SPLIT.value,
        "template": template,
        "questions": len(prompts), "data_digest": tasks.digest(prompts),
        "rules": tasks.rule_digests(data_sets.DATA.value),
        "judge": judge_name and means.settings(judge_name),
        "rewards": {k: v for k, v in dataclasses.asdict(rewards).items()
                    if k != "workers"}}, policy, tokenizer)
    done = traces.collect(cfg, engine, judge, policy, prompts, workdir,
                          judged=judged, title=title)
    replying.report(JUDGE.value, generate)
    yield Asked(cfg, prompts, judge, judged, done)
