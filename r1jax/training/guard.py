"""Handles updates that were skipped because of non-finite numbers."""

from __future__ import annotations

import io
import logging
import math
import os
from collections.abc import Mapping

import jax
import numpy as np
from etils import epath

from r1jax.core import io as core_io
from r1jax.core.config import check
from r1jax.core.types import TokenBatch
from r1jax.sharding import processes

LIMIT = 3  # skipped updates in a row that end the run


class Guard:
  """Saves the batch of every skipped update, and stops after three in a row.

  Attributes:
    skipped: the latest steps that were skipped in a row, oldest first. Part of
      the run's host state: pass it to a resumed run's Guard.
  """

  def __init__(self, directory: str | os.PathLike,
               skipped: tuple[int, ...] = ()) -> None:
    self._directory = epath.Path(directory)
    self.skipped = tuple(skipped)

  def check(self, step: int, metrics: Mapping[str, float],
            batch: TokenBatch | None) -> None:
    """Checks one update.

    Args:
      step: number of the update.
      metrics: of the update, from `metrics.floats`.
      batch: this process's part of its batch, written to `step_N.npz` (by
        process P > 0 to `step_N.process_P.npz`) if the update was skipped.

    Raises:
      FloatingPointError: it was the third skipped update in a row.
    """
    if not metrics["skipped"]:
      self.skipped = ()
      return
    self.skipped = (*self.skipped, step)
    path = self._directory / f"step_{step}{processes.suffix()}.npz"
    if batch is not None:
      core_io.write_bytes(path, dump(batch))
    why = reason(metrics)
    logging.warning("step %d skipped: %s; its batch is in %s", step, why, path)
    if len(self.skipped) >= LIMIT:
      raise FloatingPointError(
          f"steps {', '.join(map(str, self.skipped))} were skipped in a row:"
          f" {why}. Their batches are in {self._directory}; lower the learning"
          " rate, or look at log-probabilities and rewards of the batches")


def reason(metrics: Mapping[str, float]) -> str:
  """Which metrics are not finite, in words."""
  bad = [f"{name}={value}" for name, value in sorted(metrics.items())
         if not math.isfinite(value)]
  return ", ".join(bad) or "a gradient that is not finite"


def dump(batch: TokenBatch) -> bytes:
  """The arrays of a batch as the bytes of an .npz file, named by field."""
  arrays = {name: value for name, value in vars(batch).items()
            if value is not None}
  file = io.BytesIO()
  np.savez(file, **jax.device_get(arrays))
  return file.getvalue()


def load(path: str | os.PathLike) -> TokenBatch:
  """A batch from a file that `dump` made.

  Raises:
    ValueError: the file holds no batch.
  """
  with np.load(io.BytesIO(epath.Path(path).read_bytes())) as arrays:
    check("tokens_BT" in arrays, f"{path} holds no batch")
    return TokenBatch(**dict(arrays))
