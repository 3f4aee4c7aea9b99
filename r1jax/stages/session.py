"""What every stage does around its loop: files, signals, progress, resuming."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Any

import jax
from etils import epath

from r1jax.checkpoint.manager import Manager
from r1jax.checkpoint.signals import Preemption
from r1jax.core.config import check
from r1jax.core.types import TokenBatch
from r1jax.data import tokenizer as tokenizer_lib
from r1jax.data.tokenizer import Tokenizer
from r1jax.report import workdir as workdir_lib
from r1jax.report.progress import Progress
from r1jax.report.writer import Writer
from r1jax.sharding import processes, watchdog
from r1jax.training.guard import Guard


class Session:
  """A run on disk, open for one process's lifetime, or for that of several.

      with Session(workdir, config, title="GRPO", total=cfg.steps, ...) as s:
        state = s.restore({"state": state}) ...
        for step in range(s.step, cfg.steps):
          ...
          if s.finish(step + 1, metrics, batch, arrays, host):
            break

  The same config in a used workdir resumes it; another one is an error.

  Under several processes each makes the same calls with the same steps and
  metrics; the first alone writes the log and shows progress.
  """

  def __init__(self, workdir: str | os.PathLike, config: dict[str, Any],
               tokenizer: Tokenizer, *, title: str, total: int,
               save_every: int, keep: int = 2, best_metric: str = "",
               skip_damaged: bool = False,
               shown: tuple[str, ...] = ()):
    """Takes or resumes the workdir.

    Args:
      workdir: folder of the run, local or gs://.
      config: every setting as resolved; `steps` may differ on resuming.
      tokenizer: of the run, which keeps its files.
      title: of the progress bar.
      total: steps in all.
      save_every: steps between checkpoints.
      keep: newest checkpoints to keep.
      best_metric: also keep the best checkpoint by this metric.
      shown: metrics in the progress bar.

    Raises:
      ValueError: the workdir was made by another config or with another
        tokenizer, or the processes do not share it.
    """
    self.workdir = epath.Path(workdir)
    self.title, self.total, self.shown = title, total, shown

    def take() -> None:
      workdir_lib.prepare(workdir, config, workdir_lib.versions(),
                          ignore=("steps",))
      tokenizer_lib.keep(tokenizer, workdir)

    processes.from_writer(take)
    self.manager = Manager(self.workdir / "checkpoints", keep=keep,
                           save_interval=save_every, best_metric=best_metric)
    self.step = self.manager.latest_step() or 0
    _check_shared(self.workdir, self.step)
    self.guard = Guard(self.workdir / "skipped")
    self.preemption = Preemption()
    self.stopped = False
    self.inside = None
    self.resumes = bool(self.step)

  def restore(self, arrays: Any, host: dict[str, Any]
              ) -> tuple[Any, dict[str, Any]]:
    """The latest checkpoint's state, or what was given if there is none."""
    if not self.step:
      return arrays, host
    arrays, host = self.manager.restore(self.step, like=arrays)
    self.guard.skipped = tuple(host["skipped"])
    return arrays, host

  def __enter__(self) -> Session:
    self.writer = None
    if processes.is_writer():
      self.writer = Writer(self.workdir, resumed=self.step)
    self.preemption.__enter__()
    self.progress = Progress(self.title, self.total, start=self.step,
                             quiet=not processes.is_writer())
    self.progress.__enter__()
    if self.step:
      self.progress.say(f"resuming {self.workdir} after step {self.step}")
    return self

  def __exit__(self, *exception: object) -> None:
    self.progress.__exit__(*exception)
    self.preemption.__exit__(*exception)
    if self.writer:
      self.writer.close()
    if exception[1] is not None and jax.process_count() > 1:
      # The others may never come to the end of a save that still runs.
      watchdog.failed(exception[1])
    else:
      self.manager.close()

  def interrupted(self):
    return False

  def log(self, step: int, metrics: Mapping[str, float]) -> None:
    """Adds a row to the log."""
    if self.writer:
      self.writer.write(step, metrics)

  def finish(self, step: int, metrics: Mapping[str, float],
             batch: TokenBatch | None, arrays: Callable[[], Any],
             host: Callable[[], dict[str, Any]]) -> bool:
    """Ends a step: guards, logs, saves; True when the run should stop.

    Args:
      step: steps done, this one included.
      metrics: numbers of this step.
      batch: what this process gave to train on, dumped if the update was
        skipped; None where another process gave it.
      arrays: -> the device state to save.
      host: -> the host state to save, JSON-ready.
    """
    metrics = metrics() if callable(metrics) else metrics
    if metrics["skipped"] and callable(batch):
      batch = batch()
    self.log(step, metrics)
    if self.writer:
      self.writer.flush(lazily=True)
    self.guard.check(step, metrics, batch)
    self.progress.step({name.rsplit("/", 1)[-1]: metrics[name]
                        for name in self.shown if name in metrics})
    self.stopped = self.preemption.requested()
    last = self.stopped or step == self.total
    # Saving blocks until the arrays are copied: only call for them when due.
    if last or self.manager.due(step):
      if self.writer:
        self.writer.flush()
      self.manager.save(
          step, arrays(), host() | {"skipped": list(self.guard.skipped)},
          metrics=metrics, force=last)
    if self.stopped:
      self.manager.wait()
      self.progress.say(
          f"{self.preemption.name or 'a signal to another process'}: saved"
          f" after step {step}; the same command resumes")
    self.step = step
    watchdog.mark(f"step {step}")
    return self.stopped


def _check_shared(workdir: epath.Path, step: int) -> None:
  """Raises ValueError if processes do not see one and the same folder."""
  sees = [(workdir / workdir_lib.CONFIG).exists(), step]
  found = processes.gather(sees)
  lost = [i for i, (config, _) in enumerate(found) if not config]
  check(not lost, f"process {lost and lost[0]} does not see {workdir}, which"
        " process 0 has prepared; put --workdir on storage that all processes"
        " share, a network file system or gs://")
  steps = [latest for _, latest in found]
  check(len(set(steps)) == 1, f"the processes see different newest checkpoints"
        f" in {workdir}: {steps}; put --workdir on storage that all processes"
        " share")
