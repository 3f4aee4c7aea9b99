"""Files, signals, logging, checkpoints and resuming of every training loop."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any, TypeVar

import jax
from etils import epath

from r1jax.accounting import cost
from r1jax.checkpoint import faults, retention
from r1jax.checkpoint.manager import Manager
from r1jax.checkpoint.midway import Midway
from r1jax.core import io
from r1jax.core.config import check
from r1jax.core.lock import Lock
from r1jax.core.types import TokenBatch
from r1jax.data.text import tokenizer as tokenizer_lib
from r1jax.data.text.tokenizer import Tokenizer
from r1jax.report import sinks
from r1jax.report import workdir as workdir_lib
from r1jax.report.progress import Progress
from r1jax.report.writer import Writer
from r1jax.sharding import processes, watchdog
from r1jax.stages.loop.signals import Preemption
from r1jax.training.guard import Guard

T = TypeVar("T")
# Metrics of a step, or a function that waits for the device and returns them.
Metrics = Mapping[str, float] | Callable[[], Mapping[str, float]]
# A schedule over all steps changes when a run gets longer.
_REMEDIES = {"optimizer.total_steps": "to train longer with the former schedule"
             " and then its last rate, give --optimizer.total_steps={}",
             "optimizer.warmup_steps": "to train longer with the former warm-up"
             " give --optimizer.warmup_steps={}"}
Batch = TokenBatch | Callable[[], TokenBatch] | None


class Session:
  """A run on disk, open while its process or processes run.

      session = Session(workdir, config, title="GRPO", total=cfg.steps, ...)
      state, host = session.restore({"state": state}, {})
      with session:
        for step in range(session.step, cfg.steps):
          ...
          if session.interrupted():  # wherever it is safe to stop
            session.save_inside(step, arrays, host, local, after="the rollout")
            break
          ...
          if session.finish(step + 1, metrics, batch, arrays, host):
            break

  In a used workdir the same config resumes the run; another one is an error.

  With several processes each must make the same calls with the same steps and
  metrics; only the first writes the log and shows progress.

  Attributes:
    workdir: folder of the run.
    step: steps done.
    resumes: whether a saved state was found; with `step` 0 it is inside the
      first step.
    inside: the `local` of `save_inside`, after `restore` has read such a save;
      None if the saved state is between two steps.
    stopped: whether a signal has ended the run.
  """

  def __init__(self, workdir: str | os.PathLike, config: dict[str, Any],
               tokenizer: Tokenizer, *, title: str, total: int,
               save_every: int, keep: int = 2, best_metric: str = "",
               best_mode: str = "max", shown: tuple[str, ...] = (),
               skip_damaged: bool = False,
               remedies: Mapping[str, str] | None = None,
               donated: Collection[str] | None = None):
    """Locks the workdir and finds the state to resume from.

    Args:
      workdir: folder of the run, local or gs://.
      config: all resolved settings. On resuming `steps` and `sinks` may differ,
        and without a `rollout_deadline` also `max_rows` and `speculate`.
      tokenizer: the run's tokenizer, whose files are stored.
      title: title of the progress bar.
      total: number of steps.
      save_every: steps between checkpoints.
      keep: number of newest checkpoints to keep.
      best_metric: also keep the best checkpoint by this metric. A step that
        improves it is saved at once if its metrics are not a function.
      best_mode: "max" or "min".
      shown: metrics in the progress bar.
      skip_damaged: move unusable checkpoints to WORKDIR/checkpoints_damaged and
        resume from an earlier one.
      remedies: hints about settings that differ, see `workdir.resumes`.
      donated: parts of the device state that the next step soon donates, see
        `Manager.save`.

    Raises:
      ValueError: the workdir was made with another config or tokenizer, or the
        processes do not share it.
      OSError: another process uses it, or its checkpoints cannot be read.
    """
    self.workdir = epath.Path(workdir)
    self.title, self.total, self.shown = title, total, shown
    self._skip_damaged, self._donated = skip_damaged, donated
    self._sinks = lambda: sinks.opened(
        config.get("sinks", ()), workdir, config, resumes=self.resumes)

    self._lock: Lock | None = None  # held by process 0 for all processes

    def take() -> None:
      # Without a deadline, samples do not depend on the last two.
      free = config.get("rollout_deadline", "0") == "0"
      self._lock = workdir_lib.take(
          workdir, config, workdir_lib.versions(),
          ignore=("steps", "sinks", *free * ("max_rows", "speculate")),
          remedies=_REMEDIES | dict(remedies or {}))
      tokenizer_lib.keep(tokenizer, workdir)

    self._make_manager = lambda: Manager(
        self.workdir / "checkpoints", keep=keep, save_interval=save_every,
        best_metric=best_metric, best_mode=best_mode)
    with self._giving_back():
      processes.from_writer(take)
      self._open()
    self.guard = Guard(self.workdir / "skipped")
    self.preemption = Preemption(self._lost)
    self.stopped = False
    self.inside: dict[str, Any] | None = None
    # Steps whose metrics are not yet read: (step, metrics, batch).
    self._pending: list[tuple[int, Metrics, Batch]] = []
    # Whether a checkpoint between steps was started after the last save inside
    # a step; once it is complete, that save is removed.
    self._saved = False

  @contextlib.contextmanager
  def _giving_back(self) -> Iterator[None]:
    """Releases the lock if the run cannot start."""
    try:
      yield
    except BaseException:
      self._release()
      raise

  def _release(self) -> None:
    if self._lock:
      self._lock.release()

  def _open(self) -> None:
    """Finds the state to resume from."""
    self.manager = self._usable(self._make_manager)
    self._midway = self._usable(
        lambda: Midway(self.workdir / "checkpoints_inside"))
    between, inside = self.manager.latest_step(), self._midway.step()
    self._goes_inside = inside is not None and inside >= (between or 0)
    self.step = (inside if self._goes_inside else between) or 0
    self.resumes = self._goes_inside or between is not None
    _check_shared(self.workdir, self.step)

  def restore(self, arrays: Any, host: dict[str, Any]
              ) -> tuple[Any, dict[str, Any]]:
    """The newest state on disk, or the arguments if there is none.

    It is the last checkpoint, or a later save inside a step; then `inside` is
    set.

    Args:
      arrays: the initial device state, which also gives the shardings.
      host: the initial host state.

    Raises:
      ValueError: a checkpoint is damaged, or of another model or run.
      OSError: it cannot be read.
    """
    with self._giving_back():
      while self.resumes:
        try:
          return self._restored(arrays)
        except faults.Unusable as error:
          self.manager.close()
          self._midway.close()
          self._set_aside(error)
        self._open()
    return arrays, host

  def _restored(self, arrays: Any) -> tuple[Any, dict[str, Any]]:
    if self._goes_inside:
      arrays, host, self.inside = self._midway.restore(arrays)
    else:
      arrays, host = self.manager.restore(self.step, like=arrays)
    self.guard.skipped = tuple(host["skipped"])
    return arrays, host

  def _usable(self, opened: Callable[[], T]) -> T:
    while True:
      try:
        return opened()
      except faults.Unusable as error:
        self._set_aside(error)

  def _set_aside(self, error: faults.Unusable) -> None:
    """Moves an unusable checkpoint aside if `skip_damaged`; else raises."""
    if not self._skip_damaged:
      raise error
    target = self.workdir / "checkpoints_damaged" / error.folder.name
    moved = processes.from_writer(
        lambda: str(retention.set_aside(error.folder, target)))
    if processes.is_writer():
      logging.warning("%s; moved it to %s", error.reason, moved)

  def __enter__(self) -> Session:
    self.writer = None
    if processes.is_writer():
      with self._giving_back():
        self.writer = Writer(
            self.workdir, resumed=self.step if self.resumes else None,
            sinks=self._sinks())
    self._cost = cost.Record(self.workdir)
    self.preemption.__enter__()
    self.progress = Progress(self.title, self.total, start=self.step,
                             quiet=not processes.is_writer())
    self.progress.__enter__()
    if self.resumes and self.step >= self.total and not self._goes_inside:
      self.progress.say(
          f"{self.workdir} is finished: all {self.total} steps were done before"
          "; to train longer raise --steps, for another run choose another"
          " --workdir")
    elif self.resumes:
      where = (f"inside step {self.step + 1}" if self._goes_inside
               else f"after step {self.step}")
      self.progress.say(f"resuming {self.workdir} {where}")
    return self

  def __exit__(self, *exception: object) -> None:
    self.progress.__exit__(*exception)
    try:
      self._end(exception[1])
    finally:
      # Last, because without the handler a signal would kill pending writes.
      self.preemption.__exit__(*exception)
      self._release()

  def _end(self, error: BaseException | None) -> None:
    if error is None:
      self._settle()
    elif isinstance(error, Exception) and jax.process_count() == 1:
      with contextlib.suppress(Exception):  # it may fail for the same reason
        for step, metrics, _ in self._pending:
          self.log(step, _numbers(metrics))
    if self._is_there():
      if self.writer:
        self.writer.close()
      self._cost.write()
    if isinstance(error, KeyboardInterrupt):
      return  # at once, without waiting for pending writes
    if error is not None and jax.process_count() > 1:
      # Other processes may never finish a save that is in progress.
      watchdog.failed(error)
      return
    self.manager.close()
    if self._saved:
      self._midway.drop()
    self._midway.close()
    if error is None and self.preemption.name and not self.stopped:
      self.progress.say(f"{self.preemption.name}: all {self.step} steps are"
                        " saved")

  def log(self, step: int, metrics: Mapping[str, float]) -> None:
    """Adds a row of metrics to the log."""
    if self.writer:
      self.writer.write(step, metrics)

  def interrupted(self) -> bool:
    """Whether to save and stop now; once true, it stays true.

    It needs no device, and no communication before a signal arrives, but all
    processes must call it at the same points.
    """
    return self.preemption.requested()

  def finish(self, step: int, metrics: Metrics, batch: Batch,
             arrays: Callable[[], Any],
             host: Callable[[], dict[str, Any]]) -> bool:
    """Ends a step: checks, logs, saves; returns whether the run should stop.

    Metrics given as a function are read when the next step ends, so that the
    loop does not wait for the device; before a save they are read at once, so
    that no checkpoint has an update whose metrics were not checked.

    Args:
      step: steps done, this one included.
      metrics: the step's metrics, or a function that returns them.
      batch: this process's training batch, or a function that returns it; it is
        dumped if the update was skipped. None if another process dumps it.
      arrays: returns the device state to save.
      host: returns the host state to save, JSON-ready.

    Raises:
      FloatingPointError: three updates in a row were skipped.
      OSError: the log or a checkpoint cannot be written.
      ValueError: the folder was removed meanwhile.
    """
    self._pending.append((step, metrics, batch))
    self.stopped = self.preemption.requested()
    if self._lock:
      self._lock.check()
      check(self._is_there(), f"{self.workdir} is gone: it was removed or moved"
            " while the run was going on, so it stops; put it back, and the"
            " same command resumes")
    # Saving blocks until the arrays are copied, so it happens only when due.
    saves = (self.stopped or step == self.total or self.manager.due(step)
             or not callable(metrics) and self.manager.improves(metrics))
    read = self._settle(keep=int(callable(metrics) and not saves))
    if saves:
      if self.writer:
        self.writer.flush()
      self._cost.write()
      if self._saved:
        self.manager.wait()
        self._midway.drop()
      self.manager.save(
          step, arrays(), host() | {"skipped": list(self.guard.skipped)},
          metrics=read, force=True,
          donated=() if self.stopped or step == self.total else self._donated)
      self._saved = True
    self.step = step
    if self.stopped:
      self.manager.wait()
      self.progress.say(f"{self.preemption.name}: saved after step {step}; the"
                        " same command resumes")
    watchdog.mark(f"step {step}")
    return self.stopped

  def _is_there(self) -> bool:
    """Whether the folder still exists; writing would make it anew."""
    path = self.workdir / workdir_lib.CONFIG
    return io.is_remote(path) or path.exists()

  def save_inside(self, step: int, arrays: Any, host: dict[str, Any],
                  local: Any = None, *, after: str) -> None:
    """Saves the state inside a step, waits for the save, and stops the run.

    On the next start `restore` returns it, with `local` as `inside`. It is
    removed once a checkpoint between two steps is complete.

    Args:
      step: steps done, this one not included.
      arrays: the device state, with the same tree as `finish` saves.
      host: JSON-ready: what `finish` saves, and the position inside the step.
      local: this process's arrays of the step, whose shapes the next start
        cannot know: dicts, lists and dataclasses of NumPy arrays, or of JAX
        arrays on this process's devices. It is restored as dicts and lists of
        NumPy arrays, with the same number of processes.
      after: what of the step is done, in words.

    Raises:
      FloatingPointError: three updates in a row were skipped.
      OSError: it could not be written; the message says what is lost.
    """
    self._settle()
    if self.writer:
      self.writer.flush()
    self.manager.wait()
    self._saved = False
    try:
      self._midway.save(
          step, arrays, host | {"skipped": list(self.guard.skipped)},
          {} if local is None else local)
    except OSError as error:
      raise OSError(error.errno, f"{error.strerror or error}; {self._lost()}"
                    ) from error
    self._stop(f"saved inside step {step + 1}, after {after}; the same command"
               " resumes")

  def leave(self, lost: str) -> None:
    """Stops the run without saving.

    Args:
      lost: the work since the last save, in words.
    """
    self._settle()
    self.manager.wait()
    self._stop(f"stopped, {lost} is lost; the same command repeats it")

  def _stop(self, what: str) -> None:
    self.stopped = True
    self.progress.say(f"{self.preemption.name}: {what}")

  def _settle(self, keep: int = 0) -> Mapping[str, float]:
    """Reads the metrics of all pending steps but the last `keep`.

    Returns:
      The metrics of the last step that it read.
    """
    numbers: Mapping[str, float] = {}
    while len(self._pending) > keep:
      step, metrics, batch = self._pending.pop(0)
      numbers = _numbers(metrics)
      self.log(step, numbers)
      if self.writer:
        self.writer.flush(lazily=True)
      if callable(batch):
        batch = batch() if numbers["skipped"] else None
      self.guard.check(step, numbers, batch)
      self.progress.step({name.rsplit("/", 1)[-1]: numbers[name]
                          for name in self.shown if name in numbers})
    return numbers

  def _lost(self) -> str:
    """What a kill at this moment would lose, in words."""
    between, inside = self.manager.complete_step(), self._midway.step()
    if inside is not None and inside >= (between or 0):
      return f"all after the save inside step {inside + 1} is lost"
    if between is None:
      return "all is lost, as nothing is saved yet"
    return f"all after step {between} is lost"


def _numbers(metrics: Metrics) -> Mapping[str, float]:
  return metrics() if callable(metrics) else metrics


def _check_shared(workdir: epath.Path, step: int) -> None:
  """Raises ValueError if the processes do not see the same folder."""
  sees = [(workdir / workdir_lib.CONFIG).exists(), step]
  seen = processes.gather(sees)
  lost = [i for i, (config, _) in enumerate(seen) if not config]
  check(not lost, f"process {lost and lost[0]} does not see {workdir}, which"
        " process 0 has prepared; put --workdir on storage that all processes"
        " share, a network file system or gs://")
  steps = [latest for _, latest in seen]
  check(len(set(steps)) == 1, f"the processes see different newest checkpoints"
        f" in {workdir}: {steps}; put --workdir on storage that all processes"
        " share")
