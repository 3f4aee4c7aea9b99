"""Marks of evaluation problems that training text has parts of.

What counts as a hit is `data.sources.decontaminate`'s: ten words in a row,
boilerplate aside, or an equal question. Training data that was cleaned of an
evaluation has none; this is for data that was not, and for models of others.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from r1jax.core.prompt import Prompt
from r1jax.data.sources import decontaminate
from r1jax.evals import estimators

_CHUNK = 500  # training texts looked up at once
SHOWN = 20  # hits that are listed of a problem


def marks(problems: Sequence[Prompt], seen: Iterable[tuple[str, Prompt]],
          limits: decontaminate.Limits | None = None) -> list[dict[str, Any]]:
  """The problems that share text with what a model has seen.

  Args:
    problems: with unique ids.
    seen: (where it is, a training text as a prompt), read once.
    limits: what counts as shared; by default the paper's ten words.

  Returns:
    JSON-ready {"id", "source", "question", "count", "hits": [{"where",
    "shared"}]} in the problems' order; a training text counts once, with the
    first n-gram that it shares, and `SHOWN` of them are listed.
  """
  index = decontaminate.Evaluations(
      {"": problems}, limits or decontaminate.Limits())
  found: dict[int, list[dict[str, str]]] = {}
  counts: dict[int, int] = {}
  rest = iter(seen)
  while chunk := list(itertools.islice(rest, _CHUNK)):
    firsts: dict[tuple[int, int], str] = {}
    for number, match in index.hits([prompt for _, prompt in chunk]):
      firsts.setdefault((number, match.id), match.shared)
    for (number, owner), shared in sorted(firsts.items()):
      counts[owner] = counts.get(owner, 0) + 1
      mine = found.setdefault(owner, [])
      if len(mine) < SHOWN:
        mine.append({"where": chunk[number][0], "shared": shared})
  return [{"id": int(problem.id), "source": problem.source,
           "question": problem.question, "count": counts[problem.id],
           "hits": found[problem.id]}
          for problem in problems if problem.id in found]


def summary(rows: Iterable[Mapping[str, Any]], marked: Iterable[int]
            ) -> dict[str, Any]:
  """pass@1 with and without the marked problems.

  Args:
    rows: of an evaluation, as `evals.runner` stores them, a sample each; what
      a judge gave no verdict on does not count.
    marked: ids of problems.

  Returns:
    {"problems", "marked", "pass_1_clean", "pass_1_marked"}; a pass@1 of no
    problem is None.
  """
  by_id: dict[int, list[float]] = {}
  for row in rows:
    if row.get("judged") and not row["valid"]:
      continue
    by_id.setdefault(row["id"], []).append(
        row["parts"]["accuracy"] * row["valid"])
  means = {number: float(np.mean(values)) for number, values in by_id.items()}
  marked = set(marked) & set(means)

  def told(ids: Iterable[int]) -> dict[str, Any] | None:
    values = [means[number] for number in ids]
    return estimators.clustered(np.array(values))._asdict() | {
        "count": len(values)} if values else None

  return {"problems": len(means), "marked": len(marked),
          "pass_1_clean": told(sorted(set(means) - marked)),
          "pass_1_marked": told(sorted(marked))}
