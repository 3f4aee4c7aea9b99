"""Starts a training command repeatedly, watches it and sends it signals."""

from __future__ import annotations

import dataclasses
import os
import pathlib
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

from r1jax.checkpoint import midway
from r1jax.core.config import check
from r1jax.report import writer

ROOT = pathlib.Path(__file__).parents[2]
UNFINISHED = ".orbax-checkpoint-tmp"
PATIENCE = 300.0  # seconds to wait before the command counts as hanging


@dataclasses.dataclass(frozen=True)
class Work:
  """What a run does.

  Attributes:
    arguments: of python, without --workdir and --steps.
    steps: steps of the whole run.
    save_every: steps between checkpoints.
    first: step of the log's first line.
    updates: updates of a step.
  """

  arguments: Sequence[str]
  steps: int
  save_every: int
  first: int = 1
  updates: int = 1


class Run:
  """A command in a folder, under launch/local.sh.

  Attributes:
    workdir: folder of the run.
    work: what it does.
    starts: number of starts so far.
  """

  def __init__(self, folder: pathlib.Path, workdir: pathlib.Path, work: Work,
               processes: int, devices: int) -> None:
    """Starts nothing yet.

    Args:
      folder: gets the output of the processes.
      workdir: folder of the run.
      work: what it does.
      processes, devices: number of processes, and devices of each.
    """
    self.workdir, self.work, self.starts = workdir, work, 0
    self._folder, self._processes, self._devices = folder, processes, devices
    self._command = ["bash", str(ROOT / "launch/local.sh"), str(processes),
                     "--", sys.executable, *work.arguments,
                     f"--workdir={workdir}"]
    folder.mkdir(parents=True, exist_ok=True)

  def start(self, steps: int | None = None) -> Attempt:
    """Starts the command again, up to step `steps` or to the end."""
    self.starts += 1
    logs = self._folder / f"start_{self.starts}"
    logs.mkdir()
    environment = os.environ | {
        "R1JAX_VENV": "none", "JAX_PLATFORMS": "cpu", "GRACE": "2",
        "LOGS": str(logs), "DEVICES": str(self._devices),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
    return Attempt(self, logs / "process_0.log", [
        *self._command, f"--steps={steps or self.work.steps}"], environment)

  def rows(self) -> list[dict[str, Any]]:
    """The log so far."""
    return writer.read(self.workdir)

  def logged(self) -> int:
    """The last step whose line in the log is complete; 0 for none."""
    try:
      lines = (self.workdir / writer.METRICS).read_bytes().count(b"\n")
    except FileNotFoundError:
      return 0
    return max(0, lines - 1 + self.work.first)

  def log_file(self) -> int:
    """Inode of the log's file, 0 for none; each start makes a new file."""
    try:
      return (self.workdir / writer.METRICS).stat().st_ino
    except FileNotFoundError:
      return 0

  def checkpoints(self) -> list[int]:
    """Steps of the folders with the name of a complete checkpoint."""
    return sorted(int(name) for name in self._folders() if name.isdigit())

  def unfinished(self) -> list[int]:
    """Steps that are being saved, or were when the run was killed."""
    return sorted(int(name.partition(".")[0]) for name in self._folders()
                  if name.endswith(UNFINISHED))

  def inside(self) -> int | None:
    """Complete steps before a save inside a step; None without such a save."""
    numbers = [int(name) for name in self._folders("checkpoints_inside/state")
               if name.isdigit()]
    return max(numbers) // midway.SAVES if numbers else None

  def done(self) -> int:
    """Complete steps of the newest save, from which the next start resumes."""
    return max([0, *self.checkpoints(), self.inside() or 0])

  def _folders(self, name: str = "checkpoints") -> list[str]:
    try:
      return os.listdir(self.workdir / name)
    except FileNotFoundError:
      return []


class Attempt:
  """One start of the command."""

  def __init__(self, run: Run, log: pathlib.Path, command: Sequence[str],
               environment: dict[str, str]) -> None:
    self.run, self._log = run, log
    self._former = run.log_file()
    self.began = time.monotonic()
    with log.open("w") as output:
      self._process = subprocess.Popen(
          command, cwd=ROOT, env=environment, stdout=output, stderr=output,
          stdin=subprocess.DEVNULL)

  def text(self) -> str:
    """The output of process 0 and the launcher so far."""
    return self._log.read_text(errors="replace")

  def until(self, condition: Callable[[], bool]) -> bool:
    """Waits for a condition; False if the command ended before it was met.

    Raises:
      ValueError: neither happened within `PATIENCE`; all were killed.
    """
    deadline = time.monotonic() + PATIENCE
    while not condition():
      if not self.running(0.002):
        return condition()
      if time.monotonic() > deadline:
        self.close()
        check(False, f"nothing happened in {PATIENCE:.0f} s:\n{self.text()}")
    return True

  def training(self) -> bool:
    """Whether this start has restored its checkpoint and opened its log."""
    return self.run.log_file() != self._former

  def running(self, seconds: float = 0.0) -> bool:
    """Whether it still runs after some seconds."""
    try:
      self._process.wait(timeout=seconds)
    except subprocess.TimeoutExpired:
      return True
    return False

  def workers(self) -> dict[int, int]:
    """Process ids of the launched processes by JAX process number."""
    pids = {}
    for pid in _children(self._process.pid):
      try:
        command = pathlib.Path(f"/proc/{pid}/cmdline").read_bytes()
        texts = pathlib.Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
      except OSError:
        continue  # It has just ended.
      if command.startswith(os.fsencode(sys.executable)):
        pids |= {int(text[15:]): pid for text in texts
                 if text.startswith(b"JAX_PROCESS_ID=")}
    return pids

  def signal_one(self, number: signal.Signals, draw: random.Random
                 ) -> int | None:
    """Sends a signal to a random process; its number, None if none runs."""
    workers = sorted(self.workers().items())
    if not workers:
      return None
    process, pid = draw.choice(workers)
    try:
      os.kill(pid, number)
    except ProcessLookupError:
      return None
    return process

  def signal_launcher(self, number: signal.Signals) -> None:
    """Sends a signal to launch/local.sh, which passes it on."""
    self._process.send_signal(number)

  def end(self, seconds: float = PATIENCE) -> int | None:
    """Waits for the exit status; kills and returns None after `seconds`."""
    if self.running(seconds):
      self.close()
      return None
    return self._process.returncode

  def close(self) -> None:
    """Kills the processes that still run."""
    for pid in self.workers().values():
      try:
        os.killpg(pid, signal.SIGKILL)
      except ProcessLookupError:
        continue
    self._process.kill()
    self._process.wait()


def _children(pid: int) -> list[int]:
  path = pathlib.Path(f"/proc/{pid}/task/{pid}/children")
  try:
    return [int(child) for child in path.read_text().split()]
  except FileNotFoundError:
    check(pathlib.Path("/proc/self/task").exists(),
          "finding the processes needs /proc; run this on Linux")
    return []
