"""Accuracy against tokens: longer thoughts, or a majority vote of several.

As in the paper's test-time scaling (DeepSeek-R1, supplement E.3 and E.4): one
sample that thinks longer is compared with the majority of several samples that
take as many tokens together.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from r1jax.evals import estimators
from r1jax.evals.summaries import Problems

_BINS = 5


def majority(problems: Problems) -> list[dict[str, Any]]:
  """cons@k and the tokens of k samples, for k = 1, 2, 4, ...

  Returns:
    Rows {"k", "tokens" (k times the mean length of an answer), "mean", "low",
    "high"}.
  """
  answers = [row["answers"] for row in problems.rows]
  mean = float(problems.lengths_QG.mean())
  rows = []
  for k in estimators.powers(problems.samples):
    found = estimators.cons_at_k(answers, problems.correct_QG, k)
    rows.append({"k": k, "tokens": k * mean} | _told(found))
  return rows


def forced(budgets: dict[int, Problems]) -> list[dict[str, Any]]:
  """pass@1 and mean tokens per answer, for each limit of the thought's length.

  Args:
    budgets: the limit in tokens to the same problems, sampled with it.

  Returns:
    Rows {"budget", "tokens", "mean", "low", "high"}, the least budget first.
  """
  return [{"budget": budget, "tokens": float(problems.lengths_QG.mean())}
          | _told(estimators.pass_at_1(problems.correct_QG))
          for budget, problems in sorted(budgets.items())]


def by_length(problems: Problems) -> list[dict[str, Any]]:
  """pass@1 of fifths of the problems, ordered by the length of their answers.

  Harder problems get longer answers, so accuracy falls along this line even
  where more tokens for the same problem would raise it (`forced`).

  Returns:
    Rows {"tokens", "count", "mean", "low", "high"}, the shortest answers first;
    [] with fewer than ten problems.
  """
  lengths_Q, correct_Q = (
      x.mean(1) for x in (problems.lengths_QG, problems.correct_QG))
  if len(lengths_Q) < 2 * _BINS:
    return []
  order = np.argsort(lengths_Q, kind="stable")
  return [{"tokens": float(lengths_Q[part].mean()), "count": len(part)}
          | _told(estimators.clustered(correct_Q[part]))
          for part in np.array_split(order, _BINS)]


def _told(found: estimators.Estimate) -> dict[str, float]:
  return {"mean": found.mean, "low": found.low, "high": found.high}
