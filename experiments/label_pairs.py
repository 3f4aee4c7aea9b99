"""Preference pairs: answers of one or several policies, judged.

  python -m experiments.label_pairs --policies=orbax:runs/zero,orbax:runs/sft \\
      --data=prompts --data_dir=DIR --judge=hf:JUDGE --out=pairs
  OPENAI_API_KEY=... python -m experiments.label_pairs --init=hf:DIR \\
      --data=my_prompts.py --judge=https://HOST/v1 --endpoint.model=NAME
  python -m experiments.label_pairs --init=hf:DIR --data=my_prompts.py \\
      --judge=my_judge.py --noise=1.0

A judge is orbax:WORKDIR, hf:DIR, the base URL of an endpoint that speaks
OpenAI's chat completions (or R1JAX_JUDGE_URL; its key in OPENAI_API_KEY), or a
Python file with `utility(messages, answer)`. Each pair is judged in both
orders, several times, and kept where the mean vote exceeds one step; then the
lengths of chosen and rejected answers are balanced. Writes OUT/pairs.jsonl, for
experiments.train_reward, and OUT/report.json. What an endpoint answered is kept
in OUT/answers: the same command again asks nothing twice.
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Callable, Sequence

from absl import flags
from etils import epath

from experiments import common, flagset, replying, start
from r1jax.accounting import cost
from r1jax.core import io
from r1jax.core.config import check
from r1jax.core.prompt import Prompt
from r1jax.rewards import annotator, judge
from r1jax.rewards.judge import Pair, Preference
from r1jax.rewards.models import SUMMARY, TEXT
from r1jax.stages import labelling, programs, replies, tasks
from r1jax.stages.replies import ReplyConfig

ASK = flagset.define(ReplyConfig(
    template="", temperature=1.0, top_p=1.0, max_new_tokens=128))
REPLY = flagset.define(ReplyConfig(max_new_tokens=2048), "judge")
POLICIES = flags.DEFINE_string(
    "policies", "", "Whose answers are compared, separated by commas, as --init"
    " names them; default: --init.")
SPLIT = flags.DEFINE_string("split", "train[:64]", "Questions.")
SAMPLES = flags.DEFINE_integer("samples", 2, "Of each policy, a question.")
PAIRS = flags.DEFINE_integer("pairs", 1, "Of each question, at most.")
JUDGE = flags.DEFINE_string(
    "judge", os.environ.get("R1JAX_JUDGE_URL", ""),
    "orbax:WORKDIR, hf:DIR, an endpoint's URL, or a Python file.")
QUERIES = flags.DEFINE_integer(
    "queries", judge.QUERIES, "Of the judge, a pair; half in either order.")
NOISE = flags.DEFINE_float(
    "noise", 0.0, "Scale of a Python judge's Bradley-Terry draw.")
SHOWN = flags.DEFINE_enum(
    "shown", SUMMARY, [SUMMARY, TEXT],
    "What is compared: what follows the thought, or everything.")
BALANCE = flags.DEFINE_bool("balance", True, "Balance lengths.")
OUT = flags.DEFINE_string("out", "runs/pairs", "Folder to write.")


def main() -> None:
  check(bool(JUDGE.value), "give --judge=orbax:WORKDIR, hf:DIR, URL or FILE.py")
  out = epath.Path(OUT.value)
  out.mkdir(parents=True, exist_ok=True)  # before the work
  record = cost.Record(out)
  decide = judge_of(JUDGE.value, out)
  prompts = tasks.joined(common.sources(common.DATA.value, SPLIT.value))
  check(len(prompts) > 0, f"--split={SPLIT.value} of --data has no questions")
  pairs = labelling.draw_pairs(
      prompts, answers(prompts), PAIRS.value, ASK.value().seed)
  print(f"{len(pairs)} pairs of {len(prompts)} questions", flush=True)
  check(bool(pairs), "no two answers to a question differ, or what is shown of"
        " them is blank: give more --samples or a longer --max_new_tokens, or"
        " --shown=text where thoughts do not end")
  judged = decide(pairs)
  kept = [one for one in judged if one.chosen is not None]
  used = labelling.balanced(kept, ASK.value().seed) if BALANCE.value else kept
  report = labelling.report(judged, kept, used) | {
      "judge": JUDGE.value, "policies": policies(), "data": common.DATA.value}
  io.write_json(out / "report.json", report)
  print(json.dumps(report, indent=2), flush=True)
  check(bool(used), f"nothing is left to write: of {len(judged)} pairs"
        f" {report['ties']} are ties, {report['no_verdict']} have no verdict,"
        f" and balancing by length left {len(used)} of {len(kept)} kept ones"
        " (--nobalance writes all of them)")
  sources = {id(prompt.messages): prompt.source for prompt in prompts}
  io.write_text(out / "pairs.jsonl", "".join(
      json.dumps(labelling.row(one, sources[id(one.pair.messages)]),
                 ensure_ascii=False) + "\n" for one in used))
  record.write()
  print(f"wrote {out / 'pairs.jsonl'}; use it as --data of"
        " experiments.train_reward", flush=True)


def policies() -> list[str]:
  """Whose answers are compared."""
  return [p for p in POLICIES.value.split(",") if p] or [common.INIT.value]


def answers(prompts: Sequence[Prompt]) -> list[list[str]]:
  """What all policies say to each question, as it will be compared."""
  answers_by_prompt: list[list[str]] = [[] for _ in prompts]
  ask = ASK.value()
  for number, init in enumerate(policies()):
    policy = replies.load(init, dataclasses.replace(
        ask, template=common.template(ask.template, init),
        seed=ask.seed + number), common.COMPUTE.value(), common.mesh())
    said = policy.samples([p.messages for p in prompts],
                          [p.id for p in prompts], SAMPLES.value)
    replying.report(init, policy)
    for texts, more in zip(answers_by_prompt, said, strict=True):
      texts += [labelling.shown(text, SHOWN.value) for text in more or []]
    del policy  # its memory is the next one's
  return answers_by_prompt


def judge_of(name: str, out: epath.Path
             ) -> Callable[[Sequence[Pair]], list[Preference]]:
  """Pairs to preferences, by whoever `name` names."""
  if name.endswith(".py"):
    module = tasks.module(name, "--judge")
    check(callable(getattr(module, "utility", None)),
          f"{name} has no function utility(messages, answer)")
    return lambda pairs: annotator.annotate(
        module.utility, pairs, seed=ASK.value().seed, scale=NOISE.value)
  generate = programs.replier(name, replying.means(REPLY.value(), out))
  check(generate is not None, f"--judge={name}: give orbax:WORKDIR, hf:DIR, a"
        " URL or FILE.py")

  def asked(pairs: Sequence[Pair]) -> list[Preference]:
    preferences = judge.compare(
        generate, pairs, seed=ASK.value().seed, queries=QUERIES.value)
    replying.report(name, generate)
    return preferences

  return asked


if __name__ == "__main__":
  start.run(main)
