"""The MTP module as a draft: soft cross-entropy to the policy, in float64."""

import math

import numpy as np

from tests.reference import mtp_loss


def softmax(states, w, temperature):
  z = [sum(float(states[d]) * float(w[d, v]) for d in range(w.shape[0]))
       / temperature for v in range(w.shape[1])]
  largest = max(z)
  e = [math.exp(x - largest) for x in z]
  return np.array([x / sum(e) for x in e])


def cross_entropy(states, teacher, w, temperature=1.0):
  """One position: (-sum p log q, whether the best agree, p, q)."""
  q, p = softmax(states, w, temperature), softmax(teacher, w, temperature)
  value = -sum(p[v] * math.log(q[v]) for v in range(len(p)) if p[v] > 0)
  return value, int(np.argmax(p) == np.argmax(q)), p, q


def loss(rows, draft, trunk, w, temperature=1.0):
  """(sum, weight, agreeing positions, sum of KL(p, q)) of packed sequences.

  Args:
    rows: lists of (tokens, prompt), as in `mtp_loss.pairs`.
    draft: MTP's states, [b][t].
    trunk: the policy's; what predicts the same token is one further on.
  """
  total, agree, divergence = 0.0, 0, 0.0
  found = mtp_loss.pairs(rows)
  for b, t in found:
    value, same, p, _ = cross_entropy(
        draft[b, t], trunk[b, t + 1], w, temperature)
    total, agree = total + value, agree + same
    divergence += value + sum(x * math.log(x) for x in p if x > 0)
  return total, len(found), agree, divergence


def gradient(states, teacher, w, cotangent, temperature=1.0):
  """Of sum(cotangent * cross-entropy) with respect to `states`, [B, T, D]."""
  out = np.zeros(states.shape)
  for b in range(states.shape[0]):
    for t in range(states.shape[1]):
      _, _, p, q = cross_entropy(states[b, t], teacher[b, t], w, temperature)
      for v in range(w.shape[1]):
        slope = cotangent[b, t] * (q[v] - p[v]) / temperature
        out[b, t] += slope * np.float64(w[:, v])
  return out
