"""Progress of a loop: a bar in a terminal, now and then a line elsewhere."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from typing import TextIO

import tqdm


class Progress:
  """Shows the step, the rate, the remaining time and a few live metrics.

      with Progress("R1-Zero", steps, start=state.step) as progress:
        for step in range(state.step, steps):
          ...
          progress.step({"accuracy": 0.4, "length": 31.5})
  """

  def __init__(
      self, title: str, total: int, *, start: int = 0, interval: float = 10.0,
      unit: str = "steps", stream: TextIO | None = None) -> None:
    """Starts the clock.

    Args:
      title: what the loop does.
      total: steps in all.
      start: steps done before (a resumed run); they do not count in the rate.
      interval: seconds between lines where `stream` is not a terminal.
      unit: what is counted, for the rate.
      stream: where to write, standard error by default.
    """
    self._title, self._total, self._done = title, total, start
    self._start, self._interval, self._unit = start, interval, unit
    self._stream = stream or sys.stderr
    self._began = self._said = time.monotonic()
    self._bar = None
    if self._stream.isatty():
      self._bar = tqdm.tqdm(
          total=total, initial=start, desc=title, file=self._stream,
          dynamic_ncols=True, smoothing=0.1, unit=f" {unit}")

  def __enter__(self) -> Progress:
    return self

  def __exit__(self, *exc: object) -> None:
    if self._bar is not None:
      self._bar.close()

  def step(self, metrics: Mapping[str, float], steps: int = 1) -> None:
    """Counts `steps` done and shows `metrics` (numbers on the host)."""
    self._done += steps
    shown = "  ".join(f"{k} {v:.4g}" for k, v in metrics.items())
    if self._bar is not None:
      self._bar.set_postfix_str(shown, refresh=False)
      self._bar.update(steps)
      return
    now = time.monotonic()
    last = self._done >= self._total
    if now - self._said >= self._interval or last:
      self._said = now
      rate = (self._done - self._start) / max(now - self._began, 1e-9)
      left = (self._total - self._done) / rate if rate else 0.0
      print(f"{self._title} {self._done}/{self._total}  {rate:.2f}"
            f" {self._unit}/s  {clock(left)} left  {shown}",
            file=self._stream, flush=True)

  def say(self, text: str) -> None:
    """Writes a line without breaking the bar."""
    if self._bar is not None:
      self._bar.write(text, file=self._stream)
    else:
      print(text, file=self._stream, flush=True)


@contextlib.contextmanager
def percent(title: str) -> Iterator[Callable[[int, int], None]]:
  """A function of (bytes done, bytes in all) that shows a step per percent."""
  with Progress(title, 100, unit="%") as progress:
    shown = 0

    def report(done: int, total: int) -> None:
      nonlocal shown
      if (now := 100 * done // total) > shown:
        progress.step({"GB": done / 1e9}, now - shown)
        shown = now

    yield report


def clock(seconds: float) -> str:
  """`75` -> `1:15`, `3700` -> `1:01:40`."""
  minutes, second = divmod(int(round(seconds)), 60)
  hours, minute = divmod(minutes, 60)
  if hours:
    return f"{hours}:{minute:02}:{second:02}"
  return f"{minute}:{second:02}"
