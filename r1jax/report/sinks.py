"""Optional metric sinks (wandb, trackio), beside metrics.jsonl and TensorBoard.

wandb sends metrics to its server; with WANDB_MODE=offline they stay in
WORKDIR/wandb until `wandb sync` is run. trackio keeps them on this machine,
where `trackio show` draws them, or in a Space (TRACKIO_SPACE_ID). The project
is called r1jax (for wandb, WANDB_PROJECT overrides that). A resumed run
continues its curves. The packages are imported only if their sink is used.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import logging
import os
import uuid
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from etils import epath

from r1jax.core import io
from r1jax.core.config import check

NAMES = ("wandb", "trackio")
_ID = "sinks.json"  # in the workdir: the id under which the sinks know the run
_PROJECT = "r1jax"


@dataclasses.dataclass
class Sink:
  """An opened sink. If it fails it warns once and does nothing from then on.

  Attributes:
    name: of the service.
    log: called with (step, {metric: number}).
    finish: sends what is still buffered.
  """

  name: str
  log: Callable[[int, Mapping[str, float]], Any]
  finish: Callable[[], Any]
  _broken: bool = False

  def write(self, step: int, numbers: Mapping[str, float]) -> None:
    """Logs the metrics of a step, which must be finite."""
    self._try(lambda: self.log(step, numbers))

  def close(self) -> None:
    """Waits until all metrics are sent."""
    self._try(self.finish)

  def _try(self, call: Callable[[], Any]) -> None:
    if self._broken:
      return
    try:
      call()
    except Exception as error:  # each service has error classes of its own
      self._broken = True
      logging.warning("no more metrics are sent to %s: %s", self.name, error)


def check_names(names: Sequence[str]) -> None:
  """Checks the names of sinks.

  Raises:
    ValueError: a name is not in `NAMES`.
  """
  for name in names:
    check(name in NAMES, f"sinks={','.join(names)}: {name!r} is unknown; choose"
          f" {' or '.join(NAMES)}, or both with a comma between them")


def opened(names: Sequence[str], workdir: str | os.PathLike,
           config: Mapping[str, Any], *, resumes: bool) -> list[Sink]:
  """Starts or resumes a run in every service.

  Args:
    names: of the services.
    workdir: of the run, local or gs://; the name of the folder is the run's.
    config: all settings, shown beside the curves.
    resumes: whether the run is resumed.

  Raises:
    ValueError: a package is missing, or a service refuses; names it.
  """
  for name in names:
    # A mere folder `wandb`, as offline runs leave it, looks like a package
    # without origin.
    check(getattr(importlib.util.find_spec(name), "origin", None) is not None,
          f"sinks={name} needs the package {name}: pip install"
          f" -e '.[{name}]'")
  if not names:
    return []
  path = epath.Path(workdir) / _ID
  if not (resumes and path.exists()):
    io.write_json(path, {"id": uuid.uuid4().hex[:8]})
  run = io.read_json(path)["id"]
  found = []
  for name in names:
    try:
      found.append(_OPEN[name](path.parent, run, dict(config)))
    except Exception as error:  # each service has error classes of its own
      raise ValueError(
          f"sinks={name} cannot start: {error}; without --sinks={name} metrics"
          " are written to the workdir only") from error
  return found


def _wandb(workdir: epath.Path, run: str, config: dict[str, Any]) -> Sink:
  import wandb

  # Its console would take stdout away from the progress bar.
  begun = wandb.init(
      project=os.environ.get("WANDB_PROJECT") or _PROJECT, id=run,
      name=workdir.name, resume="allow", config=config,
      dir=None if io.is_remote(workdir) else os.fspath(workdir),
      settings=wandb.Settings(console="off"))
  # After a kill some steps are logged again, which wandb's own step counter
  # refuses: so the step is a metric.
  begun.define_metric("step")
  begun.define_metric("*", step_metric="step")
  return Sink("wandb", lambda step, numbers: begun.log(
      {"step": step, **numbers}), begun.finish)


def _trackio(workdir: epath.Path, run: str, config: dict[str, Any]) -> Sink:
  import trackio

  begun = trackio.init(
      project=_PROJECT, name=f"{workdir.name}-{run}", resume="allow",
      config=config, embed=False, auto_log_cpu=False, auto_log_gpu=False)
  return Sink("trackio", lambda step, numbers: begun.log(dict(numbers), step),
              begun.finish)


_OPEN = {"wandb": _wandb, "trackio": _trackio}
