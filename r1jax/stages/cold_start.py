"""Cold-start data: R1-Zero's right answers, rewritten and judged again."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from etils import epath

from r1jax.core.prompt import Prompt
from r1jax.data.sources.selection import KEPT, NO_RULE, Report, SelectConfig
from r1jax.report import workdir as workdir_lib
from r1jax.rewards import combine, response
from r1jax.rewards.score import Score
from r1jax.sharding import processes
from r1jax.stages import dialogues, rewriting, traces
from r1jax.stages.evaluating import EvalConfig
from r1jax.stages.judging import Judge
from r1jax.stages.loop import batches
from r1jax.stages.rewriting import Draft, Rewriter
from r1jax.stages.traces import Judged

FOLDER = "rewrites"


class Chosen(NamedTuple):
  """An answer to rewrite, and its index among its question's samples."""

  draft: Draft
  sample: int


def chosen(cfg: EvalConfig, select: SelectConfig, prompts: Sequence[Prompt],
           workdir: str | os.PathLike, report: Report) -> list[Chosen]:
  """The selected samples, split into thought and answer.

  `report` counts all samples by what became of them.
  """
  kept = []
  for prompt, number, sample in traces.selected(
      cfg, select, prompts, workdir, report):
    parts = response.split("", sample.text)
    kept.append(Chosen(Draft(prompt, parts.thinking, parts.answer), number))
  return kept


def prepare(workdir: str | os.PathLike, settings: dict[str, Any]) -> None:
  """Prepares the folder of rewrites, or checks that it has these settings.

  Rewrites depend on the selection; samples do not depend on either, so they can
  stay when the rewrites are made anew.

  Raises:
    ValueError: the folder was made with other settings.
  """
  folder = epath.Path(workdir) / FOLDER
  processes.from_writer(lambda: workdir_lib.prepare(
      folder, settings, workdir_lib.versions(),
      otherwise=f"remove {folder}: the samples stay") and None)


def rewrite(items: Sequence[Chosen], rewriter: Rewriter, judge: Judge,
            workdir: str | os.PathLike, *, batch: int,
            judged: Judged | None = None) -> bool:
  """Rewrites and judges the items that are not stored yet, batch by batch.

  Under several processes each does its part of a batch.

  Args:
    items: the answers to rewrite.
    rewriter: rewrites them.
    judge: its rules judge the new texts.
    workdir: gets the folder `rewrites`.
    batch: items per batch.
    judged: judges answers to questions without a rule; None: nobody does.

  Returns:
    Whether all items are done; False after a signal.
  """
  def work(part: Sequence[Chosen]) -> list[dict[str, Any]]:
    own = np.array_split(range(len(part)), jax.process_count())
    ours = [part[i] for i in own[jax.process_index()]]
    texts = [rewritten and rewritten.text
             for rewritten in rewriter([item.draft for item in ours])]
    there = [i for i, text in enumerate(texts) if text is not None]
    scores = iter(_scores([ours[i].draft.prompt for i in there],
                          [texts[i] for i in there], judge, judged))
    rows = []
    for item, text in zip(ours, texts, strict=True):
      score = None if text is None else next(scores)
      rows.append({
          "id": item.draft.prompt.id, "sample": item.sample, "text": text,
          "accuracy": score and score.value, "valid": bool(
              score and score.valid)})
    return rows

  return batches.store(epath.Path(workdir) / FOLDER, items, batch, work,
                       title="rewriting", unit="answers")


def _scores(prompts, texts, judge: Judge, judged: Judged | None
            ) -> list[Score | None]:
  """Each text's accuracy by its rule, or else by the judge."""
  scores = [score.get("accuracy") for score in judge.pool.submit(combine.items(
      prompts, [""] * len(texts), [[text] for text in texts])).result()]
  left = [i for i, score in enumerate(scores) if score is None and judged]
  if left:
    said = judged([prompts[i] for i in left],
                  [response.split("", texts[i]).answer for i in left])
    for i, score in zip(left, said, strict=True):
      scores[i] = score
  return scores


def rows(items: Sequence[Chosen], judge: Judge, workdir: str | os.PathLike,
         select: SelectConfig, report: Report, *, batch: int,
         first_person: bool = True) -> Iterator[dialogues.Row]:
  """The rows for SFT; `report` counts what became of the rewrites."""
  stored = batches.read(epath.Path(workdir) / FOLDER, len(items), batch)
  for item, row in zip(items, stored, strict=True):
    prompt = item.draft.prompt
    fate = _fate(row, prompt, select, first_person)
    report.fell(prompt.domain, [fate])
    if fate == KEPT:
      tokens = len(judge.tokens(prompt)) + len(
          judge.tokenizer.encode(row["text"])) + 1
      yield dialogues.row(prompt, row["text"], tokens, sample=item.sample)


def _fate(row, prompt: Prompt, select: SelectConfig, first_person: bool) -> str:
  if row["text"] is None:
    return "no rewrite"
  if reason := rewriting.unfit(
      row["text"], prompt, select, first_person=first_person):
    return reason
  if row["accuracy"] is None:
    return NO_RULE
  if not row["valid"]:
    return "no verdict"
  return KEPT if row["accuracy"] >= 1 else "another answer"
