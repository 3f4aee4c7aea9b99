"""FP8 (e4m3) in blocks, float64, element by element.

e4m3 without infinities: a sign, four bits of exponent (bias 7), three of
mantissa; exponent 0 is subnormal; all ones is NaN.
"""

import numpy as np

BLOCK = 128


def value(code):
  """The number that a code 0..255 stands for; NaN for 0x7f and 0xff."""
  sign = -1.0 if code & 0x80 else 1.0
  exponent, mantissa = code >> 3 & 15, code & 7
  if exponent == 15 and mantissa == 7:
    return np.nan
  if exponent == 0:
    return sign * mantissa / 8 * 2.0 ** -6
  return sign * (1 + mantissa / 8) * 2.0 ** (exponent - 7)


VALUES = np.array([value(code) for code in range(256)])


def encode(x):
  """The code nearest to x; of two equally near, the even one."""
  sign = 0x80 if x < 0 else 0
  distance = np.abs(VALUES[:127] - abs(x))  # codes 0..126 are ascending
  nearest = np.flatnonzero(distance == distance.min())
  return sign | int(min(nearest, key=lambda code: code & 1))


def dequantise(codes, scales):
  """codes uint8 [rows, columns], scales [blocks, blocks] -> values."""
  out = np.empty(codes.shape)
  for i, j in np.ndindex(codes.shape):
    out[i, j] = VALUES[codes[i, j]] * scales[i // BLOCK, j // BLOCK]
  return out


def quantise(x):
  """(codes uint8, scales): a block's largest magnitude becomes 448."""
  rows, columns = x.shape
  scales = np.empty((-(-rows // BLOCK), -(-columns // BLOCK)))
  codes = np.empty(x.shape, np.uint8)
  for i, j in np.ndindex(scales.shape):
    at = (slice(i * BLOCK, (i + 1) * BLOCK), slice(j * BLOCK, (j + 1) * BLOCK))
    scale = max(abs(v) for v in x[at].ravel()) / 448.0 or 1.0
    scales[i, j] = scale
    codes[at] = np.reshape([encode(v / scale) for v in x[at].ravel()],
                           x[at].shape)
  return codes, scales
