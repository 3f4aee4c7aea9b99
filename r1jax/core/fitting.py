"""Assigns sequences of different lengths to rows of one length."""

from __future__ import annotations

import bisect
from collections.abc import Sequence

import numpy as np


def best_fit(lengths: Sequence[int] | np.ndarray, capacity: int
             ) -> list[list[int]]:
  """Assigns items to rows: longest first, each to the fullest row it fits.

  Returns:
    For each row the indices of its items, in the order of placement.

  Raises:
    ValueError: an item is longer than `capacity`.
  """
  lengths = np.asarray(lengths, np.int64).reshape(-1)
  if lengths.size and lengths.max() > capacity:
    worst = int(lengths.argmax())
    raise ValueError(
        f"sequence {worst} needs {lengths[worst]} slots, a row has {capacity};"
        " raise the row length or shorten prompt or completion")
  rows: list[list[int]] = []
  space: list[tuple[int, int]] = []  # (free slots, row), ascending.
  for index in np.argsort(-lengths, kind="stable").tolist():
    length = int(lengths[index])
    at = bisect.bisect_left(space, (length, -1))
    if at < len(space):
      free, row = space.pop(at)
    else:
      free, row = capacity, len(rows)
      rows.append([])
    rows[row].append(index)
    bisect.insort(space, (free - length, row))
  return rows
