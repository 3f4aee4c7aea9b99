"""Interrupts a run once and checks what it left behind."""

from __future__ import annotations

import contextlib
import os
import pathlib
import random
import re
import signal
import sys
import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from r1jax.checkpoint.manager import Manager
from r1jax.core.config import check
from r1jax.sharding import watchdog

from .disturbed import Attempt, Run

_GRACE = 30.0  # seconds after SIGTERM
_MB = 2**20
# Metrics that depend on the clock.
_NOISE = re.compile(r"seconds/|compile/|.*tokens_per_s|rewards/wait_fraction")


class Chaos:
  """Disturbs a run and compares it with an undisturbed one.

  Attributes:
    results: one dict for each disturbance.
    faults: descriptions of the checks that failed.
  """

  def __init__(self, whole: Run, run: Run, pace: tuple[float, float],
               draw: random.Random) -> None:
    """Starts nothing yet.

    Args:
      whole: the undisturbed run, finished.
      run: the run to disturb.
      pace: seconds from a start to its first step, and per step.
      draw: source of the random moments.
    """
    self.results: list[dict[str, Any]] = []
    self.faults: list[str] = []
    self._run, self._draw = run, draw
    self._startup, self._step_s = pace
    self._whole = {row["step"]: row for row in whole.rows()}
    self._resumed = 0

  def fault(self, kind: str, text: str) -> None:
    self.faults.append(f"start {self._run.starts} ({kind}): {text}")
    print(f"FAULT {self.faults[-1]}", file=sys.stderr, flush=True)

  def disturb(self, kind: str) -> None:
    """Starts the command, interrupts it as `kind` says, checks the result."""
    run = self._run
    self._resumed = run.done()
    result: dict[str, Any] = {"kind": kind, "resumed": self._resumed}
    last = None
    if kind.startswith("last"):
      last = self._resumed + self._draw.randint(1, 3)
      check(last < run.work.steps, f"{run.work.steps} steps are too few")
    attempt = run.start(last)
    try:
      if kind.startswith("last"):
        result |= self._end(attempt, kind, last)
      elif kind.startswith(("term", "inside")):
        result |= self._terminate(attempt, kind)
      elif kind.startswith("full"):
        result |= self._fill(attempt, kind)
      else:
        result |= self._kill(attempt, kind)
    finally:
      attempt.close()
    self._look(attempt, result)

  def _wait(self, attempt: Attempt, *, saving: bool) -> None:
    """Waits for a random step after the resumed one, or for its save."""
    every = self._run.work.save_every
    step = self._resumed + self._draw.randint(1, 2 * every)
    attempt.until(attempt.training)
    if saving:
      step -= step % every
      attempt.until(lambda: max(self._run.unfinished(), default=0) >= max(
          step, self._resumed + 1))
    else:
      attempt.until(lambda: self._run.logged() >= step)

  def _kill(self, attempt: Attempt, kind: str) -> dict[str, Any]:
    run, draw = self._run, self._draw
    if kind == "start":
      attempt.until(lambda: bool(attempt.workers()))
      attempt.running(draw.uniform(0, self._startup))
    else:
      self._wait(attempt, saving=kind == "save")
      attempt.running(draw.uniform(0, 0.1))
    killed = attempt.signal_one(signal.SIGKILL, draw)
    if killed is None:
      self.fault(kind, f"ended before it was killed:\n{attempt.text()[-2000:]}")
    began = time.monotonic()
    status = attempt.end()
    if not status:
      self.fault(kind, f"status {status} after a kill")
    return {"process": killed, "ended_s": time.monotonic() - began,
            "unfinished": run.unfinished()}

  def _signal(self, attempt: Attempt, kind: str) -> float:
    """Sends SIGTERM to all processes or one; seconds until the run has ended.

    It must end with status 75, or with 0 during the last save, after which
    nothing is left to do.
    """
    if kind.endswith("-1"):
      attempt.signal_one(signal.SIGTERM, self._draw)
    else:
      attempt.signal_launcher(signal.SIGTERM)
    began = time.monotonic()
    status = attempt.end(_GRACE)
    if status != watchdog.AGAIN and (status or not kind.startswith("last")):
      self.fault(kind, f"status {status} after SIGTERM (None: not ended in"
                 f" {_GRACE:.0f} s):\n{attempt.text()[-2000:]}")
    return time.monotonic() - began

  def _terminate(self, attempt: Attempt, kind: str) -> dict[str, Any]:
    run, draw = self._run, self._draw
    if kind.startswith("term"):
      self._wait(attempt, saving=False)
      attempt.running(draw.uniform(0, 0.1))
    else:
      step = self._resumed + draw.randint(0, 2)
      attempt.until(attempt.training)
      attempt.until(lambda: run.logged() >= step)
      attempt.running(draw.uniform(0, 2 * self._step_s))
    seconds = self._signal(attempt, kind)
    if run.done() != run.logged():
      self.fault(kind, f"saved {run.checkpoints()} and inside of"
                 f" {run.inside()} at step {run.logged()}")
    said = re.search(r"SIGTERM: (?:saved|stopped,) (.*);", attempt.text())
    if not said:
      self.fault(kind, "it did not say what it had saved or lost")
    return {"ended_s": seconds, "said": said[1] if said else ""}

  def _end(self, attempt: Attempt, kind: str, last: int) -> dict[str, Any]:
    """Sends a signal while the checkpoint of the last step is written."""
    run = self._run
    attempt.until(lambda: last in run.unfinished()
                  or last in run.checkpoints())
    writing = last in run.unfinished()
    seconds = self._signal(attempt, kind)
    if run.checkpoints()[-1:] != [last] or run.logged() != last:
      self.fault(kind, f"saved {run.checkpoints()} at {run.logged()}, not"
                 f" {last}")
    return {"ended_s": seconds, "said": "while writing" if writing
            else "after writing"}

  def _fill(self, attempt: Attempt, kind: str) -> dict[str, Any]:
    run = self._run
    self._wait(attempt, saving=kind == "full-save")
    filler = run.workdir.parent / "filler"
    fill(filler, 0.25 * _MB if kind == "full-log" else 0)
    began = time.monotonic()
    status = attempt.end()
    unfinished = run.unfinished()
    filler.unlink()
    # The error comes from the process that met it or from one that was told of
    # it: all are stopped when the first ends.
    said = re.findall(r"^(?:\[\d+\] )?error: .*could not write.*",
                      attempt.text(), re.M)
    once = len({line.partition("error")[0] for line in said}) == len(said)
    if status != 1 or not said or not once or "Traceback" in attempt.text():
      self.fault(kind, f"status {status}:\n{attempt.text()[-3000:]}")
    return {"ended_s": time.monotonic() - began, "unfinished": unfinished,
            "said": said}

  def _look(self, attempt: Attempt, result: dict[str, Any]) -> None:
    kind, run, text = result["kind"], self._run, attempt.text()
    said = re.search(r"resuming \S+ (after|inside) step (\d+)", text)
    said = int(said[2]) - (said[1] == "inside") if said else None
    if (said or 0) != self._resumed and (
        said is not None or attempt.training()):
      self.fault(kind, f"resumed after {said}, the newest was {self._resumed}")
    logged, steps, every = run.logged(), run.checkpoints(), run.work.save_every
    newest = run.done()
    # A save begins after its step is logged and the save before is complete, so
    # only the latest may be lost.
    due = max(self._resumed, ((logged - 1) // every - 1) * every)
    if newest < due:
      self.fault(kind, f"newest checkpoint {newest} at {logged}, not {due}")
    self._compare(kind, run.rows())
    for step in steps:
      self._restore(kind, step)
    result |= {"step": logged, "newest": newest, "lost": logged - newest,
               "seconds": time.monotonic() - attempt.began}
    self.results.append(result)
    print(f"{len(self.results):3d} {kind:9s} resumed after {said or 0:4d},"
          f" ended at {logged:4d} with {steps}, inside {run.inside()},"
          f" unfinished {result.get('unfinished', [])},"
          f" process {result.get('process')}, {result.get('said', '')}",
          file=sys.stderr, flush=True)

  def _compare(self, kind: str, rows: Sequence[dict[str, Any]]) -> None:
    first = self._run.work.first
    if [row["step"] for row in rows] != list(range(first, len(rows) + first)):
      self.fault(kind, f"the log has steps {[row['step'] for row in rows]}")
    for row in rows:
      expected = self._whole[row["step"]]
      names = [n for n in {**expected, **row} if row.get(n) != expected.get(n)
               and not _NOISE.match(n)]
      if names:
        self.fault(kind, f"step {row['step']} differs in {sorted(names)}")
        return

  def _restore(self, kind: str, step: int) -> None:
    try:
      arrays = restored(self._run, step)
    except (ValueError, OSError) as error:
      self.fault(kind, f"checkpoint {step} is not whole: {error}")
      return
    if int(arrays["step"]) != step * self._run.work.updates:
      self.fault(kind, f"checkpoint {step} holds update {int(arrays['step'])}")

  def finish(self, whole: Run) -> None:
    """Runs to the end and compares the log and the last checkpoint."""
    self._resumed = self._run.done()
    attempt = self._run.start()
    status = attempt.end()
    attempt.close()
    if status != 0:
      self.fault("end", f"status {status}:\n{attempt.text()[-2000:]}")
    self._look(attempt, {"kind": "end", "resumed": self._resumed})
    if self._run.logged() != self._run.work.steps:
      self.fault("end", f"the log ends at {self._run.logged()}")
    a, b = (restored(run, run.work.steps) for run in (whole, self._run))
    different = [name for name, leaf in a.items()
                 if leaf.tobytes() != b[name].tobytes()]
    if different:
      self.fault("end", f"the last states differ in {different}")


def restored(run: Run, step: int) -> dict[str, np.ndarray]:
  """The arrays of a checkpoint by name, read without changing the run."""
  manager = Manager(run.workdir / "checkpoints", read_only=True)
  try:
    check(step in manager.steps(), f"it is not among {manager.steps()}")
    return manager.restore(step, like={
        name: np.empty(shape, dtype)
        for name, (shape, dtype) in manager.described(step).items()})[0]
  finally:
    manager.close()


def fill(path: pathlib.Path, left: float) -> None:
  """Makes a file that leaves `left` bytes of its disk free."""
  with path.open("wb") as file:
    while True:
      disk = os.statvfs(path)
      room = disk.f_bavail * disk.f_frsize - int(left)
      if room < disk.f_frsize:
        return
      with contextlib.suppress(OSError):  # The run has taken some of it.
        os.posix_fallocate(file.fileno(), os.fstat(file.fileno()).st_size,
                           room)
