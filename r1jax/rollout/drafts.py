"""How often a draft is right, from its distribution and the model's."""

from __future__ import annotations

import numpy as np


def couplings(p_NV: np.ndarray, q_NV: np.ndarray) -> dict[str, float]:
  """Chances that two draws agree, means over rows; float64 distributions.

  Inversion: two tokens' stretches of [0, 1) overlap. Gumbel: the largest of
  log p + noise is the same token's as of log q + noise, with one noise,
  1 / sum_w max(p_w / p_v, q_w / q_v) for token v (exponential races). Most:
  1 - the distance in total variation.
  """
  low_p, low_q = (np.cumsum(x, -1) - x for x in (p_NV, q_NV))
  stretch = np.minimum(low_p + p_NV, low_q + q_NV) - np.maximum(low_p, low_q)
  gumbel = []
  for p, q in zip(p_NV, q_NV):
    v = np.flatnonzero((p > 1e-6) & (q > 1e-6))  # others add next to nothing
    race = np.maximum(p[None] / p[v, None], q[None] / q[v, None]).sum(-1)
    gumbel.append((1 / race).sum())
  return {"inversion": float(np.maximum(stretch, 0).sum(-1).mean()),
          "gumbel": float(np.mean(gumbel)),
          "most": float(np.minimum(p_NV, q_NV).sum(-1).mean())}
