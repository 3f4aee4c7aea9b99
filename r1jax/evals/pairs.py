"""Two models on the same problems: is one better, and by how much.

The paper prints a number in bold where it is significant, "t-test with
p < 0.01" (DeepSeek-R1, Nature 645, Table 3), and does not say which test. Here
it is the paired one: a problem that is hard is hard for both models, so what is
tested are the problems' differences, each of two means over samples.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from scipy import special

from r1jax.evals import intervals
from r1jax.evals.intervals import Values

BOLD = 0.01  # the paper's p
_TAIL = 0.975


class Paired(NamedTuple):
  """first - second over the problems that both have.

  Attributes:
    value: mean difference.
    error: its standard error, problems as clusters.
    low, high: 95 % interval by Student's t.
    p: two-sided, of no difference.
    count: problems.
  """

  value: float
  error: float
  low: float
  high: float
  p: float
  count: int


def t_test(differences_XQ: np.ndarray) -> Paired:
  """Student's test of the mean difference; X are any axes.

  Where all problems differ alike there is no spread to test by: p is then that
  of flipping signs at random, 2^(1 - Q), or 1 if they differ by nothing.

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

  Where all problems differ alike the interval is that of
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
  """The model that is better than each of the others, p < 0.01: at most one.

  No correction for many models is needed: to be named wrongly it would have to
  win every one of its comparisons by chance.

  Args:
    values: by model; those without problems are left out, and two at least are
      needed for one to be better.
  """
  known = {name: of for name, of in values.items() if of}
  return [name for name, mine in known.items() if len(known) > 1 and all(
      (found := compare(mine, others)) is not None
      and found.value > 0 and found.p < BOLD
      for other, others in known.items() if other != name)]
