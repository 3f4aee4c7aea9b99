"""Samples and judges answers to safety questions, stored batch by batch.

A run that was killed resumes at its last batch. The model's texts are only in
WORKDIR/answers and, with their verdicts, in WORKDIR/verdicts-*; results and
reports have none of them.
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
# The part of an answer that judges, and users of a service, see.
SUMMARY, WHOLE = "summary", "all"


def answer(model: Replier | Endpoint, prompts: Sequence[Prompt], samples: int,
           size: int, workdir: str | os.PathLike) -> bool:
  """Answers the questions that have no answers in `workdir` yet.

  Args:
    model: the model that answers.
    prompts: the questions, the same in every call.
    samples: answers per question.
    size: questions per batch.
    workdir: gets the folder `answers`.

  Returns:
    Whether all answers are there; False after a signal.
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
    judge: judges the answers.
    control: risk control; None if there is none.
    prompts, samples, size: the arguments of `answer`.
    workdir: has the answers.
    shown: SUMMARY, the text after the thought, or WHOLE, the thought too.
    folder: subfolder of `workdir` for the verdicts, see the function `folder`.

  Returns:
    Whether all verdicts are there; False after a signal.
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
    nothing = "", Verdict(label="", reason="no answer"), Reviewed()
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
  """The name of the folder for verdicts of a judge with these settings."""
  return f"{VERDICTS}-{digest(settings)}"


def digest(value: Any) -> str:
  """A short hash of a JSON-ready value."""
  text = json.dumps(value, sort_keys=True)
  return hashlib.sha256(text.encode()).hexdigest()[:12]


def _shown(text: str, shown: str) -> str:
  return (response.split("", text).answer if shown == SUMMARY
          else text.strip())
