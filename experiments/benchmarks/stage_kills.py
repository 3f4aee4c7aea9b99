"""Kills every stage of a plan once and compares the results.

  python -m experiments.benchmarks.stage_kills --preset=tiny --json

A plan runs to its report, once undisturbed, and its folder is renamed. Then the
same command runs in the same folder, and every stage gets SIGKILL at a random
moment of the time that it took before, alternately alone and together with the
command that runs the plan; the command is repeated until the plan is finished.
At the end the arrays of each stage's last checkpoint, every line of every log
and data file, and the report's tables and claims are compared with the
undisturbed run's, except for times. Exit status 1 if anything differs.
"""

from __future__ import annotations

import contextlib
import gzip
import json
import os
import pathlib
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
from absl import flags

from r1jax.checkpoint.manager import Manager
from r1jax.core import io
from r1jax.core.config import check
from r1jax.plans import plan as plan_lib
from r1jax.plans.pipeline import BEGUN, DONE

from .. import start
from .output import JSON

PRESET = flags.DEFINE_string(
    "preset", "tiny", "Plan to run, as --preset of experiments.r1.")
SEED = flags.DEFINE_integer(
    "seed", 0, "Seed of the random moments; the plan's own seed stays 0.")
FOLDER = flags.DEFINE_string(
    "folder", "", "Keep both runs here; a finished undisturbed run in it is"
    " reused. Default: a temporary folder, kept if something differs.")

ROOT = pathlib.Path(__file__).parents[2]
# Files, and keys of their lines, that depend on the clock.
_TIMED = re.compile(
    r"(.*/)?(done\.json|cost\.json|.*tfevents.*|.*\.html|.*\.png|\.lock)|begun/.*"
    r"|(.*/)?progress.*")
_NOISE = re.compile(
    r"seconds|seconds/.*|compile/.*|.*tokens_per_s|rewards/wait_fraction"
    r"|minutes|cost|.*_per_s")
_LATE = 0.95  # latest moment of a kill, as a share of a stage's duration


class Killed:
  """A plan whose stages are killed.

  Attributes:
    results: one dict for each stage.
  """

  def __init__(self, workdir: pathlib.Path, seconds: dict[str, float],
               draw: random.Random) -> None:
    """Starts nothing yet.

    Args:
      workdir: folder of the plan.
      seconds: duration of each stage undisturbed.
      draw: source of the random moments.
    """
    self.results: list[dict[str, Any]] = []
    self._workdir, self._seconds = workdir, seconds
    # Seconds from each stage's start to its kill, drawn in the plan's order.
    self._moments = {name: draw.uniform(0.05, _LATE) * took
                     for name, took in seconds.items()}

  def run(self) -> int:
    """Runs the plan to the end; returns the number of starts.

    Raises:
      ValueError: a start failed that was not killed.
    """
    for starts in range(1, 2 * len(self._seconds) + 2):
      process = command(self._workdir, self._workdir.parent / "killed.log")
      name = self._disturb(process)
      if process.wait() == 0:
        return starts
      check(name, f"start {starts} failed by itself; see"
            f" {self._workdir.parent / 'killed.log'}")
    raise ValueError("the plan never came to its end")

  def _disturb(self, process: subprocess.Popen) -> str:
    """Kills the next stage at its moment; its name, "" if none was killed."""
    began: dict[str, float] = {}
    while process.poll() is None:
      time.sleep(0.01)
      done = {result["stage"] for result in self.results}
      for name, moment in self._moments.items():
        begun = (self._workdir / BEGUN / f"{name}.json").exists()
        if name in done or not begun:
          continue
        since = time.monotonic() - began.setdefault(name, time.monotonic())
        if (self._workdir / name / DONE).exists():
          self._note(name, "was faster", since)
        elif since >= moment and (pid := child_of(process.pid)):
          together = len(self.results) % 2 == 1
          if together:  # first, or the command could see the stage end
            process.kill()
          with contextlib.suppress(ProcessLookupError):
            os.killpg(pid, signal.SIGKILL)
          self._note(name, "with the command" if together else "alone", since)
          return name
    return ""

  def _note(self, name: str, kind: str, seconds: float) -> None:
    self.results.append({"stage": name, "killed": kind, "after_s": seconds})
    print(f"{name}: {kind}, after {seconds:.1f} of"
          f" {self._seconds[name]:.1f} s", file=sys.stderr, flush=True)


def command(workdir: pathlib.Path, log: pathlib.Path) -> subprocess.Popen:
  """Starts the plan; its output is appended to the log."""
  with log.open("a") as output:
    return subprocess.Popen(
        [sys.executable, "-m", "experiments.r1", f"--preset={PRESET.value}",
         f"--workdir={workdir}"], cwd=ROOT, stdout=output, stderr=output,
        stdin=subprocess.DEVNULL)


def child_of(pid: int) -> int | None:
  """The process of the stage that a command runs, a process group leader."""
  path = pathlib.Path(f"/proc/{pid}/task/{pid}/children")
  check(pathlib.Path("/proc/self/task").exists(),
        "finding the processes needs /proc; run this on Linux")
  with contextlib.suppress(OSError):
    for child in map(int, path.read_text().split()):
      if os.getpgid(child) == child:
        return child
  return None


def differences(whole: pathlib.Path, killed: pathlib.Path) -> Iterator[str]:
  """Descriptions of the differences between two finished runs of a plan."""
  texts = [{name: content for name, content in contents(run)}
           for run in (whole, killed)]
  for name in sorted({*texts[0], *texts[1]}):
    first, second = (text.get(name) for text in texts)
    if first is None or second is None:
      yield f"{name} is only in {(whole, killed)[first is None]}"
    elif first != second:
      yield f"{name} differs"


def contents(run: pathlib.Path) -> Iterator[tuple[str, Any]]:
  """(name, content) of every file of a run that should be reproducible."""
  for path in sorted(run.rglob("*")):
    name = path.relative_to(run).as_posix()
    if "/checkpoints" in name or not path.is_file() or _TIMED.fullmatch(name):
      continue
    data = path.read_bytes()
    data = gzip.decompress(data) if name.endswith(".gz") else data
    if name.endswith(".json"):
      yield name, untimed(json.loads(data))
    elif ".jsonl" in name:
      yield name, [untimed(json.loads(line)) for line in data.splitlines()]
    else:
      yield name, data
  for path in sorted(run.glob("*/checkpoints")):
    yield f"{path.parent.name}/checkpoints", arrays(path)


def untimed(value: Any) -> Any:
  """JSON without the keys that depend on the clock."""
  if isinstance(value, dict):
    return {key: untimed(part) for key, part in value.items()
            if not _NOISE.fullmatch(key)}
  return [untimed(part) for part in value] if isinstance(value, list) else value


def arrays(folder: pathlib.Path) -> dict[str, tuple[Any, ...]]:
  """The last checkpoint's step and arrays, as (shape, dtype, bytes)."""
  manager = Manager(folder, read_only=True)
  try:
    step = manager.steps()[-1]
    restored = manager.restore(step, like={
        name: np.empty(shape, dtype)
        for name, (shape, dtype) in manager.described(step).items()})[0]
    return {"step": (step,)} | {
        name: (leaf.shape, str(leaf.dtype), leaf.tobytes())
        for name, leaf in restored.items()}
  finally:
    manager.close()


def measure(folder: pathlib.Path) -> tuple[dict[str, Any], list[str]]:
  """Does both runs; returns the results, JSON-ready, and the differences."""
  plan = plan_lib.read(ROOT / f"experiments/plans/{PRESET.value}.toml")
  # Settings, and digests of them, hold the folder's name: one name for both.
  whole, killed = folder / "whole", folder / "killed"
  if not whole.exists():
    check(command(killed, folder / "whole.log").wait() == 0,
          f"the undisturbed run failed; see {folder / 'whole.log'}")
    killed.rename(whole)
  seconds = {stage.name: io.read_json(whole / stage.name / DONE)["seconds"]
             for stage in plan.stages}
  print(f"undisturbed: {len(seconds)} stages in {sum(seconds.values()):.0f} s",
        file=sys.stderr, flush=True)
  run = Killed(killed, seconds, random.Random(SEED.value))
  starts = run.run()
  found = list(differences(whole, killed))
  return {"preset": PRESET.value, "stages": len(seconds), "starts": starts,
          "seconds": sum(seconds.values()),
          "killed": sum(r["killed"] != "was faster" for r in run.results),
          "differences": len(found), "results": run.results}, found


def main() -> None:
  folder = pathlib.Path(FOLDER.value or tempfile.mkdtemp(prefix="kills."))
  check(not (folder / "killed").exists() or not (folder / "whole").exists(),
        f"{folder / 'killed'} exists already; choose another --folder")
  folder.mkdir(parents=True, exist_ok=True)
  summary, found = measure(folder)
  if JSON.value:
    print(json.dumps(summary), flush=True)
  else:
    print(f"{summary['killed']} of {summary['stages']} stages were killed,"
          f" {summary['starts']} starts", flush=True)
  if found:
    raise SystemExit(f"{len(found)} differences; see {folder}:\n"
                     + "\n".join(found))
  if not FOLDER.value:
    shutil.rmtree(folder)
  print("no difference", file=sys.stderr)


if __name__ == "__main__":
  start.run(main, devices=False)
