"""Routed experts, one token and one expert at a time, float64."""

import numpy as np


def swiglu(x, w_gate, w_up, w_down):
  gate = x @ w_gate
  sigmoid = 0.5 * (1 + np.tanh(gate / 2))
  return (gate * sigmoid * (x @ w_up)) @ w_down


def routed(x, chosen, gates, w_gate, w_up, w_down, drop=()):
  """x [X, D], chosen and gates [X, A] -> [X, D]. `drop`: "gates", "last"."""
  out = np.zeros_like(x)
  for t in range(len(x)):
    pairs = list(zip(chosen[t], gates[t], strict=True))
    for i, g in pairs[:-1] if "last" in drop else pairs:
      y = swiglu(x[t], w_gate[i], w_up[i], w_down[i])
      out[t] += y if "gates" in drop else g * y
  return out


def gradients(direction, arrays, chosen, step=1e-5):
  """Central differences of sum(direction * routed) for each float array.

  `arrays` is (x, gates, w_gate, w_up, w_down).
  """
  def value(x, gates, *w):
    return np.sum(direction * routed(x, chosen, gates, *w))

  out = []
  for array in arrays:
    grad = np.zeros_like(array)
    for index in np.ndindex(array.shape):
      kept = array[index]
      array[index] = kept + step
      above = value(*arrays)
      array[index] = kept - step
      below = value(*arrays)
      array[index] = kept
      grad[index] = (above - below) / (2 * step)
    out.append(grad)
  return out
