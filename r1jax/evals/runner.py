"""Evaluates answers to a set of problems, each scored exactly once."""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import gzip
import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import jax
import numpy as np

from r1jax.core import io
from r1jax.core.prompt import Prompt
from r1jax.core.types import Scored
from r1jax.evals import estimators, summaries
from r1jax.report import rollouts
from r1jax.report.progress import Progress
from r1jax.sharding import processes

Item = tuple[int, Prompt]  # a problem and its number
Rows = list[dict[str, Any]]  # of problems, as `of_problems` makes them
# Takes batches of problems; yields this process's rows of each batch in order,
# and None, any number of times, while the next batch is not complete.
Answers = Callable[[Sequence[Sequence[Item]]], Iterator[Rows | None]]

# Fields that are stored for people to read and enter no statistic.
_READ = ("question", "reference", "completions", "reasons", "measures")


@dataclasses.dataclass(frozen=True, kw_only=True)
class EvalResult:
  """Results of an evaluation; shares are in [0, 1].

  Attributes:
    pass1, pass1_error, pass1_low, pass1_high: mean over samples and problems,
      its standard error (clustered by problem) and 95 % interval.
    pass_k: unbiased pass@k by k, averaged over problems.
    maj_k: share of problems that the majority of all their samples solves.
    format: mean format reward; None if it was not scored.
    mean_length: tokens per completion, the end-of-sequence id included.
    truncated: share of completions that met the length limit.
    invalid: samples without a verdict (crash, deadline); counted as wrong.
    n_prompts, n_samples: problems, and samples per problem, in the data.
    by_level: pass@1 by `prompt.metadata["level"]`, of prompts that have one.
    by_domain: pass@1 by domain.
    statistics: means with their intervals, see `summaries.of_rows`.
  """

  pass1: float
  pass1_error: float
  pass1_low: float
  pass1_high: float
  pass_k: dict[int, float]
  maj_k: float
  format: float | None
  mean_length: float
  truncated: float
  invalid: int
  n_prompts: int
  n_samples: int
  by_level: dict[str, float]
  by_domain: dict[str, float]
  statistics: dict[str, Any] = dataclasses.field(default_factory=dict)


def evaluate(
    prompts: Sequence[Prompt], answers: Answers, *, batch_size: int,
    path: str | os.PathLike | None = None, name: str = "evaluate",
    progress: bool = True, interrupted: Callable[[], bool] = lambda: False,
) -> EvalResult | None:
  """Samples and judges answers and computes the statistics.

  Under several processes each evaluates its part of every batch and stores its
  samples (`report.rollouts` names and reads the files); all get the result.

  Args:
    prompts: the problems; their ids are unique.
    answers: samples and judges the problems, which are numbered from 0. Called
      once with all batches, so that samples of the next batch may be decoded
      while those of a batch end. Of the rewards, "accuracy" (1 correct, 0
      wrong) is needed and "format" is optional; majority votes use the answers.
    batch_size: problems of a batch.
    path: where to store every generation, one JSON line each, gzipped, written
      whole or not at all; None stores nothing.
    name: label of the progress bar.
    progress: whether to show it.
    interrupted: called by all processes before each item of `answers`; True
      ends the evaluation.

  Returns:
    The result; None if interrupted, and then nothing is stored.

  Raises:
    ValueError: no prompts, repeated ids, a batch size below 1, or a number of
      samples that changes between problems.
    RuntimeError: a problem was not scored exactly once.
  """
  check(prompts, batch_size)
  items = list(enumerate(prompts))
  batches = [items[at:at + batch_size]
             for at in range(0, len(items), batch_size)]
  found, rows = answers(batches), []
  with (Progress(name, len(prompts), unit="problems") if progress
        else contextlib.nullcontext()) as shown:
    for batch in batches:
      new = None
      while new is None:
        if interrupted():
          return None
        new = next(found)
      rows += new
      if shown:
        shown.step({}, len(batch))
  if path is not None:
    store(path, rows)
  every = sum(processes.gather([
      {k: v for k, v in row.items() if k not in _READ} for row in rows]), [])
  return summary(once(every, prompts))


def once(rows: Sequence[dict[str, Any]], prompts: Sequence[Prompt]
         ) -> Rows:
  """The rows in the order of the problems.

  Raises:
    RuntimeError: there is not exactly one row for each problem.
  """
  times = collections.Counter(row["id"] for row in rows)
  if times != collections.Counter(p.id for p in prompts):
    raise RuntimeError("some problem was not scored exactly once")
  return sorted(rows, key=lambda row: row["number"])


def check(prompts: Sequence[Prompt], batch_size: int) -> None:
  """Checks that there are problems and that their ids are unique.

  Raises:
    ValueError: no problems, a repeated id, or a batch size below 1.
  """
  if batch_size < 1:
    raise ValueError(f"batch_size={batch_size}: at least 1 is needed")
  if not prompts:
    raise ValueError("no prompts to evaluate: check the split and its filters")
  twice = [i for i, n in collections.Counter(p.id for p in prompts).items()
           if n > 1]
  if twice:
    raise ValueError(
        f"prompt ids occur twice: {twice[:5]}; ids must be unique")


def of_problems(scored: Scored, items: Sequence[Item], *,
                ruled: bool = True) -> Rows:
  """One JSON-ready row per problem, with lists over its samples.

  Args:
    scored: the judged samples of the problems.
    items: the problems with their numbers.
    ruled: whether every problem must have an "accuracy" reward from a rule; if
      not, "accuracy" is among a row's "parts" only if there is one.

  Raises:
    RuntimeError: `scored` has other prompts than `items`.
    ValueError: `ruled`, and a problem has no "accuracy".
  """
  returned, given = ([p.id for p in ps] for ps in (
      scored.prompts, [prompt for _, prompt in items]))
  if returned != given:
    raise RuntimeError(
        "the judge returned other prompts than it was given:"
        f" {returned[:5]} for {given[:5]}")
  if ruled and "accuracy" not in scored.parts:
    raise ValueError(
        f"scored parts are {sorted(scored.parts)}: evaluation needs"
        " \"accuracy\"")
  rows = []
  for q, (number, prompt) in enumerate(items):
    if ruled and np.isnan(scored.parts["accuracy"][q]).any():
      raise ValueError(
          f"no accuracy rule judges prompt {prompt.id} of {prompt.source!r}"
          f" (verifier={prompt.verifier!r}): leave such prompts out")
    rows.append({
        "number": number, "id": int(prompt.id),
        "question": prompt.question, "reference": prompt.reference,
        "source": prompt.source, "language": prompt.language,
        "domain": prompt.domain, "level": prompt.metadata.get("level"),
        "topic": summaries.topic(prompt.metadata),
        "completions": list(scored.texts[q]),
        "answers": list(scored.answers[q]),
        "reasons": list(scored.reasons[q]),
        "measures": list(scored.measures[q]),
        "parts": {k: v[q].tolist() for k, v in scored.parts.items()
                  if not np.isnan(v[q]).any()},
        "valid": scored.valid_QG[q].tolist(),
        "lengths": scored.rollout.lengths_QG[q].tolist(),
        "truncated": scored.rollout.truncated_QG[q].tolist()})
  return rows


def store(path: str | os.PathLike, rows: Sequence[dict[str, Any]]) -> None:
  """Writes this process's generations, one JSON line each, gzipped."""
  lines = []
  for row in rows:
    for g, completion in enumerate(row["completions"]):
      lines.append(json.dumps({
          "number": row["number"], "id": row["id"], "sample": g,
          "question": row["question"], "reference": row["reference"],
          "source": row["source"], "domain": row["domain"],
          "language": row["language"], "level": row["level"],
          "topic": row["topic"],
          "completion": completion,
          "answer": row["answers"][g], "reasons": dict(row["reasons"][g]),
          "measures": dict(row["measures"][g]),
          "parts": {k: v[g] for k, v in row["parts"].items()},
          "valid": row["valid"][g], "length": row["lengths"][g],
          "truncated": row["truncated"][g]} | (
              {"judged": True} if row.get("judged") else {})))
  text = "".join(line + "\n" for line in lines)
  io.write_bytes(rollouts.of_process(path, jax.process_index()),
                 gzip.compress(text.encode(), mtime=0))
  if processes.is_writer():
    rollouts.remove_beyond(path, jax.process_count())


def summary(rows: Sequence[dict[str, Any]]) -> EvalResult:
  """Computes the result from the rows of all problems.

  Raises:
    ValueError: problems differ in their number of samples.
  """
  samples = {len(row["lengths"]) for row in rows}
  if len(samples) > 1:
    raise ValueError(
        f"samples per problem differ: {sorted(samples)}; draw the same number")
  (n,) = samples
  correct_QG = np.array([row["parts"]["accuracy"] for row in rows])
  correct_QG = correct_QG * np.array([row["valid"] for row in rows])
  statistics = summaries.of_rows(rows, correct_QG)
  pass1 = statistics["pass_1"]
  levels = _means((row["level"], mean) for row, mean in zip(
      rows, correct_QG.mean(1)) if row["level"] is not None)
  domains = _means((row["domain"], mean) for row, mean in zip(
      rows, correct_QG.mean(1)))
  formats = [row["parts"].get("format") for row in rows]
  return EvalResult(
      pass1=pass1["mean"], pass1_error=pass1["error"], pass1_low=pass1["low"],
      pass1_high=pass1["high"],
      pass_k={int(k): found["mean"]
              for k, found in statistics["pass_k"].items()},
      maj_k=estimators.maj_at_k([row["answers"] for row in rows], correct_QG),
      format=None if formats[0] is None else float(np.mean(formats)),
      mean_length=float(np.mean([row["lengths"] for row in rows])),
      truncated=float(np.mean([row["truncated"] for row in rows])),
      invalid=int((~np.array([row["valid"] for row in rows])).sum()),
      n_prompts=len(rows), n_samples=n,
      by_level=levels, by_domain=domains, statistics=statistics)


def _means(pairs: Iterable[tuple[Any, float]]) -> dict[str, float]:
  """The mean of the values of each name."""
  values = collections.defaultdict(list)
  for name, value in pairs:
    values[str(name)].append(value)
  return {k: float(np.mean(v)) for k, v in sorted(values.items())}
