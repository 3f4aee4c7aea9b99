"""Interrupts runs in many ways and compares them with undisturbed ones.

  python -m experiments.benchmarks.chaos --kills=20 --json
  python -m experiments.benchmarks.chaos --kills=0 --terms=0 --full=0 \\
      --inside=14 --last=6

A small model is pre-trained under launch/local.sh, once undisturbed. Then the
same command is started in another folder, interrupted, and started again, once
for each interruption; the last start runs to the end.

  step     SIGKILL to a random process at a random moment of training
  save     the same, while a checkpoint is being written
  start    the same, while the processes start, restore and clean up
  term     SIGTERM to all processes (a preemption): the run must end by itself
           within 30 s with status 75, and have saved its current step
  term-1   SIGTERM to one process: the same
  full     the disk (a small tmpfs) fills at a random moment of training: the
           run must end with one clear error and status 1, and resume when there
           is space again
  full-log   the same, with room left for the log but not for a checkpoint
  full-save  the disk fills while a checkpoint is being written

GRPO from the embedded base, whose steps have many updates and an evaluation, is
interrupted in one process and in several:

  inside   SIGTERM to all processes at a random moment of a step: as `term`, but
           saved in the middle of the step if its end is far
  inside-1   SIGTERM to one process: the same
  last     SIGTERM to all processes while the last checkpoint is being written:
           it must be complete, with status 0 or 75
  last-1   SIGTERM to one process: the same

Checked after each interruption: every folder with the name of a complete
checkpoint can be restored; at most the save that was under way is lost; the
next start resumes from the newest checkpoint; every line of the log, and at the
end every array of the checkpoint, equals the undisturbed run's exactly. Exit
status 1 if a check fails.
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

KILLS = flags.DEFINE_integer(
    "kills", 20, "Number of SIGKILLs during pre-training.", lower_bound=0)
TERMS = flags.DEFINE_integer(
    "terms", 4, "Number of SIGTERMs during pre-training, half of them to one"
    " process only.", lower_bound=0)
INSIDE = flags.DEFINE_integer(
    "inside", 14, "Number of SIGTERMs during a step of GRPO, half of them to"
    " runs of a single process (see --alone).", lower_bound=0)
LAST = flags.DEFINE_integer(
    "last", 6, "Number of SIGTERMs during the last save of GRPO, half of them"
    " to runs of a single process (see --alone).", lower_bound=0)
ALONE = flags.DEFINE_bool(
    "alone", True, "Half of GRPO's SIGTERMs go to runs of a single process;"
    " otherwise all go to runs of --processes.")
FULL = flags.DEFINE_integer(
    "full", 3, "How often the disk fills during pre-training.", lower_bound=0)
PROCESSES = flags.DEFINE_integer(
    "processes", 2, "Processes of a run.", lower_bound=1)
DEVICES = flags.DEFINE_integer(
    "devices", 2, "Simulated devices of each process.", lower_bound=1)
STEPS = flags.DEFINE_integer(
    "steps", 500, "Steps of pre-training.", lower_bound=1)
SAVE_EVERY = flags.DEFINE_integer(
    "save_every", 8, "Steps of pre-training between checkpoints.",
    lower_bound=2)
SEED = flags.DEFINE_integer(
    "seed", 0, "Seed of the random moments and the choice of processes.")
FOLDER = flags.DEFINE_string(
    "folder", "", "Keep the runs and their output here; default: a temporary"
    " folder, kept if something differs.")

_QUIET = "--distributed.heartbeat_timeout=20"
_UPDATES = 4  # updates of one step of GRPO


def pretraining() -> Work:
  """A run with steps of tens of milliseconds and checkpoints of 6 MB."""
  return Work([
      "-m", "experiments.pretrain", "--init=random:base-arith", "--rows=4",
      "--row_length=192", f"--save_every={SAVE_EVERY.value}",
      "--optimizer.warmup_steps=20", _QUIET], STEPS.value, SAVE_EVERY.value)


def reasoning(times: int) -> Work:
  """GRPO with an evaluation of two batches after every step.

  Args:
    times: number of interruptions, each at most three steps after a start.
  """
  return Work([
      "-m", "experiments.train_grpo", "--init=base", "--data=arith",
      "--questions=8", "--samples=4", f"--minibatches={_UPDATES}",
      "--row_length=128", "--micro_rows=4", "--max_new_tokens=24",
      "--eval_every=1", "--eval_split=validation[:8]", "--eval.samples=2",
      "--eval.max_new_tokens=24", "--save_every=2", _QUIET],
              3 * times + 2, 2, first=0, updates=_UPDATES)


def kinds(draw: random.Random) -> list[str]:
  """The SIGKILLs and SIGTERMs of pre-training by kind, shuffled."""
  disturbances = [("save", "step", "save", "step", "start")[i % 5]
                  for i in range(KILLS.value)]
  disturbances += [("term", "term-1")[i % 2] for i in range(TERMS.value)]
  draw.shuffle(disturbances)
  return disturbances


def interruptions(draw: random.Random, processes: int) -> list[str]:
  """The SIGTERMs to GRPO with `processes` processes, by kind, shuffled."""
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
  """A file system of this size; None if mounting is not permitted."""
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
  """One table row for each kind of interruption."""
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
  """Runs to the end; returns seconds to the first step and per step."""
  attempt = run.start()
  attempt.until(lambda: run.logged() > 0)
  startup = time.monotonic() - attempt.began
  check(attempt.end() == 0, f"the undisturbed run failed:\n{attempt.text()}")
  step_s = (time.monotonic() - attempt.began - startup) / run.work.steps
  print(f"undisturbed: first step after {startup:.1f} s, then"
        f" {1000 * step_s:.0f} ms a step", file=sys.stderr)
  return startup, step_s


def measure(folder: pathlib.Path) -> tuple[dict[str, Any], list[str]]:
  """Runs everything; returns the results, JSON-ready, and the faults."""
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
        note = "mounting a file system is not permitted: no disk was filled"
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
  # Handled like Ctrl-C, so that the disk is unmounted and children are killed.
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
