"""Whether a run survives whatever ends it, bit for bit.

  python -m experiments.benchmarks.chaos --kills=20 --json
  python -m experiments.benchmarks.chaos --kills=0 --terms=0 --full=0 \\
      --inside=14 --last=6

A small model is pre-trained under launch/local.sh, once undisturbed. Then the
same command is started in another folder, ended in some way, and started again,
until nothing is left to try; the last start goes on to the end.

  step     SIGKILL to a random process at a random moment of training
  save     the same, while a checkpoint is being written
  start    the same, while the processes start, restore and clean up
  term     SIGTERM to all of them (a preemption): ends by itself in 30 s with
           status 75, saved at the step that it was at
  term-1   SIGTERM to one of them: the same
  full     the disk (a small tmpfs) fills at a random moment of training: one
           clear error, status 1; goes on when there is space again
  full-log   the same, but the log still has room and a checkpoint has not
  full-save  the disk fills while a checkpoint is being written

The same is done to GRPO from the embedded base, whose steps have many updates
and an evaluation, in one process and in several:

  inside   SIGTERM to all at a random moment of a step: as `term`, and saved
           inside the step where its end is far
  inside-1   SIGTERM to one of them: the same
  last     SIGTERM to all while the last checkpoint is being written: complete,
           status 0 or 75
  last-1   SIGTERM to one of them: the same

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
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from typing import Any

import jax
from absl import flags

from r1jax.core.config import check
from r1jax.report import tables

from .. import start
from .chaos_run import Chaos
from .disturbed import Run, Work
from .output import JSON

KILLS = flags.DEFINE_integer("kills", 20, "SIGKILLs.", lower_bound=0)
TERMS = flags.DEFINE_integer(
    "terms", 4, "SIGTERMs, half of them to one process.", lower_bound=0)
INSIDE = flags.DEFINE_integer(
    "inside", 14, "SIGTERMs inside a step of GRPO, half of them with one"
    " process in all (see --alone).", lower_bound=0)
LAST = flags.DEFINE_integer(
    "last", 6, "SIGTERMs inside the last save of GRPO, likewise.",
    lower_bound=0)
ALONE = flags.DEFINE_bool(
    "alone", True, "Half of the SIGTERMs to GRPO with one process.")
FULL = flags.DEFINE_integer(
    "full", 3, "How often the disk fills.", lower_bound=0)
PROCESSES = flags.DEFINE_integer("processes", 2, "Processes.", lower_bound=1)
DEVICES = flags.DEFINE_integer(
    "devices", 2, "Devices of each process.", lower_bound=1)
STEPS = flags.DEFINE_integer(
    "steps", 500, "Steps of pre-training.", lower_bound=1)
SAVE_EVERY = flags.DEFINE_integer(
    "save_every", 8, "Steps between its checkpoints.", lower_bound=2)
SEED = flags.DEFINE_integer("seed", 0, "Of the moments and of the processes.")
FOLDER = flags.DEFINE_string(
    "folder", "", "Keep the runs and what they print here; default: a temporary"
    " folder, kept if something differs.")

_QUIET = "--distributed.heartbeat_timeout=20"
_UPDATES = 4  # of a step of GRPO


def pretraining() -> Work:
  """Tens of milliseconds a step, a checkpoint of 6 MB."""
  return Work([
      "-m", "experiments.pretrain", "--init=random:base-arith", "--rows=4",
      "--row_length=192", f"--save_every={SAVE_EVERY.value}",
      "--optimizer.warmup_steps=20", _QUIET], STEPS.value, SAVE_EVERY.value)


def reasoning(times: int) -> Work:
  """GRPO with an evaluation of two batches after every step.

  Args:
    times: how often it is interrupted, at most three steps after a start.
  """
  return Work([
      "-m", "experiments.train_grpo", "--init=base", "--data=arith",
      "--questions=8", "--samples=4", f"--minibatches={_UPDATES}",
      "--row_length=128", "--micro_rows=4", "--max_new_tokens=24",
      "--eval_every=1", "--eval_split=validation[:8]", "--eval.samples=2",
      "--eval.max_new_tokens=24", "--save_every=2", _QUIET],
              3 * times + 2, 2, first=0, updates=_UPDATES)


def kinds(draw: random.Random) -> list[str]:
  """What is done in turn: kills of all sorts, the rest in between."""
  disturbances = [("save", "step", "save", "step", "start")[i % 5]
                  for i in range(KILLS.value)]
  disturbances += [("term", "term-1")[i % 2] for i in range(TERMS.value)]
  draw.shuffle(disturbances)
  return disturbances


def interruptions(draw: random.Random, processes: int) -> list[str]:
  """What is done to GRPO in so many processes: half of all, if also alone."""
  names = []
  for name, count in (("inside", INSIDE.value), ("last", LAST.value)):
    alone = count // 2 if ALONE.value else 0
    count = alone if processes == 1 else count - alone
    names += [name if processes == 1 or i % 2 else f"{name}-1"
              for i in range(count)]
  draw.shuffle(names)
  return names


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
      "kind": kind, "times": len(group),
      "left_unfinished": sum(bool(r.get("unfinished")) for r in group),
      "most_lost": max(r["lost"] for r in group),
      "most_ended_s": max(r.get("ended_s", 0.0) for r in group),
      "mean_s": sum(r["seconds"] for r in group) / len(group)}
          for kind, group in sorted(by_kind.items())]


def undisturbed(run: Run) -> tuple[float, float]:
  """Runs to the end; seconds until the first step, and of a step."""
  attempt = run.start()
  attempt.until(lambda: run.logged() > 0)
  startup = time.monotonic() - attempt.began
  check(attempt.end() == 0, f"the undisturbed run failed:\n{attempt.text()}")
  step_s = (time.monotonic() - attempt.began - startup) / run.work.steps
  print(f"undisturbed: first step after {startup:.1f} s, then"
        f" {1000 * step_s:.0f} ms a step", file=sys.stderr)
  return startup, step_s


def measure(folder: pathlib.Path) -> tuple[dict[str, Any], list[str]]:
  """All of it: what was found, and the faults."""
  draw, pace = random.Random(SEED.value), {}
  note = "" if FULL.value else "no disk was filled"
  results: list[dict[str, Any]] = []
  faults: list[str] = []

  def disturbed(name: str, whole: Run, workdir: pathlib.Path,
                what: Sequence[str], processes: int) -> None:
    chaos = Chaos(whole, Run(folder / f"{name}_logs", workdir, whole.work,
                             processes, DEVICES.value), pace[whole], draw)
    for kind in what:
      chaos.disturb(kind)
    chaos.finish(whole)
    results.extend(chaos.results)
    faults.extend(chaos.faults)

  def complete(name: str, work: Work, processes: int) -> Run:
    whole = Run(folder / f"{name}_logs", folder / name, work, processes,
                DEVICES.value)
    pace[whole] = undisturbed(whole)
    return whole

  if KILLS.value + TERMS.value + FULL.value:
    count = PROCESSES.value
    whole = complete("whole", pretraining(), count)
    disturbed("run", whole, folder / "run", kinds(draw), count)
    with small_disk(folder, 96) as disk:
      if FULL.value and disk is None:
        note = "no file system may be mounted here: no disk was filled"
      elif FULL.value:
        disturbed("full", whole, disk / "run", [
            ("full-save", "full", "full-log")[i % 3]
            for i in range(FULL.value)], count)
  for count in sorted({1, PROCESSES.value}):
    what = interruptions(draw, count)
    if what:
      whole = complete(f"whole_{count}", reasoning(len(what)), count)
      disturbed(f"inside_{count}", whole, folder / f"inside_{count}", what,
                count)
  return {
      "processes": PROCESSES.value, "devices": DEVICES.value,
      "steps": STEPS.value, "save_every": SAVE_EVERY.value,
      "seed": SEED.value,
      "paces": {run.workdir.name: seconds for run, seconds in pace.items()},
      "kinds": rows(results), "note": note,
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
  summary, faults = measure(folder)
  if JSON.value:
    print(json.dumps(summary), flush=True)
  else:
    header = list(summary["kinds"][0])
    print(tables.render(header, [
        [f"{v:.1f}" if isinstance(v, float) else str(v) for v in row.values()]
        for row in summary["kinds"]]), flush=True)
    print(summary["note"] or "the disk was filled, too", flush=True)
  if faults:
    raise SystemExit(f"{len(faults)} faults; see {folder}:\n"
                     + "\n".join(faults))
  if not FOLDER.value:
    shutil.rmtree(folder)
  print(f"{len(summary['results'])} starts, no difference", file=sys.stderr)


if __name__ == "__main__":
  start.run(main)
