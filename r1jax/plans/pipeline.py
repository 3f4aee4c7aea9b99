"""Runs a plan: one process per stage; finished stages are not run again.

Every stage is an experiment that resumes by itself, so the pipeline stores
little: WORKDIR/STAGE/done.json for a finished stage, and
WORKDIR/begun/STAGE.json for a started one. Both have the stage's flags and a
fingerprint of what it read. If these differ from the present plan, nothing
runs, and the error names the stages concerned.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from etils import epath

from r1jax.checkpoint import fingerprints
from r1jax.core import config as config_lib
from r1jax.core import io, lock
from r1jax.core.config import check
from r1jax.plans import plan
from r1jax.plans.plan import Plan, Stage
from r1jax.sharding import watchdog

DONE, BEGUN, COST = "done.json", "begun", "cost.json"
# Environment variable with the path of a file that an experiment creates when
# it is complete, see `experiments.start`. The exit status alone is not enough:
# a launcher, such as srun, may have one of its own.
COMPLETE = "R1JAX_COMPLETE"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Pipeline:
  """A plan with the folder that it runs in.

  Attributes:
    plan: the stages.
    workdir: gets a folder for every stage.
    values: values of the placeholders `plan.VALUES`, from `Plan.values`.
    launch: words before every command, such as ("srun",), except before stages
      that run alone.
    experiment: from an experiment's name to its command without flags.
  """

  plan: Plan
  workdir: epath.Path
  values: Mapping[str, str]
  launch: Sequence[str] = ()
  experiment: Callable[[str], Sequence[str]] = lambda name: _module(
      f"experiments.{name}")

  def folder(self, name: str) -> epath.Path:
    """The folder of a stage."""
    return self.workdir / name

  def command(self, stage: Stage) -> list[str]:
    """The command of a stage, as a user could type it."""
    flags = {stage.out: os.fspath(self.folder(stage.name))} | {
        name: self.filled(value) for name, value in stage.flags.items()}
    launch = () if stage.alone else self.launch
    start = _module if "." in stage.run else self.experiment
    return [*launch, *start(stage.run),
            *(f"--{name}={value}" for name, value in flags.items())]

  def filled(self, text: str) -> str:
    """`text` with its placeholders replaced by folders and values."""
    folders = {stage.name: os.fspath(self.folder(stage.name))
               for stage in self.plan.stages}
    return plan.fill(text, folders | self.values)

  def record(self, name: str) -> dict[str, Any] | None:
    """What was stored when a stage began or ended; None without its folder."""
    folder = self.folder(name)
    for path in (folder / DONE, self.workdir / BEGUN / f"{name}.json"):
      if folder.exists() and path.exists():
        return io.read_json(path)
    return None

  def done(self, name: str) -> bool:
    """Whether a stage is finished."""
    return (self.folder(name) / DONE).exists()

  def today(self, stage: Stage) -> dict[str, Any]:
    """What the plan says of a stage now, to compare with `record`.

    Folders stay placeholders, so that a moved pipeline counts as unchanged.
    """
    kept = {"plan": "{plan}"}
    flags = {name: plan.fill(value, self.values | kept)
             for name, value in stage.flags.items()}
    reads = {read: fingerprints.of(self.filled(read))
             for value in flags.values()
             for read in fingerprints.named(value, self.filled)}
    return {"run": stage.run, "out": stage.out, "flags": flags, "reads": reads}

  def costs(self) -> dict[str, dict[str, float]]:
    """Every finished stage's `seconds`, `chip_hours`, `tokens` and `flops`.

    They come from the stage's cost.json; without one it counts as one chip.
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
    """The stages from `first` to `last`.

    Raises:
      ValueError: one of them is not a stage, `last` is before `first`, or a
        stage before `first` is not done.
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
    """Checks that stages begun or done before agree with the present plan.

    Raises:
      ValueError: a setting, a file or a folder that a stage read has changed;
        the message names the stages, those that depend on them, and what to do.
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
    check(not lines, f"the stages in {self.workdir} were not made by the"
          " present plan (theirs -> yours):\n" + "\n".join(lines) + "\nThis"
          f" concerns {', '.join(concerned)}. Nothing was changed. Restore the"
          " old settings or files, choose another --workdir, or remove these"
          f" stages to run them again:\n  rm -r {folders}")

  def run(self, stages: Sequence[Stage]) -> bool:
    """Runs the stages that are not done, one after the other.

    SIGINT and SIGTERM are forwarded to the running stage, which saves; then the
    pipeline stops.

    Returns:
      Whether all are done; False after a signal.

    Raises:
      ValueError: as `check_unchanged`.
      ChildProcessError: a stage failed; its output was printed before.
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
    """Runs one stage; returns whether it is done now."""
    # Outside the stage's folder, which some stages require to be empty.
    begun = self.workdir / BEGUN / f"{stage.name}.json"
    mark = self.workdir / BEGUN / f"{stage.name}.complete"
    former = self.record(stage.name)
    if former and mark.exists():  # it finished after its pipeline was killed
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
          f"stage {stage.name} {how}; see its output above. Its command:\n"
          f"  {shown(command)}\nFinished stages are kept; fix the cause and run"
          " the same command again")
    return complete


  def _finish(self, stage: Stage, record: dict[str, Any], mark: epath.Path
              ) -> None:
    """Writes done.json, with the longer of our and the stage's own seconds."""
    folder = self.folder(stage.name)
    cost = io.read_json(folder / COST) if (folder / COST).exists() else None
    seconds = max(record["seconds"], cost["seconds"] if cost else 0.0)
    io.write_json(folder / DONE, record | {"seconds": seconds, "cost": cost})
    mark.unlink()


@contextlib.contextmanager
def _alone(workdir: epath.Path) -> Iterator[tuple[int, ...]]:
  """Locks a folder, waiting until it is free; yields files that hold the lock.

  The stage's process inherits them: if its pipeline is killed, the stage may
  run on for a while and still holds the lock. On gs:// there are no locks.
  """
  if io.is_remote(workdir):
    yield ()
    return
  path = workdir / lock.FILE
  try:
    workdir.mkdir(parents=True, exist_ok=True)
    file = open(path, "a")  # noqa: SIM115 - closed below
  except OSError as error:
    raise io.unwritten(path, error) from error
  with file:
    try:
      fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
      who = lock.named(lock.owner(path))
      print(f"{workdir} is in use by {who} or, if that was killed, by its"
            " stage, which runs on; waiting for its end (Ctrl-C quits)",
            flush=True)
      fcntl.flock(file, fcntl.LOCK_EX)
    with contextlib.suppress(OSError):  # disk full: locked without a name
      file.truncate(0)
      os.write(file.fileno(), json.dumps(lock.us()).encode())
    yield (file.fileno(),)


def _module(name: str) -> list[str]:
  return [sys.executable, "-m", name]


def shown(command: Sequence[str]) -> str:
  """A command quoted for copying into a shell."""
  return shlex.join("python" if word == sys.executable else word
                    for word in command)


class _Child:
  """The process of a stage, to which SIGINT and SIGTERM are forwarded once.

  It has its own process group: otherwise it would get Ctrl-C both from the
  terminal and from us, and a second Ctrl-C means "quit without saving".

  Attributes:
    stopped: name of the first signal, or "".
  """

  SIGNALS = (signal.SIGINT, signal.SIGTERM)

  def __init__(self, inherited: Sequence[int]) -> None:
    """Starts nothing yet.

    Args:
      inherited: file descriptors that the process inherits.
    """
    self.stopped = ""
    self._inherited = inherited
    self._process: subprocess.Popen | None = None
    self._waiting: list[int] = []  # signals not forwarded yet

  def __enter__(self) -> _Child:
    self._former = {number: signal.signal(number, self._catch)
                    for number in self.SIGNALS}
    return self

  def __exit__(self, *exception: object) -> None:
    for number, former in self._former.items():
      signal.signal(number, former)

  def run(self, command: Sequence[str], environ: Mapping[str, str]) -> int:
    """Runs the command; returns its status, minus the number for a signal."""
    process = subprocess.Popen(
        command, env=dict(environ), process_group=0, stdin=subprocess.DEVNULL,
        pass_fds=self._inherited)
    self._process = process
    self._forward()  # signals that came while it was being started
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
  """Lines on how a stage's stored record differs from the present plan."""
  settings = "run", "out", "flags"
  lines = config_lib.difference(
      {key: record[key] for key in settings},
      {key: today[key] for key in settings})
  for read, now in today["reads"].items():
    before = record["reads"].get(read, now)  # absent: a flag differs, see above
    if before != now:
      lines.append(f"{read}, which it read, "
                   + ("is gone" if now is None else "has changed since"))
  return lines
