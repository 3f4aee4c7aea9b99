"""Counts the programs that JAX compiles, and how long that takes."""

from __future__ import annotations

import jax

_EVENT = "/jax/core/compile/backend_compile_duration"


class Compilations:
  """Counts while it is entered; every program of this process.

  A program that comes from JAX's compilation cache counts too, with the time
  of reading it.
  """

  def __init__(self):
    self._programs, self._seconds = 0, 0.0

  def __enter__(self) -> Compilations:
    jax.monitoring.register_event_duration_secs_listener(self._hear)
    return self

  def __exit__(self, *exception: object) -> None:
    jax.monitoring.unregister_event_duration_listener(self._hear)

  def _hear(self, event: str, seconds: float, **_: object) -> None:
    if event == _EVENT:
      self._programs += 1
      self._seconds += seconds

  def new(self) -> dict[str, float]:
    """Programs and seconds since the last call, as metrics."""
    counted = {"compile/programs": float(self._programs),
               "compile/seconds": self._seconds}
    self._programs, self._seconds = 0, 0.0
    return counted
