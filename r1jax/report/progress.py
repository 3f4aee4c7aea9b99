"""Progress of a loop: a bar in a terminal, elsewhere a line now and then.

In a notebook these are lines on standard output, because notebooks mark
standard error as a failure.
"""

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
      unit: str = "steps", stream: TextIO | None = None,
      quiet: bool = False) -> None:
    """Starts the clock.

    Args:
      title: what the loop does.
      total: steps in all.
      start: steps done before (a resumed run); they do not count in the rate.
      interval: seconds between lines if `stream` is not a terminal.
      unit: name of what is counted, for the rate.
      stream: where to write; by default standard error, in a notebook standard
        output.
      quiet: write nothing, as all processes of a run but one should.
    """
    self._title, self._total, self._done = title, total, start
    self._interval, self._unit, self._quiet = interval, unit, quiet
    # (time, steps done) at the end of the first step.
    self._timed: tuple[float, int] | None = None
    in_notebook = type(sys.stderr).__module__.startswith("ipykernel.")
    self._stream = stream or (sys.stdout if in_notebook else sys.stderr)
    self._began = self._said = time.monotonic()
    self._bar = None
    if self._stream.isatty() and not quiet:
      self._bar = tqdm.tqdm(
          total=total, initial=start, desc=title, file=self._stream,
          dynamic_ncols=True, smoothing=0.1, unit=f" {unit}")

  def __enter__(self) -> Progress:
    return self

  def __exit__(self, *exc: object) -> None:
    if self._bar is not None:
      self._bar.close()

  def step(self, metrics: Mapping[str, float], steps: int = 1) -> None:
    """Adds `steps` to the steps done and shows `metrics` (host numbers)."""
    if self._quiet:
      return
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
      print(f"{self._title} {self._done}/{self._total}  {self._pace(now, last)}"
            f"  {shown}".rstrip(), file=self._stream, flush=True)
    if self._timed is None:
      self._timed = now, self._done

  def _pace(self, now: float, last: bool) -> str:
    """Rate and remaining time; at first and at the end, the elapsed time.

    The first step is left out of the rate, because it compiles.
    """
    if last or self._timed is None:
      return f"after {clock(now - self._began)}"
    since, done = self._timed
    rate = (self._done - done) / max(now - since, 1e-9)
    return (f"{rate:.2f} {self._unit}/s"
            f"  {clock((self._total - self._done) / rate)} left")

  def say(self, text: str) -> None:
    """Writes a line of text without breaking the bar."""
    if self._bar is not None:
      self._bar.write(text, file=self._stream)
    elif not self._quiet:
      print(text, file=self._stream, flush=True)


@contextlib.contextmanager
def percent(title: str, quiet: bool = False
            ) -> Iterator[Callable[[int, int], None]]:
  """A progress bar in percent; yields a function of (bytes done, bytes in all).
  """
  with Progress(title, 100, unit="%", quiet=quiet) as progress:
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
