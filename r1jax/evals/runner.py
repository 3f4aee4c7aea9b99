"""Evaluates a policy on a set of prompts: each scored exactly once."""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import gzip
import json
import os
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import jax
import numpy as np

from r1jax.core import io
from r1jax.core.prompt import Prompt
from r1jax.core.types import Rollout, Scored
from r1jax.evals import estimators, summaries
from r1jax.report import rollouts
from r1jax.report.progress import Progress
from r1jax.sharding import processes

Texts = Sequence[Sequence[str]]  # Q questions of G completions
Generate = Callable[[list[Prompt]], tuple[Rollout, Texts]]
Judge = Callable[[Rollout, Sequence[Prompt], Texts], Scored]

# What is stored of a problem for people to read, and not counted.
_READ = ("question", "reference", "completions", "reasons", "measures")


@dataclasses.dataclass(frozen=True, kw_only=True)
class EvalResult:
  """What an evaluation found; shares are in [0, 1].

  Attributes:
    pass1, pass1_error, pass1_low, pass1_high: mean over samples and problems,
      its standard error (clustered by problem) and 95 % interval.
    pass_k: k to unbiased pass@k, averaged over problems.
    maj_k: share of problems that the majority of all their samples solves.
    format: mean format reward; None if it was not scored.
    mean_length: tokens per completion, the end-of-sequence id included.
    truncated: share of completions that met the length limit.
    invalid: samples without a verdict (crash, deadline); counted as wrong.
    n_prompts, n_samples: problems, and samples per problem, in the data.
    by_level: pass@1 by `prompt.metadata["level"]`, where there is one.
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
    prompts: Sequence[Prompt], generate: Generate, score: Judge, *,
    batch_size: int, path: str | os.PathLike | None = None,
    name: str = "evaluate", progress: bool = True,
    interrupted: Callable[[], bool] = lambda: False,
) -> EvalResult | None:
  """Samples, scores and summarises.

  Under several processes each has its part of every batch and stores what it
  sampled (`report.rollouts` names and reads the files); all get the numbers.

  Args:
    prompts: the problems; their ids are unique.
    generate: list of prompts, of `batch_size` or this process's part of that
      many -> (Rollout, their G completions each). The last batch is filled with
      repeats, which are not scored.
    score: (rollout, prompts, texts) -> Scored with a part named "accuracy"
      (1 correct, 0 wrong) and perhaps one named "format"; its answers vote.
    batch_size: prompts sampled at once; the shapes never change.
    path: where to store every generation, one JSON line each, gzipped, written
      whole or not at all; None stores nothing.
    name: label of the progress bar.
    progress: whether to show it.
    interrupted: asked before each batch, by all processes; ends the evaluation
      if it is so.

  Returns:
    What was found; None if it was interrupted, and then nothing is stored.

  Raises:
    ValueError: no prompts, repeated ids, a batch size below 1, no "accuracy"
      part, a prompt that no accuracy rule judges, or a number of samples that
      changes between batches.
    RuntimeError: `score` returned other prompts than it was given, or a prompt
      was not scored exactly once.
  """
  check(prompts, batch_size)
  rows: list[dict[str, Any]] = []
  with (Progress(name, len(prompts), unit="problems") if progress
        else contextlib.nullcontext()) as shown:
    for start in range(0, len(prompts), batch_size):
      if interrupted():
        return None
      live = list(prompts[start:start + batch_size])
      numbers = processes.part(range(batch_size), "problems of a batch")
      asked = [live[min(number, len(live) - 1)] for number in numbers]
      rollout, texts = generate(asked)
      ours = live[numbers.start:numbers.stop]
      # Reward models score for all processes together: one that has none of the
      # last problems scores a copy, too.
      judged = ours or asked[:1]
      scored = score(first(rollout, len(judged)), judged, texts[:len(judged)])
      if ours:
        rows += of_problems(scored, ours, start + numbers.start)
      if shown:
        shown.step({}, len(live))
  if path is not None:
    store(path, rows)
  every = sum(processes.gather([
      {k: v for k, v in row.items() if k not in _READ} for row in rows]), [])
  return summary(once(every, prompts))


def once(rows: Sequence[dict[str, Any]], prompts: Sequence[Prompt]
         ) -> list[dict[str, Any]]:
  """The rows in the problems' order.

  Raises:
    RuntimeError: they are not one of each problem.
  """
  times = collections.Counter(row["id"] for row in rows)
  if times != collections.Counter(p.id for p in prompts):
    raise RuntimeError("some problem was not scored exactly once")
  return sorted(rows, key=lambda row: row["number"])


def first(rollout: Rollout, count: int) -> Rollout:
  """The first questions of a rollout."""
  return dataclasses.replace(rollout, **{
      name: value[:count] for name, value in vars(rollout).items()
      if value is not None})


def check(prompts: Sequence[Prompt], batch_size: int) -> None:
  """Makes sure that there are problems with ids of their own.

  Raises:
    ValueError: there are none, two have one id, or the batch is empty.
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


def of_problems(scored: Scored, batch: Sequence[Prompt], first: int, *,
                ruled: bool = True) -> list[dict[str, Any]]:
  """One record per problem, numbered from `first`, its samples as lists.

  Args:
    scored: the samples of a batch.
    batch: its problems.
    first: number of the first of them.
    ruled: whether each must have a verdict of the rule "accuracy"; without it
      "accuracy" is among the parts only where there is one.

  Raises:
    RuntimeError: the prompts of `scored` are others.
    ValueError: `ruled`, and a problem has no such verdict.
  """
  returned, given = ([p.id for p in ps] for ps in (scored.prompts, batch))
  if returned != given:
    raise RuntimeError(
        "the judge returned other prompts than it was given:"
        f" {returned[:5]} for {given[:5]}")
  if ruled and "accuracy" not in scored.parts:
    raise ValueError(
        f"scored parts are {sorted(scored.parts)}: evaluation needs"
        " \"accuracy\"")
  rows = []
  for q, prompt in enumerate(batch):
    if ruled and np.isnan(scored.parts["accuracy"][q]).any():
      raise ValueError(
          f"no accuracy rule judges prompt {prompt.id} of {prompt.source!r}"
          f" (verifier={prompt.verifier!r}): leave such prompts out")
    rows.append({
        "number": first + q, "id": int(prompt.id),
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
  """What the rows of all problems say.

  Raises:
    ValueError: the number of samples changes between them.
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
  """The mean value of each name."""
  values = collections.defaultdict(list)
  for name, value in pairs:
    values[str(name)].append(value)
  return {k: float(np.mean(v)) for k, v in sorted(values.items())}
