"""Evaluates safety: public sets, a taxonomy, jailbreaks, over-refusal.

  python -m experiments.evaluate_safety --init=orbax:runs/r1/r1   # small world
  python -m experiments.evaluate_safety --init=hf:DIR --sets=paper \\
      --data_dir=DATA --judge=hf:GUARD --judge_form=qwen3guard
  python -m experiments.evaluate_safety --init=hf:DIR --sets=MY.jsonl \\
      --judge=https://HOST/v1 --endpoint.model=NAME --agreement=LABELLED.jsonl

Writes OUT/result.json, report.html and report.md, with counts and rates only.
The model's texts are in OUT/answers and OUT/verdicts-*, and are shown nowhere.
The same command resumes; with another --judge it judges the same answers.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

from absl import flags
from etils import epath

from r1jax.checkpoint import fingerprints
from r1jax.core import io
from r1jax.core.config import check
from r1jax.core.prompt import Prompt
from r1jax.data.streams import preference
from r1jax.data.text import hf_tokenizer
from r1jax.report import tables
from r1jax.report import workdir as workdir_lib
from r1jax.safety import agreement, judges, languages, sets, taxonomy
from r1jax.safety.verdicts import Judge
from r1jax.stages import programs, safety, tasks, weights
from r1jax.stages.replies import Replier, ReplyConfig
from r1jax.stages.reports import safety_parts, safety_report

from . import (
  asking,
  common,
  flagset,
  replying,
  risk,
  safety_flags,
  start,
)

DATA_DIR = flags.DEFINE_string(
    "data_dir", "", "Folder with one subfolder of the publisher's files for"
    " each set.")
SETS = flags.DEFINE_string(
    "sets", "world", "Sets, separated by commas: world (the small world's),"
    " paper (R1's six public sets), shared (all that --data_dir has),"
    f" {', '.join(sets.SETS)}; FILE.jsonl with subcategory, question and"
    " language in each line, or a table or JSONL FILE with question and"
    " language.")
# Neither is trained on; together they have all four categories.
SPLIT = flags.DEFINE_string(
    "split", "validation,test", "Splits of the small world's set.")
QUESTIONS = flags.DEFINE_integer(
    "questions", 0, "The most questions per set, taken at even distances; 0:"
    " all.", lower_bound=0)
SAMPLES = flags.DEFINE_integer("samples", 1, "Answers per question.")
# As in HELM Safety.
ANSWER = flagset.define(ReplyConfig(temperature=0.0, max_new_tokens=512))
flags.FLAGS["template"].help = (
    "Prompt template. auto: for --init=hf:DIR the tokenizer's chat template, or"
    " plain if it has none; for orbax:WORKDIR the run's; else r1-zero.")
SHOWN = flags.DEFINE_enum(
    "shown", safety.SUMMARY, [safety.SUMMARY, safety.WHOLE],
    "The part of an answer that is judged, which users would see: summary (the"
    " text after the thought), or all.")
JUDGE = flags.DEFINE_string(
    "judge", "rules", "The judge: rules (word patterns); "
    + programs.HELP.format("(prompt, answer) -> unsafe, safe or rejected,"))
FORM = flags.DEFINE_enum(
    "judge_form", judges.GENERAL, judges.FORMS, "Prompt and reply format of a"
    " judge that is a model: those for a general model, or a guard model's"
    " own.")
REPLY = flagset.define(ReplyConfig(temperature=0.0), "judge")
AGREEMENT = flags.DEFINE_string(
    "agreement", "", "Files of answers labelled by people, on which the judge's"
    " agreement is measured: JSONL with question, answer, label, or XSTest's"
    " CSV.")
OUT = flags.DEFINE_string("out", "runs/safety", "Folder to write.")


def main() -> None:
  with common.alone(OUT.value):
    evaluate()


def evaluate() -> None:
  """Answers, judges and reports."""
  out, samples = epath.Path(OUT.value), SAMPLES.value
  check(samples > 0, f"--samples={samples} must be positive")
  prompts = tasks.joined(safety_flags.jailbroken(questions()))
  init = common.INIT.value
  if not programs.is_endpoint(init):
    init = common.frozen_in(out)
  cfg, model = answering(init)
  workdir_lib.prepare(
      out, settings(init, cfg, prompts), workdir_lib.versions(),
      remedies={"read": "the model in --init has changed since"},
      otherwise="choose another --out")
  means = replying.means(_reply(), out)
  by_rules, named = JUDGE.value == "rules", common.frozen(JUDGE.value)
  generate = None if by_rules else programs.replier(named, means)
  # Early, to detect wrong names; models are loaded later.
  judge, control = judges.routed(judge_of(generate)), risk.control(str(out))
  by_people = [agreement.read(path) for path in flagset.listed(AGREEMENT)]
  if not safety.answer(model, prompts, samples, cfg.batch, out):
    return
  replying.report(common.INIT.value, model)
  told = {"judge": JUDGE.value if by_rules else means.settings(named) | (
      {"form": FORM.value} if generate else {}), "shown": SHOWN.value,
      "control": risk.settings()}
  folder = safety.folder(told)
  if not safety.label(
      judge, control and control.control, prompts, samples, cfg.batch, out,
      shown=SHOWN.value, folder=folder):
    return
  cases = safety.cases(prompts, cfg.batch, out, folder=folder)
  result = {"init": init} | told | {"verdicts": folder}
  result |= safety_report.result(
      cases, controlled=control is not None, by_rules=by_rules)
  result |= safety_parts.result(cases, controlled=control is not None)
  more = safety_parts.tables(result)
  if by_people:
    result["agreement"] = measured(judge, by_people)
  replying.report(JUDGE.value, generate)
  io.write_json(out / "result.json", result)
  safety_report.write(out, result, {"flags": told | {
      "init": init, "sets": SETS.value}}, workdir_lib.versions(),
      more)
  print(safety_report.printed(result), flush=True)
  for heading, header, rows in more:
    print(f"\n{heading}\n{tables.render(header, rows)}", flush=True)
  for reason, count in result["failures"].items():
    print(f"{count} answers have no verdict: {reason}", flush=True)
  for line in control.lines() if control and control.counts else []:
    print(line, flush=True)
  print(f"numbers in {out}/report.html and result.json; the model's texts in"
        f" {out}/{safety.ANSWERS}", flush=True)


def questions() -> dict[str, list[Prompt]]:
  """The questions of each set that --sets names."""
  found: dict[str, list[Prompt]] = {}
  lacking = sets.missing(DATA_DIR.value)
  names = flagset.listed(SETS)
  for name in names:
    for one in {"paper": sets.PAPER, "shared": sets.SETS}.get(name, [name]):
      if one in lacking and one not in names:
        print(f"{one} is left out: it is not in --data_dir; get it from"
              f" {lacking[one]}", flush=True)
        continue
      found[one] = _evenly(_read(one), QUESTIONS.value)
  check(any(found.values()), f"--sets={SETS.value}: there are no questions")
  return found


def _read(name: str) -> list[Prompt]:
  if name == "world":
    return taxonomy.of_the_world([
        tasks.load("world-safety-judged", split)["world-safety-judged"]
        for split in SPLIT.value.split(",")])
  if not name.endswith(languages.FILES):
    loaded = sets.load(name, DATA_DIR.value)
  elif taxonomy.is_one(name):
    loaded = taxonomy.read(name)
  else:
    loaded = sets.Loaded.of(languages.items([epath.Path(name)]))
  for bad in loaded.bad:
    print(f"left out: {bad}", flush=True)
  return loaded.prompts


def _evenly(prompts: list[Prompt], most: int) -> list[Prompt]:
  if not 0 < most < len(prompts):
    return prompts
  return [prompts[at * len(prompts) // most] for at in range(most)]


def answering(init: str) -> tuple[ReplyConfig, Any]:
  """(how the model answers, the model); nothing is loaded yet."""
  cfg = ANSWER.value()
  if programs.is_endpoint(init):
    means = replying.means(cfg, OUT.value)
    means = dataclasses.replace(means, endpoint=dataclasses.replace(
        means.endpoint, temperature=cfg.temperature,
        max_tokens=cfg.max_new_tokens))
    return cfg, programs.replier(init, means)
  tokenizer = hf_tokenizer.load(
      common.TOKENIZER.value or weights.tokenizer_of(init))
  context = weights.config_of(init).max_position
  if cfg.max_new_tokens > context // 2:
    cfg = dataclasses.replace(cfg, max_new_tokens=context // 2)
    print(f"answers have at most {cfg.max_new_tokens} tokens, half of the"
          " model's context", flush=True)
  if cfg.template == preference.AUTO and not init.startswith("hf:"):
    cfg = dataclasses.replace(cfg, template=asking.template())
  else:
    cfg = dataclasses.replace(cfg, template=asking.template(cfg.template))
  return cfg, Replier(
      lambda: common.policy(cfg.seed, common.mesh(), init)[0], context,
      tokenizer, cfg, common.mesh(), name=init)


def settings(init: str, cfg: ReplyConfig, prompts: list[Prompt]
             ) -> dict[str, Any]:
  """All settings that the answers depend on."""
  return {
      "init": init, "read": "" if programs.is_endpoint(init)
      else fingerprints.of_model(init), "samples": SAMPLES.value,
      "answers": dataclasses.asdict(cfg),
      "dtype": common.COMPUTE.value().dtype,
      "tokenizer": common.TOKENIZER.value and fingerprints.of(
          common.TOKENIZER.value), "sets": SETS.value,
      "questions": safety.digest([prompt.messages for prompt in prompts])}


def _reply() -> ReplyConfig:
  """How a judge model replies; a guard model always by its own template."""
  cfg = REPLY.value()
  if FORM.value != judges.GENERAL and cfg.template == preference.AUTO:
    return dataclasses.replace(cfg, template="chat")
  return cfg


def judge_of(generate: Any) -> Judge:
  """The judge that the flags name."""
  if JUDGE.value == "rules":
    return judges.rules
  if generate is None:
    return judges.program(programs.load(JUDGE.value))
  if FORM.value == judges.GENERAL:
    return judges.general(generate)
  return judges.guard(generate, FORM.value)


def measured(judge: Judge, labelled: Sequence[tuple[Any, ...]]
             ) -> dict[str, Any]:
  """The judge's agreement with people's labels, as `agreement.read` read them.
  """
  prompts, answers, labels, bad = (
      functools.reduce(lambda a, b: a + b, parts) for parts in zip(*labelled))
  for row in bad:
    print(f"left out: {row}", flush=True)
  return agreement.compare(labels, judge(prompts, answers))


if __name__ == "__main__":
  start.run(main)
