"""Finds evaluation problems that overlap with training text.

A hit is what `data.sources.decontaminate` removes: ten equal words in a row
(without boilerplate), or an equal question. Decontaminated training data has no
hits; this is for data that was not decontaminated, and for other people's
models.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from r1jax.core.prompt import Prompt
from r1jax.data.sources import decontaminate
from r1jax.evals import estimators

_CHUNK = 500  # training texts per lookup
SHOWN = 20  # hits listed per problem


def marks(problems: Sequence[Prompt], seen: Iterable[tuple[str, Prompt]],
          limits: decontaminate.Limits | None = None) -> list[dict[str, Any]]:
  """The problems that share text with a model's training data.

  Args:
    problems: with unique ids.
    seen: (location, training text as a prompt) pairs; iterated once.
    limits: what counts as shared; by default the paper's ten words.

  Returns:
    JSON-ready rows {"id", "source", "question", "count", "hits": [{"where",
    "shared"}]} in the problems' order. Each training text counts once, with the
    first n-gram that it shares; at most `SHOWN` hits are listed.
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
    rows: of an evaluation, as `evals.runner` stores them, one a sample; samples
      on which a judge model gave no verdict do not count.
    marked: ids of the marked problems.

  Returns:
    {"problems", "marked", "pass_1_clean", "pass_1_marked"}; a pass@1 over no
    problems is None.
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
