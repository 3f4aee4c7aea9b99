"""Attention of one query at a time, float64."""

import numpy as np


def attend(q, keys, values, scale):
  """One query [H] over a list of keys and values."""
  scores = np.array([float(np.dot(q, k)) * scale for k in keys])
  weights = np.exp(scores - scores.max())
  weights = weights / weights.sum()
  return sum(w * np.asarray(v) for w, v in zip(weights, values, strict=True))


def visible(segments, t):
  """Positions that position t of a row may see."""
  return [s for s in range(t + 1) if segments[s] == segments[t]]


def gqa(q, k, v, allowed, scale):
  """q [T, N, H], k and v [S, K, H], allowed [T, S] -> [T, N, H]."""
  t_len, n_heads, _ = q.shape
  share = n_heads // k.shape[1]
  out = np.empty((t_len, n_heads, v.shape[-1]))
  for t in range(t_len):
    seen = [s for s in range(len(k)) if allowed[t][s]]
    for n in range(n_heads):
      kv = n // share
      out[t, n] = attend(q[t, n], [k[s, kv] for s in seen],
                         [v[s, kv] for s in seen], scale)
  return out


def gqa_gradients(q, k, v, allowed, scale, dout):
  """Gradients of sum(gqa(...) * dout) in q, k and v, term by term."""
  dq, dk, dv = (np.zeros(np.shape(x)) for x in (q, k, v))
  share = q.shape[1] // k.shape[1]
  for t in range(len(q)):
    seen = np.flatnonzero(allowed[t])
    for n in range(q.shape[1]):
      kv = n // share
      scores = k[seen, kv] @ q[t, n] * scale
      weights = np.exp(scores - scores.max())
      weights = weights / weights.sum()
      dweights = v[seen, kv] @ dout[t, n]
      # The softmax's Jacobian is diag(w) - w w^T.
      dscores = weights * (dweights - weights @ dweights) * scale
      dv[seen, kv] += np.outer(weights, dout[t, n])
      dk[seen, kv] += np.outer(dscores, q[t, n])
      dq[t, n] = dscores @ k[seen, kv]
  return dq, dk, dv
