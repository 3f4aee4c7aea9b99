"""Paired comparison of two models on the same problems.

The paper prints a number in bold where it is significant, "t-test with
p < 0.01" (DeepSeek-R1, Nature 645, Table 3), without saying which t-test. Here
it is the paired one, on the differences of each problem's means over samples,
because hard problems are hard for both models.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from scipy import special

from r1jax.evals import intervals
from r1jax.evals.intervals import Values

BOLD = 0.01  # the paper's significance level
_TAIL = 0.975


class Paired(NamedTuple):
  """first - second over the problems that both have.

  Attributes:
    value: mean difference.
    error: its standard error, clustered by problem.
    low, high: 95 % interval by Student's t.
    p: two-sided p-value of the hypothesis that there is no difference.
    count: number of problems.
  """

  value: float
  error: float
  low: float
  high: float
  p: float
  count: int


def t_test(differences_XQ: np.ndarray) -> Paired:
  """Student's t-test of the mean difference; X are any leading axes.

  Where all differences are equal there is no spread: p is then that of the sign
  flip test, 2^(1 - Q), or 1 if the differences are 0.

  Args:
    differences_XQ: float, at least two problems.

  Returns:
    Floats, or arrays of shape X.
  """
  x_XQ = np.asarray(differences_XQ, np.float64)
  count = x_XQ.shape[-1]
  mean_X = x_XQ.mean(-1)
  error_X = x_XQ.std(-1, ddof=1) / math.sqrt(count)
  alike_X = error_X < 1e-12
  t_X = np.abs(mean_X) / np.where(alike_X, 1.0, error_X)
  p_X = np.where(
      alike_X, np.where(np.abs(mean_X) < 1e-12, 1.0, 2.0 ** (1 - count)),
      2 * special.stdtr(count - 1, -t_X))
  half_X = special.stdtrit(count - 1, _TAIL) * error_X
  found = mean_X, error_X, mean_X - half_X, mean_X + half_X, p_X
  return Paired(*(float(x) if np.ndim(x) == 0 else x for x in found), count)


def compare(first: Values, second: Values) -> Paired | None:
  """first - second, paired by problem.

  Where all differences are equal, the interval is that of
  `intervals.difference`.

  Returns:
    None if they share fewer than two problems.
  """
  shared = sorted((q for q in first if q in second), key=repr)
  if len(shared) < 2:
    return None
  found = t_test(np.array([first[q] - second[q] for q in shared]))
  if found.low == found.high:
    among = intervals.difference(first, second, binary=True)
    return found._replace(low=among.low, high=among.high)
  return found


def leaders(values: Mapping[str, Values]) -> list[str]:
  """The model that is better than every other with p < 0.01; [] if none is.

  No correction for multiple comparisons is needed: a model is named wrongly
  only if it wins every comparison by chance.

  Args:
    values: by model; models without problems are ignored. With fewer than two
      models none is better.
  """
  known = {name: of for name, of in values.items() if of}
  return [name for name, mine in known.items() if len(known) > 1 and all(
      (found := compare(mine, others)) is not None
      and found.value > 0 and found.p < BOLD
      for other, others in known.items() if other != name)]
