"""Samples and judges benchmarks and reports their results.

OUT/NAME/ has config.json, samples/ and, if a model judges, verdicts/. A killed
run resumes with the batch that was in progress; a finished one is read. A
benchmark that cannot be measured (without its files, a sandbox or a judge) is
reported with the reason, and the others run.
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from etils import epath

from r1jax.core import io
from r1jax.core.config import check
from r1jax.core.prompt import Message, Prompt
from r1jax.data.sources import load
from r1jax.data.text import templates
from r1jax.evals import summaries as statistics
from r1jax.evals.benchmarks import benchmark as benchmark_lib
from r1jax.evals.benchmarks.benchmark import Benchmark
from r1jax.evals.benchmarks.statistic import Number
from r1jax.report import tables
from r1jax.report import workdir as workdir_lib
from r1jax.rewards import annotator, response
from r1jax.rewards import judge as judge_lib
from r1jax.rewards.combine import RewardConfig
from r1jax.rewards.judge import Generate, Pair
from r1jax.rewards.score import Score
from r1jax.sharding import processes
from r1jax.stages import (
  evaluating,
  judging,
  programs,
  safety,
  tasks,
  traces,
)
from r1jax.stages.evaluating import EvalConfig
from r1jax.stages.loop import batches
from r1jax.stages.respondents import Respondent

VERDICTS, ANSWERS, RESULT = "verdicts", "answers.jsonl", "result.json"
RESULTS = "results.json"
_BATCH = 16  # problems whose answers are judged at once
_REMEDIES = traces.REMEDIES | {
    "data_digest": "the benchmark's files or --wordings have changed since",
    "baseline_digest": "the baseline's answers have changed since"}
_ORDERS = 2  # a pair is judged once in each order of its answers

Rows = list[dict[str, Any]]


class OtherSettingsError(ValueError):
  """A folder was made with other settings; the whole command ends."""


class Referee(NamedTuple):
  """The judge of benchmarks without a rule.

  Attributes:
    name: value of --judge.
    generate: replies of the model or endpoint; None if a program judges.
    settings: what its verdicts depend on, JSON-ready.
    seed: seed of the order of pairs and of the delimiters around texts.
  """

  name: str
  generate: Generate | None
  settings: dict[str, Any]
  seed: int = 0


def questions(one: Benchmark, folder: str | os.PathLike = "",
              wordings: str | os.PathLike = "") -> list[Prompt]:
  """The problems of a benchmark, worded for the model.

  Args:
    one: the benchmark.
    folder: folder of the publishers' files, with a folder for each data set.
    wordings: folder in which NAME.txt, if it exists, is the wording of the
      benchmark NAME, with {question} once.

  Raises:
    ValueError: files are missing or damaged; names the publisher's source.
  """
  where: epath.Path | None = None
  if one.publisher:
    where = epath.Path(folder or ".").expanduser()
    if one.folder and (where / one.folder).is_dir():
      where /= one.folder
  try:
    check(not one.publisher or bool(folder), f"{one.name} needs"
          f" --benchmarks_dir=DIR with the folder {one.folder or one.source}")
    prompts = list(load.load(one.source, where, one.split))
    shots = load.load(
        one.source, where, one.shots_split) if one.shots else ()
    wording = epath.Path(wordings) / f"{one.name}.txt" if wordings else None
    text = templates.read(f"file:{wording}") if (
        wording and wording.exists()) else ""
    return benchmark_lib.asked(one, prompts, list(shots), text)
  except ValueError as error:
    if not one.publisher:
      raise
    raise ValueError(
        f"{error}. The publisher has them here: {one.publisher}") from error


def sized(one: Benchmark, cfg: EvalConfig, context: int,
          given: Mapping[str, Any]) -> EvalConfig:
  """The sampling settings of a benchmark.

  Args:
    one: the benchmark.
    cfg: the flags' settings.
    context: the model's context, in tokens; if the benchmark's longest answer
      does not fit, half of the context is taken.
    given: names of fields that the user typed, which override the benchmark's.
  """
  samples = cfg.samples if "samples" in given else one.samples
  tokens = cfg.max_new_tokens if "max_new_tokens" in given else one.tokens
  if tokens >= context:
    tokens = context // 2
  return dataclasses.replace(cfg, samples=samples, max_new_tokens=tokens)


def prepare(folder: str | os.PathLike, settings: dict[str, Any],
            what: str) -> None:
  """Starts a folder, or checks that it was started with the same settings.

  Raises:
    OtherSettingsError: it was started with others.
  """
  try:
    processes.from_writer(lambda: workdir_lib.prepare(
        folder, settings, workdir_lib.versions(), remedies=_REMEDIES,
        otherwise=f"{what}, or remove the folder") and None)
  except ValueError as error:
    raise OtherSettingsError(str(error)) from error


def sampled(one: Benchmark, prompts: Sequence[Prompt], cfg: EvalConfig,
            who: Respondent, rewards: RewardConfig, folder: str | os.PathLike
            ) -> tuple[Rows | None, Sequence[Prompt]]:
  """Samples a benchmark and judges by rules.

  Args:
    one: the benchmark.
    prompts: all its problems; those that exceed the context are left out.
    cfg: sampling settings, made by `sized`.
    who: the model.
    rewards: settings of the rules; accuracy counts, the format is stored.
    folder: folder of the benchmark.

  Returns:
    (rows, problems that fit); the rows are None after a signal.

  Raises:
    ValueError, SandboxError: no problem fits, or a rule lacks what it needs.
    OtherSettingsError: the folder has the samples of other settings.
  """
  with judging.judge(who.tokenizer, who.template, rewards, one.rules) as judge:
    fitting = tasks.fitting(
        prompts, judge, who.context - cfg.max_new_tokens, one.name)
    prepare(folder, who.settings | {
        "benchmark": one.name, "template": who.template,
        "data_digest": tasks.digest(fitting), "sampling": cfg.settings(),
        "rewards": {k: v for k, v in dataclasses.asdict(rewards).items()
                    if k != "workers"}}, "choose another --out")
    rows = evaluating.collect(
        cfg, who.sample(cfg, judge), judge, fitting, folder,
        title=one.name, ruled=one.by_rule)
  if rows and who.silent:
    # A failed request has no verdict; it is not a wrong answer.
    rows = [row | {"valid": [
        bool(valid and text) for valid, text in zip(
            row["valid"], row["completions"], strict=True)]} for row in rows]
  return rows, fitting


def summaries(rows: Rows) -> list[list[str]]:
  """Each sample's answer without its thought, which is all a judge sees."""
  return [[response.split(row["tail"], text).answer
           for text in row["completions"]] for row in rows]


def judged(one: Benchmark, rows: Rows, prompts: Sequence[Prompt],
           referee: Referee, folder: str | os.PathLike,
           baseline: str | os.PathLike = "") -> Rows | None:
  """Adds a judge's verdicts to the rows and stores them in `folder`/verdicts.

  Args:
    one: a benchmark that needs a judge.
    rows: its samples.
    prompts: its problems, in the same order.
    referee: the judge.
    folder: folder of the benchmark.
    baseline: folder of another model's evaluation, whose answers to the same
      questions replace the publisher's baseline.

  Returns:
    Rows with "accuracy" among the parts, "valid" and "reasons"; if answers are
    compared also "pairs": both texts and the votes, positive for the model.
    None after a signal.

  Raises:
    ValueError: there is no baseline to compare with.
    OtherSettingsError: the folder has verdicts of another judge.
  """
  against = _baseline(one, prompts, baseline)
  verdicts = epath.Path(folder) / VERDICTS
  prepare(verdicts, {"judge": referee.settings, "seed": referee.seed,
                     "baseline": os.fspath(baseline),
                     "baseline_digest": safety.digest(against)},
          "give the same judge")
  items = list(zip(rows, prompts, summaries(rows), against, strict=True))
  judge = _pairs if one.scorer == benchmark_lib.PAIRS else _graded
  if not batches.store(
      verdicts, items, _BATCH, lambda part: judge(one, part, referee),
      title=f"judge {one.name}", unit="problems"):
    return None
  found = list(batches.read(verdicts, len(items), _BATCH))
  joined = []
  for row, prompt, said in zip(rows, prompts, found, strict=True):
    check(said["id"] == row["id"], f"{verdicts} has verdicts on other problems;"
          " remove it")
    joined.append(row | {
        "judged": True, "parts": row["parts"] | {"accuracy": said["values"]},
        "valid": said["valid"],
        "reasons": [given | {"accuracy": reason} for given, reason in zip(
            row["reasons"], said["reasons"], strict=True)],
        "pairs": said.get("pairs"),
        "metadata": {k: v for k, v in prompt.metadata.items()
                     if k != "baseline"}})
  return joined


def told(one: Benchmark, rows: Rows, cfg: EvalConfig, left_out: int
         ) -> dict[str, Any]:
  """The stored result of a benchmark, JSON-ready."""
  lengths = [length for row in rows for length in row["lengths"]]
  return {
      "name": one.name, "title": one.title, "paper": one.paper,
      "numbers": [number._asdict() for number in one.numbers(rows)],
      # Of all problems and by part; samples without a judge's verdict do not
      # count.
      "statistics": statistics.of_rows(rows, np.array([
          np.array(row["parts"]["accuracy"]) * row["valid"] for row in rows]),
          None if one.by_rule else np.array([row["valid"] for row in rows])),
      "problems": len(rows), "samples": cfg.samples, "left_out": left_out,
      "temperature": cfg.temperature, "top_p": cfg.top_p,
      "max_new_tokens": cfg.max_new_tokens, "seed": cfg.seed,
      "mean_length": float(np.mean(lengths)),
      "truncated": float(np.mean(
          [cut for row in rows for cut in row["truncated"]])),
      "invalid": int(sum(not v for row in rows for v in row["valid"]))}


def write(folder: str | os.PathLike, one: Benchmark, rows: Rows,
          result: Mapping[str, Any]) -> None:
  """Writes a benchmark's result, generations and, if judged, answers."""
  folder = epath.Path(folder)
  evaluating.write(folder / "generations.jsonl.gz", rows)

  def others():
    if not one.by_rule:
      io.write_text(folder / ANSWERS, "".join(
          json.dumps({"id": row["id"], "question": row["question"],
                      "answers": said}) + "\n"
          for row, said in zip(rows, summaries(rows), strict=True)))
    io.write_json(folder / RESULT, result)

  processes.from_writer(others)


def table(results: Sequence[Mapping[str, Any]], every: bool = False) -> str:
  """A table with a line per benchmark, or per figure if `every`.

  The tokens of an endpoint's answers are not known.
  """
  lines = []
  for result in results:
    numbers = [Number(**number) for number in result["numbers"]]
    for at, number in enumerate(numbers if every else numbers[:1]):
      lines.append([
          result["title"] if not at else "", number.name, _value(number),
          _interval(number), str(number.count), str(result["samples"]),
          f"{result['mean_length']:.0f}" if result["mean_length"] else "-",
          str(result["invalid"]), number.note])
  return tables.render(
      ["benchmark", "figure", "value", "95 % interval", "problems", "k",
       "tokens", "no verdict", "note"], lines)


def _graded(one: Benchmark, part: Sequence[Any], referee: Referee) -> Rows:
  asked = [(prompt, answer) for _, prompt, answers, _ in part
           for answer in answers]
  if referee.generate is None:
    scores = programs.judge(referee.name, None)(*map(list, zip(*asked)))
  else:
    scores = judge_lib.correct(
        referee.generate, [prompt.question for prompt, _ in asked],
        [str(prompt.reference) for prompt, _ in asked],
        [answer for _, answer in asked], seed=referee.seed,
        attempts=one.scorer == benchmark_lib.ATTEMPTS)
  given = iter(scores)
  return [_verdict(row, [next(given) for _ in answers])
          for row, _, answers, _ in part]


def _pairs(one: Benchmark, part: Sequence[Any], referee: Referee) -> Rows:
  pairs = [
      Pair(id=row["id"] * len(answers) + g, messages=prompt.messages,
           first=answer, second=against)
      for row, prompt, answers, against in part
      for g, answer in enumerate(answers) if answer.strip()]
  if referee.generate is None:
    utility: Callable[[Sequence[Message], str], float] = programs.load(
        referee.name)
    said = annotator.annotate(utility, pairs, seed=referee.seed, scale=0.0)
  else:
    said = judge_lib.compare(
        referee.generate, pairs, seed=referee.seed, queries=_ORDERS)
  by_pair = {one.pair.id: one for one in said}
  rows = []
  for row, _, answers, against in part:
    scores, kept = [], []
    for g, answer in enumerate(answers):
      known = by_pair.get(row["id"] * len(answers) + g)
      # A blank answer loses without a judgement.
      votes = list(known.votes) if known else [-2] * _ORDERS
      scores.append(_preferred(votes))
      kept.append({"answer": answer, "baseline": against, "votes": votes})
    rows.append(_verdict(row, scores) | {"pairs": kept})
  return rows


def _preferred(votes: Sequence[int | None]) -> Score:
  """Mean over both orders: 1 for a win, 1/2 for a tie; both must be there."""
  if None in votes:
    return Score(0.0, False, "no verdict in one of the orders")
  value = float(np.mean([0.5 + 0.5 * np.sign(vote) for vote in votes]))
  return Score(value, True, "better" if value > 0.5 else
               "worse" if value < 0.5 else "as good")


def _verdict(row: Mapping[str, Any], scores: Sequence[Score]
             ) -> dict[str, Any]:
  return {"id": row["id"], "values": [score.value for score in scores],
          "valid": [score.valid for score in scores],
          "reasons": [score.reason for score in scores]}


def _baseline(one: Benchmark, prompts: Sequence[Prompt],
              folder: str | os.PathLike) -> list[str]:
  """The baseline's answer to each problem; "" if answers are not compared."""
  if one.scorer != benchmark_lib.PAIRS:
    return [""] * len(prompts)
  known = {}
  if folder:
    path = epath.Path(folder) / one.name / ANSWERS
    check(path.exists(), f"--baseline={folder} has no {one.name}/{ANSWERS}:"
          f" evaluate that model on {one.name} first")
    for line in path.read_text().splitlines():
      row = json.loads(line)
      known[row["question"]] = row["answers"][0]
  found = [known.get(p.question, p.metadata.get("baseline")) for p in prompts]
  check(None not in found, f"{one.name}: {found.count(None)} of {len(found)}"
        " problems have no baseline answer; give --baseline=FOLDER of another"
        f" model's evaluation, or get the publisher's: {one.publisher}")
  return found


def _value(number: Number) -> str:
  if number.value is None:
    return "-"
  return f"{100 * number.value:.1f} %" if number.share else (
      f"{number.value:.0f}")


def _interval(number: Number) -> str:
  if number.low is None or number.high is None:
    return "-"
  if number.share:
    return f"{100 * number.low:.1f} - {100 * number.high:.1f} %"
  return f"{number.low:.0f} - {number.high:.0f}"
