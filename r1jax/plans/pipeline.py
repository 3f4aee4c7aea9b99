"""Running a plan: one process a stage, what is done stays done.

Every stage is an experiment that resumes by itself, so the pipeline keeps
little: in WORKDIR/STAGE/done.json how a finished stage was made, in
WORKDIR/begun/STAGE.json the same of one that is not finished. Both hold its
flags and a fingerprint of what it read. Where they differ from the plan of
today, nothing runs, and the stages concerned are named.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from etils import epath

from r1jax.core import config as config_lib
from r1jax.core import io
from r1jax.core.config import check
from r1jax.plans import fingerprints, plan
from r1jax.plans.plan import Plan, Stage
from r1jax.sharding import watchdog

DONE, BEGUN, COST = "done.json", "begun", "cost.json"
# Where an experiment leaves a mark if it has come to its end; see
# `experiments.start`. A status alone does not tell, as what starts a stage's
# processes may have one of its own.
COMPLETE = "R1JAX_COMPLETE"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Pipeline:
  """A plan in a folder.

  Attributes:
    plan: what is to be done.
    workdir: gets a folder for every stage.
    values: what stands for `plan.VALUES`, from `Plan.values`.
    launch: words before every command, such as ("srun",), but not before
      those that run alone.
    experiment: the command of an experiment by its name, without flags.
  """

  plan: Plan
  workdir: epath.Path
  values: Mapping[str, str]
  launch: Sequence[str] = ()
  experiment: Callable[[str], Sequence[str]] = lambda name: _module(
      f"experiments.{name}")

  def folder(self, name: str) -> epath.Path:
    """Of a stage."""
    return self.workdir / name

  def command(self, stage: Stage) -> list[str]:
    """What runs a stage, as a user may type it."""
    flags = {stage.out: os.fspath(self.folder(stage.name))} | {
        name: self.filled(value) for name, value in stage.flags.items()}
    launch = () if stage.alone else self.launch
    start = _module if "." in stage.run else self.experiment
    return [*launch, *start(stage.run),
            *(f"--{name}={value}" for name, value in flags.items())]

  def filled(self, text: str) -> str:
    """`text` with folders and values in place of names in braces."""
    folders = {stage.name: os.fspath(self.folder(stage.name))
               for stage in self.plan.stages}
    return plan.fill(text, folders | self.values)

  def record(self, name: str) -> dict[str, Any] | None:
    """How a stage was begun or done; None if its folder is not there."""
    folder = self.folder(name)
    for path in (folder / DONE, self.workdir / BEGUN / f"{name}.json"):
      if folder.exists() and path.exists():
        return io.read_json(path)
    return None

  def done(self, name: str) -> bool:
    """Whether a stage is finished."""
    return (self.folder(name) / DONE).exists()

  def today(self, stage: Stage) -> dict[str, Any]:
    """How the plan makes a stage now.

    Folders keep their names in braces: where they lie makes no difference.
    """
    kept = {"plan": "{plan}"}
    flags = {name: plan.fill(value, self.values | kept)
             for name, value in stage.flags.items()}
    reads = {read: fingerprints.of(self.filled(read))
             for value in flags.values()
             for read in fingerprints.named(value, self.filled)}
    return {"run": stage.run, "out": stage.out, "flags": flags, "reads": reads}

  def costs(self) -> dict[str, dict[str, float]]:
    """What every finished stage took: `seconds`, and of its record of costs
    `chip_hours`, `tokens` and `flops`; without one it held one chip.
    """
    found = {}
    for stage in self.plan.stages:
      if self.done(stage.name):
        record = io.read_json(self.folder(stage.name) / DONE)
        kept = record["cost"] or {"chip_hours": record["seconds"] / 3600}
        found[stage.name] = {"seconds": record["seconds"]} | {
            name: kept.get(name, 0.0)
            for name in ("chip_hours", "tokens", "flops")}
    return found

  def chosen(self, first: str = "", last: str = "") -> tuple[Stage, ...]:
    """The stages from `first` to `last`; those before must be done.

    Raises:
      ValueError: one of them is no stage, `last` is before `first`, or a stage
        before `first` is not done.
    """
    stages = self.plan.stages
    begin = stages.index(self.plan.stage(first, "from")) if first else 0
    end = stages.index(self.plan.stage(last, "until")) if last else (
        len(stages) - 1)
    check(begin <= end, f"--from={first} comes after --until={last}")
    missing = [s.name for s in stages[:begin] if not self.done(s.name)]
    check(not missing, f"--from={first}: {', '.join(missing)} before it"
          f" {'is' if len(missing) == 1 else 'are'} not done in {self.workdir};"
          " leave --from out")
    return stages[begin:end + 1]

  def check_unchanged(self, stages: Iterable[Stage]) -> None:
    """Makes sure that what is there was made as the plan says now.

    Raises:
      ValueError: a setting, a file or a folder that a stage read has changed;
        names the stages, what depends on them, and what to do.
    """
    lines, changed = [], []
    for stage in stages:
      if (record := self.record(stage.name)) is None:
        continue
      differences = _differences(record, self.today(stage))
      lines += [f"  {stage.name}: {line}" for line in differences]
      changed += [stage.name] if differences else []
    concerned = [name for name in self.plan.readers(changed)
                 if self.record(name) is not None]
    folders = " ".join(os.fspath(self.folder(name)) for name in concerned)
    check(not lines, f"{self.workdir} was made otherwise than the plan says now"
          " (its -> yours):\n" + "\n".join(lines) + "\nThis concerns"
          f" {', '.join(concerned)}. Nothing was changed. Go back to what it"
          " was made by, choose another --workdir, or let these stages be made"
          f" anew:\n  rm -r {folders}")

  def run(self, stages: Sequence[Stage]) -> bool:
    """Runs those stages that are not done, one after the other.

    SIGINT and SIGTERM go on to the stage at hand, which saves; then it is over.

    Returns:
      Whether all are done; False after a signal.

    Raises:
      ValueError: as `check_unchanged`.
      ChildProcessError: a stage failed; what it said stands above.
    """
    with _alone(self.workdir) as held, _Child(held) as child:
      self.check_unchanged(stages)
      for number, stage in enumerate(stages, 1):
        title = f"[{number}/{len(stages)}] {stage.name}"
        if self.done(stage.name):
          print(f"{title}: done before", flush=True)
        elif child.stopped or not self._run(stage, title, child):
          return False
    return True

  def _run(self, stage: Stage, title: str, child: _Child) -> bool:
    """One stage; whether it is done now."""
    # Beside the folder: a stage may want it empty.
    begun = self.workdir / BEGUN / f"{stage.name}.json"
    mark = self.workdir / BEGUN / f"{stage.name}.complete"
    former = self.record(stage.name)
    if former and mark.exists():  # of a pipeline that was killed before its end
      print(f"{title}: done meanwhile", flush=True)
      self._finish(stage, former, mark)
      return True
    former = former or {"seconds": 0.0, "starts": 0}
    record = self.today(stage) | {
        "seconds": former["seconds"], "starts": former["starts"] + 1}
    mark.unlink(missing_ok=True)
    io.write_json(begun, record)
    command = self.command(stage)
    print(f"{title}\n$ {shown(command)}", flush=True)
    began = time.monotonic()
    status = child.run(command, os.environ | {COMPLETE: os.fspath(mark)})
    record["seconds"] += time.monotonic() - began
    io.write_json(begun, record)
    complete = status == 0 and mark.exists()
    if complete:
      self._finish(stage, record, mark)
    elif (child.stopped or status in (0, watchdog.AGAIN)
          or -status in _Child.SIGNALS):
      name = child.stopped or (
          signal.Signals(-status).name if status < 0 else "a signal to it, or"
          " another process that was lost")
      print(f"{name}: stopped in stage {stage.name}; the same command goes on",
            flush=True)
    else:
      how = (f"ended with status {status}" if status > 0 else
             f"was killed by {signal.Signals(-status).name}")
      raise ChildProcessError(
          f"stage {stage.name} {how}; what it said stands above. Its command:\n"
          f"  {shown(command)}\nWhat is done stays; mend it and give the same"
          " command again")
    return complete


  def _finish(self, stage: Stage, record: dict[str, Any], mark: epath.Path
              ) -> None:
    """Writes that a stage is done; its own record may know of more seconds."""
    folder = self.folder(stage.name)
    cost = io.read_json(folder / COST) if (folder / COST).exists() else None
    seconds = max(record["seconds"], cost["seconds"] if cost else 0.0)
    io.write_json(folder / DONE, record | {"seconds": seconds, "cost": cost})
    mark.unlink()


@contextlib.contextmanager
def _alone(workdir: epath.Path) -> Iterator[tuple[int, ...]]:
  """Waits until nobody else works in a folder, and keeps others out.

  Where a pipeline is killed its stage may go on for a while; it has inherited
  what is yielded, files that hold the lock. On gs:// there are no locks.
  """
  if io.is_remote(workdir):
    yield ()
    return
  workdir.mkdir(parents=True, exist_ok=True)
  with open(workdir / ".lock", "w") as file:
    try:
      fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
      print(f"another command works in {workdir}, or a stage of one that was"
            " killed; waiting for its end (Ctrl-C leaves)", flush=True)
      fcntl.flock(file, fcntl.LOCK_EX)
    yield (file.fileno(),)


def _module(name: str) -> list[str]:
  return [sys.executable, "-m", name]


def shown(command: Sequence[str]) -> str:
  """A command for people to copy."""
  return shlex.join("python" if word == sys.executable else word
                    for word in command)


class _Child:
  """The process of a stage; gets every SIGINT and SIGTERM of ours once.

  It has a process group of its own: else Ctrl-C at a terminal would come to it
  from there and from us, and the second means "at once".

  Attributes:
    stopped: name of the first signal, or "".
  """

  SIGNALS = (signal.SIGINT, signal.SIGTERM)

  def __init__(self, inherited: Sequence[int]) -> None:
    """Starts nothing yet.

    Args:
      inherited: files that the process keeps open.
    """
    self.stopped = ""
    self._inherited = inherited
    self._process: subprocess.Popen | None = None
    self._waiting: list[int] = []  # signals that came and were not passed on

  def __enter__(self) -> _Child:
    self._former = {number: signal.signal(number, self._catch)
                    for number in self.SIGNALS}
    return self

  def __exit__(self, *exception: object) -> None:
    for number, former in self._former.items():
      signal.signal(number, former)

  def run(self, command: Sequence[str], environ: Mapping[str, str]) -> int:
    """Waits for the command; its status, that of a signal negative."""
    process = subprocess.Popen(
        command, env=dict(environ), process_group=0, stdin=subprocess.DEVNULL,
        pass_fds=self._inherited)
    self._process = process
    self._forward()  # what came while it was being started
    try:
      return process.wait()
    finally:
      self._process = None

  def _catch(self, number: int, frame: Any) -> None:
    self.stopped = self.stopped or signal.Signals(number).name
    self._waiting.append(number)
    self._forward()

  def _forward(self) -> None:
    while self._process and self._waiting:
      self._process.send_signal(self._waiting.pop(0))


def _differences(record: Mapping[str, Any], today: Mapping[str, Any]
                 ) -> list[str]:
  """How a stage was made, against how it would be now."""
  settings = "run", "out", "flags"
  lines = config_lib.difference(
      {key: record[key] for key in settings},
      {key: today[key] for key in settings})
  for read, now in today["reads"].items():
    before = record["reads"].get(read, now)  # else a flag says so already
    if before != now:
      lines.append(f"{read}, which it read, "
                   + ("is gone" if now is None else "has changed since"))
  return lines
