"""Codeforces: a rating and its percentile from the problems that are solved.

The paper gives no method. Here the rating is the Elo performance against the
problems' ratings: Codeforces defines a problem's rating d by

  P(a contestant of rating r solves it) = 1 / (1 + 10^((d - r) / 400)),

and the model's r is where the expected number of solved problems equals the
observed one, which is the maximum-likelihood estimate (CodeElo's estimator,
arXiv:2501.01257, with problems in place of contestants). The percentile is
interpolated between the eight pairs of rating and percentile that R1's article
prints; outside their range none is given.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from r1jax.core.prompt import Prompt
from r1jax.evals import estimators
from r1jax.evals.benchmarks import statistic
from r1jax.evals.benchmarks.benchmark import Benchmark
from r1jax.evals.benchmarks.statistic import Number, Row

# Rating and percentile of eight models in the paper's table.
PUBLISHED = ((1134, 58.7), (1444, 80.4), (1534, 84.5), (1687, 90.5),
             (1746, 92.1), (1820, 93.4), (2029, 96.3), (2061, 96.6))
SPAN = 800  # ratings farther from the easiest and hardest problem mean nothing
_SLOPE = math.log(10) / 400


def numbers(rows: Sequence[Row]) -> list[Number]:
  """The rating, the percentile, and pass@1."""
  solved = [float(np.mean(statistic.correct(row))) for row in rows]
  ratings = [float(row["level"]) for row in rows]
  value, low, high, note = rating(solved, ratings)
  rated = Number("rating", value, low, high, len(rows), False, note)
  pass1 = statistic.mean("pass@1", [statistic.correct(row) for row in rows])
  return [rated, percentile(rated), pass1]


def rating(solved: Sequence[float], ratings: Sequence[float]
           ) -> tuple[float, float | None, float | None, str]:
  """(rating, low, high, note) by the module's estimator.

  The interval is of 95 % and clustered by problem; both ends are None, and the
  note says so, where the rating is only a bound.

  Args:
    solved: share of each problem's samples that solve it.
    ratings: Codeforces's rating of each problem.
  """
  p_Q, d_Q = (np.asarray(x, np.float64) for x in (solved, ratings))
  low, high = d_Q.min() - SPAN, d_Q.max() + SPAN
  for bound, word in ((low, "at most"), (high, "at least")):
    excess = p_Q.sum() - _chances(bound, d_Q).sum()
    if (excess <= 0) == (word == "at most") and excess != 0:
      return float(bound), None, None, f"{word} this"
  for _ in range(100):
    middle = (low + high) / 2
    if _chances(middle, d_Q).sum() < p_Q.sum():
      low = middle
    else:
      high = middle
  value = (low + high) / 2
  if len(p_Q) == 1:
    return float(value), None, None, ""
  q_Q = _chances(value, d_Q)
  # Sandwich estimator: each problem's influence on the rating (mean 0).
  moves_Q = (p_Q - q_Q) / (_SLOPE * (q_Q * (1 - q_Q)).mean())
  found = estimators.clustered(value + moves_Q, share=False)
  return float(value), found.low, found.high, ""


def percentile(rated: Number) -> Number:
  """The share of contestants below a rating, from the paper's pairs."""
  ratings, shares = zip(*PUBLISHED)
  if not ratings[0] <= rated.value <= ratings[-1]:
    return Number("percentile", None, note=f"the paper gives percentiles of"
                  f" ratings from {ratings[0]} to {ratings[-1]} only")

  def at(value):
    if value is None or not ratings[0] <= value <= ratings[-1]:
      return None
    return float(np.interp(value, ratings, shares)) / 100

  low, high = at(rated.low), at(rated.high)
  if low is None or high is None:
    low = high = None
  return Number("percentile", at(rated.value), low, high, rated.count)


def has_rating(prompt: Prompt) -> bool:
  """Whether Codeforces has rated the problem."""
  value = prompt.metadata.get("rating")
  return isinstance(value, int | float) and math.isfinite(value) and value > 0


def _chances(r: float, d_Q: np.ndarray) -> np.ndarray:
  return 1 / (1 + np.exp(_SLOPE * (d_Q - r)))


ALL = (
    Benchmark(
        name="codeforces", title="Codeforces", source="codeforces", samples=16,
        level="rating", selected=has_rating, numbers=numbers,
        publisher="https://huggingface.co/datasets/open-r1/codeforces"
        " (data/test-*.parquet)", paper=True),
)
