"""Whether a run survives whatever ends it, bit for bit.

  python -m experiments.benchmarks.chaos --kills=20 --json

A small model is pre-trained under launch/local.sh, once undisturbed. Then the
same command is started in another folder, ended in some way, and started again,
until nothing is left to try; the last start goes on to the end.

  step     SIGKILL to a random process at a random moment of training
  save     the same, while a checkpoint is being written
  start    the same, while the processes start, restore and clean up
  term     SIGTERM to all of them (a preemption): ends by itself in 30 s with
           status 0, saved at the step that it was at
  term-1   SIGTERM to one of them: the same
  full     the disk (a small tmpfs) fills at a random moment of training: one
           clear error, status 1; goes on when there is space again
  full-log   the same, but the log still has room and a checkpoint has not
  full-save  the disk fills while a checkpoint is being written

After each of them is looked at: every folder with the name of a complete
checkpoint restores whole; the newest is no older than the save before the one
that was under way; the next start goes on from it; every line of the log, and
at the end every array of the checkpoint, equals the undisturbed run's exactly.
Exit status 1 if anything does not.
"""

from __future__ import annotations

import collections
import contextlib
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
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import numpy as np
from absl import flags

from experiments import start
from experiments.benchmarks.disturbed import Attempt, Run
from r1jax.checkpoint import trees
from r1jax.checkpoint.manager import Manager
from r1jax.core.config import check
from r1jax.models import presets
from r1jax.models.model import build
from r1jax.report import tables
from r1jax.stages.pretrain import PretrainConfig
from r1jax.training import optimizer
from r1jax.training import state as state_lib

KILLS = flags.DEFINE_integer("kills", 20, "SIGKILLs.", lower_bound=0)
TERMS = flags.DEFINE_integer(
    "terms", 4, "SIGTERMs, half of them to one process.", lower_bound=0)
FULL = flags.DEFINE_integer(
    "full", 3, "How often the disk fills.", lower_bound=0)
PROCESSES = flags.DEFINE_integer("processes", 2, "Processes.", lower_bound=1)
DEVICES = flags.DEFINE_integer(
    "devices", 2, "Devices of each process.", lower_bound=1)
STEPS = flags.DEFINE_integer("steps", 500, "Steps of the run.", lower_bound=1)
SAVE_EVERY = flags.DEFINE_integer(
    "save_every", 8, "Steps between checkpoints.", lower_bound=2)
SEED = flags.DEFINE_integer("seed", 0, "Of the moments and of the processes.")
FOLDER = flags.DEFINE_string(
    "folder", "", "Keep the runs and what they print here; default: a temporary"
    " folder, kept if something differs.")
JSON = flags.DEFINE_bool("json", False, "Print one line of JSON, no table.")

_PRESET = "base-arith"
_GRACE = 30.0  # seconds after SIGTERM
_MB = 2**20


def arguments() -> list[str]:
  """What is trained: tens of milliseconds a step, a checkpoint of 6 MB."""
  return ["-m", "experiments.pretrain", f"--init=random:{_PRESET}",
          f"--steps={STEPS.value}", "--rows=4", "--row_length=192",
          f"--save_every={SAVE_EVERY.value}", "--optimizer.warmup_steps=20",
          "--distributed.heartbeat_timeout=20"]


def kinds(draw: random.Random) -> list[str]:
  """What is done in turn: kills of all sorts, the rest in between."""
  found = [("save", "step", "save", "step", "start")[i % 5]
           for i in range(KILLS.value)]
  found += [("term", "term-1")[i % 2] for i in range(TERMS.value)]
  draw.shuffle(found)
  return found


class Chaos:
  """Disturbs a run and compares it with an undisturbed one.

  Attributes:
    results: one dict for each disturbance.
    faults: what was not as it should be, in words.
  """

  def __init__(self, whole: Run, run: Run, startup: float,
               draw: random.Random) -> None:
    """Takes both runs.

    Args:
      whole: the undisturbed one, at its end.
      run: the one to disturb.
      startup: seconds until the first step of a start.
      draw: of the moments.
    """
    self.results: list[dict[str, Any]] = []
    self.faults: list[str] = []
    self._run, self._draw, self._startup = run, draw, startup
    self._whole = {row["step"]: row for row in whole.rows()}
    self._resumed = 0

  def fault(self, kind: str, text: str) -> None:
    self.faults.append(f"start {self._run.starts} ({kind}): {text}")
    print(f"FAULT {self.faults[-1]}", file=sys.stderr, flush=True)

  def disturb(self, kind: str) -> None:
    """Starts the command, ends it as `kind` says, looks at what is left."""
    run = self._run
    self._resumed = max(run.checkpoints(), default=0)
    attempt = run.start()
    found: dict[str, Any] = {"kind": kind, "resumed": self._resumed}
    try:
      if kind.startswith("term"):
        found |= self._terminate(attempt, kind)
      elif kind.startswith("full"):
        found |= self._fill(attempt, kind)
      else:
        found |= self._kill(attempt, kind)
    finally:
      attempt.close()
    self._look(attempt, found)

  def _wait(self, attempt: Attempt, *, saving: bool) -> None:
    """Until a random step after the resumed one, or the save of one."""
    every = SAVE_EVERY.value
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

  def _terminate(self, attempt: Attempt, kind: str) -> dict[str, Any]:
    run, draw = self._run, self._draw
    self._wait(attempt, saving=False)
    attempt.running(draw.uniform(0, 0.1))
    if kind == "term":
      attempt.signal_launcher(signal.SIGTERM)
    else:
      attempt.signal_one(signal.SIGTERM, draw)
    began = time.monotonic()
    status = attempt.end(_GRACE)
    if status != 0:
      self.fault(kind, f"status {status} after SIGTERM (None: not ended in"
                 f" {_GRACE:.0f} s):\n{attempt.text()[-2000:]}")
    if max(run.checkpoints(), default=0) != run.logged():
      self.fault(kind, f"saved {run.checkpoints()} at step {run.logged()}")
    if "the same command resumes" not in attempt.text():
      self.fault(kind, "it did not say that it had saved")
    return {"ended_s": time.monotonic() - began}

  def _fill(self, attempt: Attempt, kind: str) -> dict[str, Any]:
    run = self._run
    self._wait(attempt, saving=kind == "full-save")
    filler = run.workdir.parent / "filler"
    fill(filler, 0.25 * _MB if kind == "full-log" else 0)
    began = time.monotonic()
    status = attempt.end()
    unfinished = run.unfinished()
    filler.unlink()
    # By the process that met it or one that heard of it: the first to end is
    # the end of all.
    said = re.findall(r"^(?:\[\d+\] )?error: .*could not write.*",
                      attempt.text(), re.M)
    once = len({line.partition("error")[0] for line in said}) == len(said)
    if status != 1 or not said or not once or "Traceback" in attempt.text():
      self.fault(kind, f"status {status}:\n{attempt.text()[-3000:]}")
    return {"ended_s": time.monotonic() - began, "unfinished": unfinished,
            "said": said}

  def _look(self, attempt: Attempt, found: dict[str, Any]) -> None:
    kind, run, text = found["kind"], self._run, attempt.text()
    said = re.search(r"resuming \S+ after step (\d+)", text)
    said = int(said[1]) if said else None
    if said != (self._resumed or None) and (said is not None
                                            or attempt.training()):
      self.fault(kind, f"resumed after {said}, the newest was {self._resumed}")
    logged, steps, every = run.logged(), run.checkpoints(), SAVE_EVERY.value
    newest = max(steps, default=0)
    # A save begins after its step is logged and when the one before is whole:
    # it may be lost, and nothing before it.
    due = max(self._resumed, ((logged - 1) // every - 1) * every)
    if newest < due:
      self.fault(kind, f"newest checkpoint {newest} at {logged}, not {due}")
    self._compare(kind, run.rows())
    for step in steps:
      self._restore(kind, step)
    found |= {"step": logged, "newest": newest, "lost": logged - newest,
              "seconds": time.monotonic() - attempt.began}
    self.results.append(found)
    print(f"{len(self.results):3d} {kind:9s} resumed after {said or 0:4d},"
          f" ended at {logged:4d} with {steps}, unfinished"
          f" {found.get('unfinished', [])}, process {found.get('process')}",
          file=sys.stderr, flush=True)

  def _compare(self, kind: str, rows: Sequence[dict[str, Any]]) -> None:
    if [row["step"] for row in rows] != list(range(1, len(rows) + 1)):
      self.fault(kind, f"the log has steps {[row['step'] for row in rows]}")
    for row in rows:
      expected = self._whole[row["step"]]
      names = [n for n in {**expected, **row} if row.get(n) != expected.get(n)]
      if names:
        self.fault(kind, f"step {row['step']} differs in {sorted(names)}")
        return

  def _restore(self, kind: str, step: int) -> None:
    try:
      arrays, _ = restored(self._run, step)
    except ValueError as error:
      self.fault(kind, f"checkpoint {step} is not whole: {error}")
      return
    if int(arrays.step) != step:
      self.fault(kind, f"checkpoint {step} holds step {int(arrays.step)}")

  def finish(self, whole: Run) -> None:
    """Runs to the end and compares everything."""
    self._resumed = max(self._run.checkpoints(), default=0)
    attempt = self._run.start()
    status = attempt.end()
    attempt.close()
    if status != 0:
      self.fault("end", f"status {status}:\n{attempt.text()[-2000:]}")
    self._look(attempt, {"kind": "end", "resumed": self._resumed})
    if self._run.logged() != STEPS.value:
      self.fault("end", f"the log ends at {self._run.logged()}")
    same(self, "end", whole, self._run)


def same(chaos: Chaos, kind: str, whole: Run, run: Run) -> None:
  """The last checkpoints of two runs, bit for bit."""
  a, b = (trees.flatten(restored(r, STEPS.value)[0]) for r in (whole, run))
  different = [name for name, leaf in a.items()
               if np.asarray(leaf).tobytes() != np.asarray(b[name]).tobytes()]
  if different:
    chaos.fault(kind, f"the last states differ in {different}")


def restored(run: Run, step: int) -> tuple[Any, dict[str, Any]]:
  """The train state and host state of a checkpoint, read beside the run."""
  model = build(presets.get(_PRESET))
  tx = optimizer.make_optimizer(PretrainConfig().optimizer)
  like = jax.eval_shape(lambda: state_lib.create(
      model.init(jax.random.key(0)), model.init_router_bias(), tx))
  manager = Manager(run.workdir / "checkpoints", read_only=True)
  try:
    check(step in manager.steps(), f"it is not among {manager.steps()}")
    return manager.restore(step, like=like)
  finally:
    manager.close()


def fill(path: pathlib.Path, left: float) -> None:
  """Makes a file that leaves only so many bytes of its disk."""
  with path.open("wb") as file:
    while True:
      disk = os.statvfs(path)
      room = disk.f_bavail * disk.f_frsize - int(left)
      if room < disk.f_frsize:
        return
      with contextlib.suppress(OSError):  # The run has taken some of it.
        os.posix_fallocate(file.fileno(), os.fstat(file.fileno()).st_size,
                           room)


@contextlib.contextmanager
def small_disk(folder: pathlib.Path, megabytes: int
               ) -> Iterator[pathlib.Path | None]:
  """A file system of this size; None where none may be mounted."""
  disk = folder / "disk"
  disk.mkdir()
  mounted = subprocess.run(
      ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "none", disk],
      capture_output=True, check=False)
  if mounted.returncode:
    yield None
    return
  try:
    yield disk
  finally:
    subprocess.run(["umount", disk], check=False)


def rows(results: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
  """The results by kind."""
  by_kind = collections.defaultdict(list)
  for result in results:
    by_kind[result["kind"]].append(result)
  return [{
      "kind": kind, "times": len(found),
      "left_unfinished": sum(bool(r.get("unfinished")) for r in found),
      "most_lost": max(r["lost"] for r in found),
      "most_ended_s": max(r.get("ended_s", 0.0) for r in found),
      "mean_s": sum(r["seconds"] for r in found) / len(found)}
          for kind, found in sorted(by_kind.items())]


def measure(folder: pathlib.Path) -> tuple[dict[str, Any], list[str]]:
  """All of it: what was found, and the faults."""
  draw = random.Random(SEED.value)

  def run(name: str, workdir: pathlib.Path) -> Run:
    return Run(folder / f"{name}_logs", workdir, arguments(), PROCESSES.value,
               DEVICES.value)

  whole = run("whole", folder / "whole")
  attempt = whole.start()
  attempt.until(lambda: whole.logged() > 0)
  startup = time.monotonic() - attempt.began
  check(attempt.end() == 0, f"the undisturbed run failed:\n{attempt.text()}")
  steps_s = time.monotonic() - attempt.began - startup
  print(f"undisturbed: first step after {startup:.1f} s, then"
        f" {1000 * steps_s / STEPS.value:.0f} ms a step", file=sys.stderr)

  chaos = Chaos(whole, run("run", folder / "run"), startup, draw)
  for kind in kinds(draw):
    chaos.disturb(kind)
  chaos.finish(whole)
  results, faults, note = chaos.results, chaos.faults, ""
  with small_disk(folder, 96) as disk:
    if FULL.value and disk is None:
      note = "no file system may be mounted here: no disk was filled"
    elif FULL.value:
      chaos = Chaos(whole, run("full", disk / "run"), startup, draw)
      for i in range(FULL.value):
        chaos.disturb(("full-save", "full", "full-log")[i % 3])
      chaos.finish(whole)
      results, faults = results + chaos.results, faults + chaos.faults
  return {
      "processes": PROCESSES.value, "devices": DEVICES.value,
      "steps": STEPS.value, "save_every": SAVE_EVERY.value,
      "seed": SEED.value, "startup_s": startup,
      "step_s": steps_s / STEPS.value, "kinds": rows(results), "note": note,
      "load_average": os.getloadavg()[0], "faults": len(faults),
      "results": results}, faults


def main() -> None:
  jax.config.update("jax_platforms", "cpu")
  # Ends as Ctrl-C does, which unmounts and kills what is left.
  signal.signal(signal.SIGTERM, signal.default_int_handler)
  folder = pathlib.Path(FOLDER.value or tempfile.mkdtemp(prefix="chaos."))
  check(not folder.exists() or not any(folder.iterdir()),
        f"--folder={folder} is not empty; choose another")
  folder.mkdir(parents=True, exist_ok=True)
  found, faults = measure(folder)
  if JSON.value:
    print(json.dumps(found), flush=True)
  else:
    header = list(found["kinds"][0])
    print(tables.render(header, [
        [f"{v:.1f}" if isinstance(v, float) else str(v) for v in row.values()]
        for row in found["kinds"]]), flush=True)
    print(found["note"] or "the disk was filled, too", flush=True)
  if faults:
    raise SystemExit(f"{len(faults)} faults; see {folder}:\n"
                     + "\n".join(faults))
  if not FOLDER.value:
    shutil.rmtree(folder)
  print(f"{len(found['results'])} starts, no difference", file=sys.stderr)


if __name__ == "__main__":
  start.run(main)
