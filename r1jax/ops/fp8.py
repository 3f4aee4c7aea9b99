"""FP8 (e4m3) weights with one scale for each block of 128 x 128.

The format of DeepSeek-V3's published files (arXiv:2412.19437, section 3.3.2;
`weight` and `weight_scale_inv`): value = code * scale. In NumPy, because files
are converted slice by slice on the host.
"""

from __future__ import annotations

import ml_dtypes
import numpy as np

BLOCK = 128
E4M3 = np.dtype(ml_dtypes.float8_e4m3fn)
LARGEST = 448.0  # largest finite value of e4m3

# The value of each code: a look-up is several times faster than a cast.
_VALUES = np.arange(256, dtype=np.uint8).view(E4M3).astype(np.float32)


def scale_shape(shape: tuple[int, int]) -> tuple[int, int]:
  """Shape of the scales of a matrix; blocks at its edges may be partial."""
  rows, columns = shape
  return -(-rows // BLOCK), -(-columns // BLOCK)


def dequantise(codes: np.ndarray, scales: np.ndarray,
               start: tuple[int, int] = (0, 0)) -> np.ndarray:
  """float32 values of a rectangle of a quantised matrix.

  Args:
    codes: float8_e4m3fn [rows, columns], the rectangle.
    scales: float32, of the whole matrix (`scale_shape`).
    start: row and column of the rectangle's first element in the matrix.
  """
  values = np.take(_VALUES, codes.view(np.uint8))
  # One row of blocks at a time, so that the expanded scales stay small.
  columns = (start[1] + np.arange(values.shape[1])) // BLOCK
  row = 0
  while row < len(values):
    block = (start[0] + row) // BLOCK
    stop = min((block + 1) * BLOCK - start[0], len(values))
    values[row:stop] *= scales[block, columns][None]
    row = stop
  return values


def quantise(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """(codes e4m3, scales float32) of a finite matrix [rows, columns].

  A block's scale is its largest magnitude / 448, so that the largest code is
  used; codes are rounded to nearest, ties to even. The scale of a block of
  zeros is 1.
  """
  scales = np.empty(scale_shape(values.shape), np.float32)
  codes = np.empty(values.shape, E4M3)
  edges = np.arange(0, values.shape[1], BLOCK)
  for i, row in enumerate(range(0, len(values), BLOCK)):
    band = values[row:row + BLOCK].astype(np.float32)
    largest = np.maximum.reduceat(np.abs(band).max(0), edges)
    scales[i] = np.where(largest > 0, largest.astype(np.float64) / LARGEST, 1.0)
    # The scale of a block of tiny values could round to zero.
    scales[i] = np.maximum(scales[i], np.finfo(np.float32).smallest_subnormal)
    band /= np.repeat(scales[i], BLOCK)[None, :band.shape[1]]
    # As the scale was rounded, the largest value may slightly exceed 448.
    codes[row:row + BLOCK] = np.clip(band, -LARGEST, LARGEST, out=band)
  return codes, scales
