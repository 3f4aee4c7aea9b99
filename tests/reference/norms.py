"""RMSNorm, one row at a time, float64."""

import numpy as np


def rms_norm(x, scale, eps):
  x = np.asarray(x, np.float64)
  out = np.empty_like(x)
  for index in np.ndindex(x.shape[:-1]):
    row = x[index]
    mean_square = sum(v * v for v in row) / len(row)
    out[index] = [v / np.sqrt(mean_square + eps) * g
                  for v, g in zip(row, scale, strict=True)]
  return out
