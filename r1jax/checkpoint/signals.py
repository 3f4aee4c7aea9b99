"""Ctrl-C and SIGTERM as a question that the loop asks, so that it saves first.

    with signals.Preemption() as preemption:
      for step in range(state.step, steps):
        ...
        if preemption.requested():
          manager.save(step + 1, arrays, host, force=True)
          break
"""

from __future__ import annotations

import signal
import types
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils


class Preemption:
  """Catches SIGINT and SIGTERM while its `with` block runs.

  The first of them only sets a flag; a second SIGINT raises KeyboardInterrupt
  at once. The former handlers come back at the end of the block. Enter it in
  the main thread (Python's rule for signal handlers).
  """

  def __init__(self) -> None:
    self._name: str | None = None
    self._former: dict[signal.Signals, Any] = {}

  def __enter__(self) -> Preemption:
    for number in (signal.SIGINT, signal.SIGTERM):
      self._former[number] = signal.signal(number, self._catch)
    return self

  def __exit__(self, *exc: object) -> None:
    for number, former in self._former.items():
      signal.signal(number, former)

  def requested(self) -> bool:
    """Whether to save and stop.

    Under several processes all of them must ask at the same step; the answer is
    yes for all if any was signalled, so that they save the same step.
    """
    if jax.process_count() == 1:
      return self._name is not None
    flags = multihost_utils.process_allgather(np.array(self._name is not None))
    return bool(np.any(flags))

  @property
  def name(self) -> str:
    """Name of the signal that came to this process, or ''."""
    return self._name or ""

  def _catch(self, number: int, frame: types.FrameType | None) -> None:
    if self._name is not None and number == signal.SIGINT:
      raise KeyboardInterrupt("second Ctrl-C: stopped without saving")
    self._name = signal.Signals(number).name
