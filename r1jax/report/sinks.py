"""Services that show metrics, beside metrics.jsonl and TensorBoard.

wandb sends them to its server; with WANDB_MODE=offline they stay in
WORKDIR/wandb until `wandb sync` is given. trackio keeps them on this machine,
where `trackio show` draws them, or in a Space (TRACKIO_SPACE_ID). The project
is r1jax, for wandb WANDB_PROJECT if that is set. A run that resumes goes on
with its curves. These packages are imported only where they are asked for.
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
_ID = "sinks.json"  # by what name they know the run
_PROJECT = "r1jax"


@dataclasses.dataclass
class Sink:
  """One of them, opened; it never ends a run, but says once what is amiss.

  Attributes:
    name: of it.
    log: (step, {metric: number}).
    finish: sends what is left.
  """

  name: str
  log: Callable[[int, Mapping[str, float]], Any]
  finish: Callable[[], Any]
  _broken: bool = False

  def write(self, step: int, numbers: Mapping[str, float]) -> None:
    """Adds the finite numbers of a step."""
    self._try(lambda: self.log(step, numbers))

  def close(self) -> None:
    """Waits until all is sent."""
    self._try(self.finish)

  def _try(self, call: Callable[[], Any]) -> None:
    if self._broken:
      return
    try:
      call()
    except Exception as error:  # each has kinds of its own
      self._broken = True
      logging.warning("no more metrics for %s: %s", self.name, error)


def check_names(names: Sequence[str]) -> None:
  """Makes sure that there are such services.

  Raises:
    ValueError: one is unknown.
  """
  for name in names:
    check(name in NAMES, f"sinks={','.join(names)}: {name!r} is unknown; choose"
          f" {' or '.join(NAMES)}, or both with a comma between them")


def opened(names: Sequence[str], workdir: str | os.PathLike,
           config: Mapping[str, Any], *, resumes: bool) -> list[Sink]:
  """Begins a run, or goes on with it, in every service.

  Args:
    names: of the services.
    workdir: of the run, local or gs://; its name is that of the run.
    config: all settings, shown beside the curves.
    resumes: whether the run was begun before.

  Raises:
    ValueError: a package is missing, or its service refuses; says which.
  """
  for name in names:
    # A folder of that name, as wandb leaves them, is a package without origin.
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
    except Exception as error:  # each has kinds of its own
      raise ValueError(
          f"sinks={name} cannot begin: {error}; without --sinks={name} the"
          " metrics are in the workdir alone") from error
  return found


def _wandb(workdir: epath.Path, run: str, config: dict[str, Any]) -> Sink:
  import wandb

  # Its console would take stdout away from the progress bar.
  begun = wandb.init(
      project=os.environ.get("WANDB_PROJECT") or _PROJECT, id=run,
      name=workdir.name, resume="allow", config=config,
      dir=None if io.is_remote(workdir) else os.fspath(workdir),
      settings=wandb.Settings(console="off"))
  # Steps that a kill has undone come again, which wandb's own count refuses.
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
