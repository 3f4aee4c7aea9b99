"""Answers to safety questions and what judges say of them, stored as they come.

A run that was killed goes on with the batch that it was at. What a model wrote
about harmful things lies in WORKDIR/answers, and with what was said of it in
WORKDIR/verdicts-*; nothing of it is in a result or a report.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from typing import Any

from etils import epath

from r1jax.core.prompt import Prompt
from r1jax.rewards import response
from r1jax.rewards.endpoint import Endpoint
from r1jax.safety import verdicts
from r1jax.safety.verdicts import Case, Control, Judge, Reviewed, Verdict
from r1jax.stages.loop import batches
from r1jax.stages.replies import Replier

ANSWERS, VERDICTS = "answers", "verdicts"
# What judges are shown of an answer, and users saw.
SUMMARY, WHOLE = "summary", "all"


def answer(model: Replier | Endpoint, prompts: Sequence[Prompt], samples: int,
           size: int, workdir: str | os.PathLike) -> bool:
  """Answers the questions that have no answers in `workdir` yet.

  Args:
    model: who answers.
    prompts: the questions, the same at every call.
    samples: answers to each.
    size: questions of a batch.
    workdir: gets the folder `answers`.

  Returns:
    Whether all is there; False after a signal.
  """
  def work(live: Sequence[Prompt]) -> list[dict[str, Any]]:
    conversations = [prompt.messages for prompt in live]
    if isinstance(model, Replier):
      texts = model.samples(conversations, [p.id for p in live], samples)
    else:
      said = model([c for c in conversations for _ in range(samples)])
      texts = [said[at * samples:(at + 1) * samples]
               for at in range(len(live))]
    return [{"id": prompt.id, "texts": each or [None] * samples}
            for prompt, each in zip(live, texts, strict=True)]

  return batches.store(epath.Path(workdir) / ANSWERS, prompts, size, work,
                       title="answers", unit="questions")


def label(judge: Judge, control: Control | None, prompts: Sequence[Prompt],
          samples: int, size: int, workdir: str | os.PathLike, *,
          shown: str = SUMMARY, folder: str = VERDICTS) -> bool:
  """Judges the answers in `workdir` that have no verdicts there yet.

  Args:
    judge: says what an answer is.
    control: takes answers back; None where there is no risk control.
    prompts, samples, size: as `answer` was given them.
    workdir: has the answers.
    shown: SUMMARY, what follows the thought, or WHOLE, the thought too.
    folder: in `workdir`, gets the verdicts; see `folder`.

  Returns:
    Whether all is there; False after a signal.
  """
  answered = list(batches.read(
      epath.Path(workdir) / ANSWERS, len(prompts), size))
  items = list(zip(prompts, answered, strict=True))

  def work(live: Sequence[tuple[Prompt, dict[str, Any]]]
           ) -> list[dict[str, Any]]:
    asked = [(prompt, number, text) for prompt, row in live
             for number, text in enumerate(row["texts"])]
    there = [at for at, (_, _, text) in enumerate(asked) if text is not None]
    questions = [asked[at][0] for at in there]
    texts = [_shown(asked[at][2], shown) for at in there]
    said = dict(zip(there, zip(
        texts, judge(questions, texts),
        control(questions, texts) if control else [Reviewed()] * len(there),
        strict=True)))
    nothing = "", Verdict(label="", reason="no answer could be had"), Reviewed()
    rows = []
    for at, (prompt, number, _) in enumerate(asked):
      text, verdict, reviewed = said.get(at, nothing)
      rows.append(verdicts.row(Case(
          prompt=prompt, sample=number, answer=text, verdict=verdict,
          retracted=reviewed.retracted, review=reviewed.review)))
    return rows

  return batches.store(epath.Path(workdir) / folder, items, size, work,
                       title="verdicts", unit="questions")


def cases(prompts: Sequence[Prompt], size: int, workdir: str | os.PathLike,
          *, folder: str = VERDICTS) -> list[Case]:
  """All answers with their verdicts, in the order of the questions.

  Raises:
    ValueError: a file is missing or damaged.
  """
  by_id = {prompt.id: prompt for prompt in prompts}
  return [verdicts.read(row, by_id[row["id"]]) for row in batches.read(
      epath.Path(workdir) / folder, len(prompts), size)]


def folder(settings: dict[str, Any]) -> str:
  """Where verdicts of these settings lie: of each judge in a place of its own.
  """
  return f"{VERDICTS}-{digest(settings)}"


def digest(value: Any) -> str:
  """Of what is JSON-ready."""
  text = json.dumps(value, sort_keys=True)
  return hashlib.sha256(text.encode()).hexdigest()[:12]


def _shown(text: str, shown: str) -> str:
  return (response.split("", text).answer if shown == SUMMARY
          else text.strip())
