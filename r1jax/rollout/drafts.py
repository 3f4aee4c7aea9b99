"""Acceptance rates of drafted tokens, from the two distributions."""

from __future__ import annotations

import numpy as np


def couplings(p_NV: np.ndarray, q_NV: np.ndarray) -> dict[str, float]:
  """Probability that draws from p and q agree, under three couplings.

  "inversion": both invert their cumulative distribution at the same uniform
  number, as the engine does; the overlap of each token's intervals of [0, 1).
  "gumbel": the argmax of log p + noise and of log q + noise with the same
  Gumbel noise, sum_v 1 / sum_w max(p_w / p_v, q_w / q_v) (exponential races).
  "most": the upper bound, 1 - total variation distance, which speculative
  sampling with rejection reaches.

  Args:
    p_NV, q_NV: float64 distributions, one a row.

  Returns:
    Means over the rows, by the names above.
  """
  low_p, low_q = (np.cumsum(x, -1) - x for x in (p_NV, q_NV))
  stretch = np.minimum(low_p + p_NV, low_q + q_NV) - np.maximum(low_p, low_q)
  gumbel = []
  for p, q in zip(p_NV, q_NV):
    v = np.flatnonzero((p > 1e-6) & (q > 1e-6))  # others are negligible
    race = np.maximum(p[None] / p[v, None], q[None] / q[v, None]).sum(-1)
    gumbel.append((1 / race).sum())
  return {"inversion": float(np.maximum(stretch, 0).sum(-1).mean()),
          "gumbel": float(np.mean(gumbel)),
          "most": float(np.minimum(p_NV, q_NV).sum(-1).mean())}
