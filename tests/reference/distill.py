"""On-policy distillation, token by token, in float64."""

import math

import numpy as np

from tests.reference.draft import softmax

LIMIT = 20.0


def advantage(a, old, teacher, factor, reward):
  """reward A - factor (log pi_old - log pi_T), the difference clamped."""
  return reward * a - factor * min(max(old - teacher, -LIMIT), LIMIT)


def kl(p, q):
  return sum(x * (math.log(x) - math.log(y)) for x, y in zip(p, q) if x > 0)


def divergence(states, w, teacher, teacher_w, beta, temperature=1.0):
  """One position's generalized Jensen-Shannon divergence."""
  q = softmax(states, w, temperature)
  p = softmax(teacher, teacher_w, temperature)
  if beta == 0:
    return kl(p, q)
  if beta == 1:
    return kl(q, p)
  m = [(1 - beta) * y + beta * x for x, y in zip(p, q)]
  return beta * kl(p, m) + (1 - beta) * kl(q, m)


def total(hidden, w, teacher, teacher_w, cotangent, beta, temperature=1.0):
  """sum(cotangent * divergence) over [B, T]."""
  return sum(
      cotangent[b, t] * divergence(
          hidden[b, t], w, teacher[b, t], teacher_w, beta, temperature)
      for b in range(hidden.shape[0]) for t in range(hidden.shape[1]))


def slopes(hidden, w, *rest, step=1e-5):
  """Derivatives of `total` by the student's states and unembedding."""
  found = []
  for which in (0, 1):
    arrays = [np.float64(hidden), np.float64(w)]
    out = np.zeros(arrays[which].shape)
    for at in np.ndindex(*out.shape):
      values = []
      for sign in (1, -1):
        moved = [x.copy() for x in arrays]
        moved[which][at] += sign * step
        values.append(total(*moved, *rest))
      out[at] = (values[0] - values[1]) / (2 * step)
    found.append(out)
  return found
