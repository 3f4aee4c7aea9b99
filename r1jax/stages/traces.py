"""Samples several answers per question, judges and stores them.

Rejection sampling and cold start begin with this. A sample depends only on the
policy, the seed, its question and its number, so that a killed run that is
resumed writes the same files.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import numpy as np
from etils import epath

from r1jax.core import keys
from r1jax.core.config import check
from r1jax.core.prompt import Prompt
from r1jax.core.types import Scored
from r1jax.data.sources import selection
from r1jax.data.sources.selection import Report, Sample, SelectConfig
from r1jax.data.text import tokenizer as tokenizer_lib
from r1jax.data.text.tokenizer import Tokenizer
from r1jax.report import workdir as workdir_lib
from r1jax.rewards import response
from r1jax.rewards.score import Score
from r1jax.rollout.engine import Engine
from r1jax.sharding import processes
from r1jax.stages import evaluating
from r1jax.stages.evaluating import EvalConfig
from r1jax.stages.judging import Judge
from r1jax.stages.loop import batches as batches_lib
from r1jax.stages.weights import Weights, fingerprint

FOLDER = "samples"
# Hints about settings of samples that are not flags, if they differ.
REMEDIES = {
    "parameters": "the model in --init has changed since, or another"
                  " --compute.dtype rounds it",
    "tokenizer": "another --tokenizer, or its files have changed since",
    "data_digest": "the questions of --data have changed since",
    "rules": "that file has changed since",
    "judge.read": "the model in --judge has changed since",
    "judge.program": "that file has changed since"}
# Folded into the key, so that the samples differ from an evaluation's.
_STREAM = 2**31 + 1

# (questions, one answer without its thought for each) -> verdicts; for
# questions that no rule judges.
Judged = Callable[[Sequence[Prompt], Sequence[str]], Sequence[Score]]


def prepare(workdir: str | os.PathLike, settings: dict[str, Any],
            policy: Weights | None, tokenizer: Tokenizer,
            flag: str = "--workdir") -> None:
  """Starts `workdir`, or checks that it was started with the same settings.

  Args:
    workdir: folder of the samples.
    settings: what the samples depend on besides the model and its tokenizer.
    policy: the model that answers; None if several checkpoints do.
    tokenizer: its tokenizer.
    flag: the flag that names `workdir`, for errors.

  Raises:
    ValueError: `workdir` has other settings or samples of other parameters.
  """
  config = settings | {"parameters": policy and fingerprint(policy),
                       "tokenizer": tokenizer_lib.digest(tokenizer)}
  processes.from_writer(lambda: workdir_lib.prepare(
      workdir, config, workdir_lib.versions(), remedies=REMEDIES,
      otherwise=f"choose another {flag}") and None)


def collect(cfg: EvalConfig, engine: Engine, judge: Judge, policy: Weights,
            prompts: Sequence[Prompt], workdir: str | os.PathLike, *,
            judged: Judged | None = None, title: str = "samples") -> bool:
  """Samples and judges the batches that are not in `workdir` yet.

  Under several processes each samples and judges its part of a batch.

  Args:
    cfg: number of samples and seed; temperature, top-p and length are the
      engine's.
    engine: made by `evaluating.sampler` for the policy's model.
    judge: words the questions and judges by rules.
    policy: the model that answers; its arrays are donated.
    prompts: the questions.
    workdir: gets the folder `samples`.
    judged: judges answers to questions without a rule; None leaves them without
      a verdict.
    title: title of the progress bar.

  Returns:
    Whether all samples are there; False after a signal.
  """
  key = keys.fold(jax.random.key(cfg.seed), _STREAM)
  params = evaluating.laid_out(policy, engine, donate=True)

  sample = evaluating.sampling(
      cfg, engine, judge, params, policy.router_bias_LE, key)

  def rows(items, scored):
    found = _rows(scored, judge, judged)  # a judge may need all processes
    return found if items else []

  return batches_lib.store_all(
      epath.Path(workdir) / FOLDER, list(enumerate(prompts)), cfg.batch,
      evaluating.rows_of(sample, judge, rows), title=title, unit="questions")


def selected(cfg: EvalConfig, select: SelectConfig, prompts: Sequence[Prompt],
             workdir: str | os.PathLike, report: Report
             ) -> Iterator[tuple[Prompt, int, Sample]]:
  """Yields (question, number, answer) of the selected answers.

  `report` counts what became of every answer.
  """
  for prompt, samples in read(cfg, prompts, workdir):
    fates = selection.fates(prompt, samples, select, cfg.seed)
    report.fell(prompt.domain, fates)
    for number, fate in enumerate(fates):
      if fate == selection.KEPT:
        yield prompt, number, samples[number]


def read(cfg: EvalConfig, prompts: Sequence[Prompt],
         workdir: str | os.PathLike) -> Iterator[tuple[Prompt, list[Sample]]]:
  """Yields the questions with their samples, in order.

  Raises:
    ValueError: a file is missing, damaged, or has other questions.
  """
  rows = batches_lib.read(epath.Path(workdir) / FOLDER, len(prompts), cfg.batch)
  for prompt, row in zip(prompts, rows, strict=True):
    check(row["id"] == prompt.id, f"{workdir}/{FOLDER} has question"
          f" {row['id']} where the data has {prompt.id}; the data has changed"
          " since: choose another --workdir")
    yield prompt, [Sample(**sample) for sample in row["samples"]]


def _rows(scored: Scored, judge: Judge, judged: Judged | None
          ) -> list[dict[str, Any]]:
  rows = []
  verdicts = _verdicts(scored, judge, judged)
  for q, prompt in enumerate(scored.prompts):
    tail, rollout = judge.tail(prompt), scored.rollout
    own = len(rollout.prompt_tokens[q])
    form = scored.parts.get("format")
    samples = []
    for g, text in enumerate(scored.texts[q]):
      verdict = verdicts[q][g]
      samples.append(Sample(
          text=(tail + text).strip(),
          accuracy=None if verdict is None else verdict.value,
          format=None if form is None or np.isnan(form[q, g]) else float(
              form[q, g]),
          valid=bool(scored.valid_QG[q, g]) and (
              verdict is None or verdict.valid),
          reason="" if verdict is None else verdict.reason,
          truncated=bool(rollout.truncated_QG[q, g]),
          tokens=own + int(rollout.lengths_QG[q, g]))._asdict())
    rows.append({"id": int(prompt.id), "domain": prompt.domain,
                 "source": prompt.source, "question": prompt.question,
                 "reference": prompt.reference, "samples": samples})
  return rows


def _verdicts(scored: Scored, judge: Judge, judged: Judged | None
              ) -> list[list[Score | None]]:
  """The rule's verdicts, or the judge's for questions without a rule."""
  accuracy = scored.parts["accuracy"]
  verdicts: list[list[Score | None]] = []
  for q in range(len(scored.prompts)):
    verdicts.append([None if np.isnan(value) else Score(
        float(value), True, scored.reasons[q][g].get("accuracy", ""))
        for g, value in enumerate(accuracy[q])])
  if judged is None:
    return verdicts
  open_ = [(q, g) for q, row in enumerate(verdicts)
           for g, score in enumerate(row)
           if score is None and scored.valid_QG[q, g]]
  said = judged(
      [scored.prompts[q] for q, _ in open_],
      [response.split(judge.tail(scored.prompts[q]), scored.texts[q][g]).answer
       for q, g in open_])
  for (q, g), score in zip(open_, said, strict=True):
    verdicts[q][g] = score
  return verdicts
