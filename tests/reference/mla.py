"""Multi-head latent attention, one head and one query at a time, float64."""

import numpy as np

from tests.reference.attention import attend


def mla(q_nope, q_rope, latent, k_rope, w_ukv, allowed, scale, drop=()):
  """Eq. 1-11 after the projections.

  q_nope [T, N, U], q_rope [T, N, R], latent [S, C], k_rope [S, R],
  w_ukv [C, N, U + W], allowed [T, S] -> [T, N, W]. `drop` may hold "rope".
  """
  t_len, n_heads, u = q_nope.shape
  out = np.empty((t_len, n_heads, w_ukv.shape[-1] - u))
  for n in range(n_heads):
    w_uk, w_uv = w_ukv[:, n, :u], w_ukv[:, n, u:]
    for t in range(t_len):
      keys, values = [], []
      for s in range(len(latent)):
        if not allowed[t][s]:
          continue
        shared = k_rope[s] * (0 if "rope" in drop else 1)
        keys.append([*(latent[s] @ w_uk), *shared])
        values.append(latent[s] @ w_uv)
      out[t, n] = attend([*q_nope[t, n], *q_rope[t, n]], keys, values, scale)
  return out
