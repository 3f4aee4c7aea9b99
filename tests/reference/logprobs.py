"""Log-probability of a target and entropy, token by token, in float64."""

import math

import numpy as np


def logprobs(hidden, w, targets, temperature=1.0):
  """[B, T, D], [D, V], [B, T] -> two [B, T] arrays."""
  hidden, w = np.asarray(hidden, np.float64), np.asarray(w, np.float64)
  out, entropy = np.zeros(targets.shape), np.zeros(targets.shape)
  for b in range(targets.shape[0]):
    for t in range(targets.shape[1]):
      z = [sum(hidden[b, t, d] * w[d, v] for d in range(w.shape[0]))
           / temperature for v in range(w.shape[1])]
      biggest = max(z)
      total = sum(math.exp(x - biggest) for x in z)
      p = [math.exp(x - biggest) / total for x in z]
      out[b, t] = math.log(p[targets[b, t]])
      entropy[b, t] = -sum(x * math.log(x) for x in p if x > 0)
  return out, entropy


def gradients(hidden, w, targets, cotangent, temperature=1.0):
  """Of sum(cotangent * logprobs) with respect to hidden and w."""
  hidden, w = np.asarray(hidden, np.float64), np.asarray(w, np.float64)
  d_hidden, d_w = np.zeros(hidden.shape), np.zeros(w.shape)
  for b in range(targets.shape[0]):
    for t in range(targets.shape[1]):
      z = hidden[b, t] @ w / temperature
      p = np.exp(z - z.max())
      p = p / p.sum()
      for v in range(w.shape[1]):
        share = (1.0 if v == targets[b, t] else 0.0) - p[v]
        slope = cotangent[b, t] * share / temperature
        d_hidden[b, t] += slope * w[:, v]
        d_w[:, v] += slope * hidden[b, t]
  return d_hidden, d_w
