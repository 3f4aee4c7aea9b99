"""The stored samples of an evaluation, read back."""

from __future__ import annotations

import collections
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from etils import epath

from r1jax.core.prompt import Prompt, ask
from r1jax.report import evolution, rollouts
from r1jax.rewards import language, response

GENERATIONS = "generations.jsonl.gz"

# (source, question); ids depend on which data sets were evaluated together.
Question = tuple[str, str]


class Sample(NamedTuple):
  """One completion with its verdicts.

  Attributes:
    domain, language, level: of the question; level None where it has none.
    correct: value of the accuracy rule in [0, 1]; 0 without a verdict.
    answer: final answer for voting, or None.
    format: 1 if the format is right, else 0; None if it was not scored.
    consistency: share of the thought's words in the question's language; None
      for a thought without words.
    length: tokens, the end-of-sequence id included.
    reflective: number of the paper's reflective words in it.
    measures: measurements behind the verdicts, "rule/name" to number; empty
      without a verdict.
  """

  domain: str
  language: str
  level: Any
  correct: float
  answer: str | None
  format: float | None
  consistency: float | None
  length: int
  reflective: float
  measures: Mapping[str, float]


Samples = Mapping[Question, Sequence[Sample]]


def stored(folder: str | os.PathLike) -> list[dict[str, Any]]:
  """The rows that `experiments.evaluate` stored in a folder.

  Raises:
    ValueError: there are none, or a file is damaged; the message names it.
  """
  path = epath.Path(folder) / GENERATIONS
  if not path.exists():
    raise ValueError(f"{path} does not exist")
  return rollouts.read_file(path)


def grouped(rows: Iterable[Mapping[str, Any]]) -> Samples:
  """Samples by question, from rows as `evals.runner` stores them.

  Raises:
    ValueError: the rows are of an old version that stored no sources.
  """
  by_question = collections.defaultdict(list)
  for row in rows:
    if "source" not in row:
      raise ValueError("the samples lack their questions' source: an older"
                       " version stored them; evaluate again")
    by_question[row["source"], row["question"]].append(_sample(row))
  return dict(by_question)


def _sample(row: Mapping[str, Any]) -> Sample:
  parts = row["parts"]
  return Sample(
      domain=row["domain"], language=row["language"], level=row["level"],
      correct=parts["accuracy"] * row["valid"], answer=row["answer"],
      format=parts.get("format"), consistency=_consistency(row),
      length=row["length"],
      reflective=evolution.occurrences([row["completion"]]),
      measures=row["measures"] if row["valid"] else {})


def _consistency(row: Mapping[str, Any]) -> float | None:
  """Language consistency as it was scored, or computed from the completion.

  A thought's beginning that the template had prefilled is then not counted.
  """
  if "language" in row["parts"] and "language/words" in row["measures"]:
    words = row["measures"]["language/words"]
    return row["parts"]["language"] if words else None
  prompt = Prompt(
      id=row["id"], domain=row["domain"], source=row["source"],
      messages=ask(row["question"]), reference=None, verifier="",
      language=row["language"])
  score = language.consistency(prompt, response.split("", row["completion"]))
  return score.value if score.parts["words"] else None
