"""LoRA in float64, one layer (and expert) at a time."""

import numpy as np

# Axes of a matrix that are its inputs; one for all others.
INPUTS = {"w_o": 2}


def _matrices(name, w, a, b):
  """Views [in, out], [in, r], [r, out] of every layer and expert."""
  lead = a.ndim - INPUTS.get(name, 1) - 1
  for at in np.ndindex(w.shape[:lead]):
    rank = a.shape[-1]
    yield at, (a[at].reshape(-1, rank), b[at].reshape(rank, -1))


def merge(name, w, a, b, scale):
  """W + scale A B."""
  out = np.array(w, np.float64)
  for at, (a_ir, b_ro) in _matrices(name, w, np.float64(a), np.float64(b)):
    for r in range(a_ir.shape[1]):
      out[at] += scale * np.outer(a_ir[:, r], b_ro[r]).reshape(out[at].shape)
  return out


def gradients(name, grad, a, b, scale):
  """Of A and B from that of W' by the chain rule."""
  grad_a, grad_b = np.zeros(a.shape), np.zeros(b.shape)
  for at, (a_ir, b_ro) in _matrices(name, grad, np.float64(a), np.float64(b)):
    grad_io = np.float64(grad[at]).reshape(len(a_ir), -1)
    grad_a[at] = (scale * grad_io @ b_ro.T).reshape(grad_a[at].shape)
    grad_b[at] = (scale * a_ir.T @ grad_io).reshape(grad_b[at].shape)
  return grad_a, grad_b
