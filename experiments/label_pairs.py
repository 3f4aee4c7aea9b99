"""Makes preference pairs: answers of one or several policies, judged.

  python -m experiments.label_pairs --policies=orbax:runs/zero,orbax:runs/sft \\
      --data=prompts --data_dir=DIR --judge=hf:JUDGE --workdir=pairs
  OPENAI_API_KEY=... python -m experiments.label_pairs --init=hf:DIR \\
      --data=my_prompts.py --judge=https://HOST/v1 --endpoint.model=NAME
  python -m experiments.label_pairs --init=hf:DIR --data=my_prompts.py \\
      --judge=my_judge.py --noise=1.0

A judge is orbax:WORKDIR, hf:DIR, the base URL of an endpoint with OpenAI's chat
completions API (or R1JAX_JUDGE_URL; its key in OPENAI_API_KEY), or a Python
file with `utility(messages, answer)`. Each pair is judged --queries times, half
in each order, and kept if the mean preference exceeds 1; then the lengths of
chosen and rejected answers are balanced. Writes pairs.jsonl, for
experiments.train_reward, and report.json into --workdir. Answers and verdicts
are stored batch by batch: the same command resumes after a kill without
repeating any, and with --nobalance it writes the pairs again.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import json
import os
import types
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from absl import flags
from etils import epath

from r1jax.checkpoint import fingerprints
from r1jax.core import io
from r1jax.core.config import check
from r1jax.core.prompt import Prompt
from r1jax.report import workdir as workdir_lib
from r1jax.report.progress import Progress
from r1jax.rewards import annotator, judge
from r1jax.rewards.judge import Pair, Preference
from r1jax.rewards.models import SUMMARY, TEXT
from r1jax.stages import labelling, programs, replies, tasks, traces
from r1jax.stages.loop import batches
from r1jax.stages.replies import ReplyConfig

from . import (
  asking,
  common,
  data_sets,
  flagset,
  replying,
  start,
)

ASK = flagset.define(ReplyConfig(
    template="", temperature=1.0, top_p=1.0, max_new_tokens=128))
flags.FLAGS["template"].help = asking.TEMPLATE  # of policies, not of judges
REPLY = flagset.define(ReplyConfig(max_new_tokens=2048), "judge")
POLICIES = flags.DEFINE_string(
    "policies", "", "Models whose answers are judged, separated by commas, in"
    " the forms of --init; default: --init.")
SPLIT = flags.DEFINE_string("split", "train[:64]", "Split of --data to ask.")
SAMPLES = flags.DEFINE_integer("samples", 2, "Answers per policy and question.")
PAIRS = flags.DEFINE_integer(
    "pairs", 1, "The most pairs per question.", lower_bound=1)
JUDGE = flags.DEFINE_string(
    "judge", os.environ.get("R1JAX_JUDGE_URL", ""),
    "The judge: orbax:WORKDIR, hf:DIR, an endpoint's URL, or a Python file.")
QUERIES = flags.DEFINE_integer(
    "queries", judge.QUERIES, "Queries of a judge model per pair, half in each"
    " order (R1: 4).")
NOISE = flags.DEFINE_float(
    "noise", 0.0, "With a Python file as judge: scale of the noise of its"
    " choices (Bradley-Terry model); 0: none.")
SHOWN = flags.DEFINE_enum(
    "shown", SUMMARY, [SUMMARY, TEXT],
    "The part of answers that is judged: the text after the thought, or all.")
BALANCE = flags.DEFINE_bool(
    "balance", True, "Balance the lengths of chosen and rejected answers.")
WORKDIR = flags.DEFINE_string("workdir", "runs/pairs", "Folder of the stage.")
_AT_ONCE = 32  # pairs per stored batch


def main() -> None:
  name = JUDGE.value
  check(bool(name), "give --judge=orbax:WORKDIR, hf:DIR, URL or FILE.py")
  prompts, about = questions(), judge_settings(name, "verdicts")
  decide = judge_of(about["name"])  # early, to detect wrong names
  with taken(prompts) as (out, names):
    texts = answers(prompts, names, out)
    judged = texts and judge_pairs(decide, about, prompts, texts, out)
    if judged:
      write(judged, prompts, names, out)


def questions() -> list[Prompt]:
  """The questions of the flags."""
  prompts = tasks.joined(data_sets.sources(SPLIT))
  check(len(prompts) > 0, f"--split={SPLIT.value} of --data has no questions")
  return prompts


def judge_settings(name: str, folder: str) -> dict[str, Any]:
  """All settings that a judge's verdicts depend on.

  Args:
    name: the value of --judge; its checkpoint is stored with its step.
    folder: subfolder of --workdir with its verdicts.
  """
  began = common.settings_of(epath.Path(WORKDIR.value) / folder)
  name = common.frozen(name, began.get("name", ""))
  if name.endswith(".py"):
    own()
    return {"name": name, "program": tasks.file_digest(name)}
  return replying.means(REPLY.value(), WORKDIR.value).settings(name)


def own() -> types.ModuleType:
  """The module of a --judge that is a Python file."""
  with flagset.naming(JUDGE):
    return tasks.module(JUDGE.value)


@contextlib.contextmanager
def taken(prompts: Sequence[Prompt]
          ) -> Iterator[tuple[epath.Path, list[str]]]:
  """Locks --workdir; yields it and the policies.

  The same command resumes with the stored answers; other settings of the
  answers are an error. The judge's settings are stored in its own folder.
  """
  began = common.settings_of(WORKDIR.value).get("policies", [])
  given = [p for p in POLICIES.value.split(",") if p] or [common.INIT.value]
  names = [common.frozen(init, former) for init, former in
           itertools.zip_longest(given, began[:len(given)], fillvalue="")]
  config = {
      "policies": names, "sampling": dataclasses.asdict(ASK.value()),
      "dtype": common.COMPUTE.value().dtype,
      "samples": SAMPLES.value, "shown": SHOWN.value,
      "data": data_sets.DATA.value, "split": SPLIT.value,
      "data_digest": tasks.digest(prompts),
      "tokenizer": common.TOKENIZER.value and fingerprints.of(
          common.TOKENIZER.value),
      "read": {name: fingerprints.of_model(name) for name in names}}
  with workdir_lib.take(
      WORKDIR.value, config, workdir_lib.versions(),
      remedies=common.REMEDIES | {
          "read": "that model has changed since",
          "tokenizer": traces.REMEDIES["tokenizer"]}):
    yield epath.Path(WORKDIR.value), names


def answers(prompts: Sequence[Prompt], names: Sequence[str], out: epath.Path
            ) -> list[list[str]] | None:
  """All policies' answers to each question, reduced to the part to be judged.

  They are stored batch by batch; None after a signal.
  """
  ask, answers_by_prompt = ASK.value(), [[] for _ in prompts]
  for number, init in enumerate(names):
    folder = out / f"samples_{number}"
    policy = replies.load(init, dataclasses.replace(
        ask, template=asking.template(ask.template, init),
        seed=ask.seed + number), common.COMPUTE.value(), common.mesh(),
        tokenizer=common.TOKENIZER.value)

    def work(batch, policy=policy):
      said = policy.samples([p.messages for p in batch],
                            [p.id for p in batch], SAMPLES.value)
      return [{"id": int(p.id), "said": one} for p, one in zip(batch, said)]

    done = batches.store(folder, prompts, ask.batch, work,
                         title=f"answers of {init}", unit="questions")
    replying.report(init, policy)
    del policy  # frees its memory for the next one
    if not done:
      return None
    rows = batches.read(folder, len(prompts), ask.batch)
    for texts, row in zip(answers_by_prompt, rows, strict=True):
      texts += [labelling.shown(text, SHOWN.value) for text in row["said"] or []
                ]
  return answers_by_prompt


def judge_pairs(decide: Callable[[Sequence[Pair]], list[Preference]],
                about: dict[str, Any], prompts: Sequence[Prompt],
                texts: Sequence[Sequence[str]], out: epath.Path
                ) -> list[Preference] | None:
  """Forms pairs of answers and judges them by batch; None after a signal."""
  pairs = labelling.draw_pairs(prompts, texts, PAIRS.value, ASK.value().seed)
  print(f"{len(pairs)} pairs of {len(prompts)} questions", flush=True)
  check(bool(pairs), "no two answers to a question differ, or the judged parts"
        " are blank: give more --samples or a longer --max_new_tokens, or"
        " --shown=text if thoughts do not end")
  if programs.is_endpoint(JUDGE.value):
    # An endpoint caches its own replies and is asked again after failures.
    with Progress("verdicts", len(pairs), unit="pairs") as progress:
      judged = []
      for start in range(0, len(pairs), _AT_ONCE):
        judged += decide(pairs[start:start + _AT_ONCE])
        progress.step({}, len(judged) - start)
    return judged
  folder = judged_in(out / "verdicts", about | {
      "pairs": PAIRS.value, "queries": QUERIES.value, "noise": NOISE.value})

  def work(batch):
    return [dataclasses.asdict(one) | {"pair": one.pair.id}
            for one in decide(batch)]

  if not batches.store(folder, pairs, _AT_ONCE, work, title="verdicts",
                       unit="pairs"):
    return None
  rows = batches.read(folder, len(pairs), _AT_ONCE)
  return [Preference(**row | {
      "pair": pair, "votes": tuple(row["votes"]),
      "swapped": tuple(row["swapped"])})
          for pair, row in zip(pairs, rows, strict=True)]


def judged_in(folder: epath.Path, settings: dict[str, Any]) -> epath.Path:
  """The folder of verdicts; raises if they were made with other settings."""
  workdir_lib.prepare(
      folder, settings, workdir_lib.versions(), remedies={
          "program": "that file has changed"},
      otherwise=f"remove {folder}: the answers stay")
  return folder


def write(judged: Sequence[Preference], prompts: Sequence[Prompt],
          names: Sequence[str], out: epath.Path) -> None:
  """Writes pairs.jsonl and report.json."""
  kept = [one for one in judged if one.chosen is not None]
  used = labelling.balanced(kept, ASK.value().seed) if BALANCE.value else kept
  report = labelling.report(judged, kept, used) | {
      "judge": JUDGE.value, "policies": list(names),
      "data": data_sets.DATA.value}
  io.write_json(out / "report.json", report)
  print(json.dumps(report, indent=2), flush=True)
  check(bool(used), f"there is nothing to write: of {len(judged)} pairs"
        f" {report['ties']} are ties, {report['no_verdict']} have no verdict,"
        f" and balancing by length left {len(used)} of {len(kept)} others"
        " (--nobalance writes all of them)")
  sources = {id(prompt.messages): prompt.source for prompt in prompts}
  io.write_text(out / "pairs.jsonl", "".join(
      json.dumps(labelling.row(one, sources[id(one.pair.messages)]),
                 ensure_ascii=False) + "\n" for one in used))
  print(f"wrote {out / 'pairs.jsonl'}; use it as --reward_data of"
        " experiments.train_reward", flush=True)


def judge_of(name: str) -> Callable[[Sequence[Pair]], list[Preference]]:
  """The function from pairs to preferences of the judge `name`."""
  if name.endswith(".py"):
    module = own()
    check(callable(getattr(module, "utility", None)),
          f"{name} has no function utility(messages, answer)")
    return lambda pairs: annotator.annotate(
        module.utility, pairs, seed=ASK.value().seed, scale=NOISE.value)
  generate = programs.replier(
      name, replying.means(REPLY.value(), WORKDIR.value))
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
