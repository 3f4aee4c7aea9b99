"""Saves inside a step, when a run has to stop in the middle of one.

  FOLDER/state/NUMBER            the state, as `manager` writes it
  FOLDER/local/NUMBER.0_of_2.npz further data of process 0 of 2

NUMBER is (steps done) * SAVES + (index of the save inside the next step). Only
the newest save is kept. Its state is written after all local files, so that a
killed process leaves the previous save or none.
"""

from __future__ import annotations

import io
import os
import zipfile
from collections.abc import Mapping
from typing import Any

import jax
import ml_dtypes  # noqa: F401 - names bfloat16 and its like for np.dtype
import numpy as np
from etils import epath

from r1jax.checkpoint import faults, retention, trees
from r1jax.checkpoint.manager import Manager
from r1jax.core import io as core_io
from r1jax.core.config import check
from r1jax.sharding import processes

SAVES = 10_000  # more than the number of saves inside one step
_WITHOUT = "resumes from the last checkpoint between two steps"
_DTYPE = "|"  # separates the name of an array from that of its dtype


class Midway:
  """Saves, restores and removes the state inside a step.

  In a multi-process run all processes must call every method.
  """

  def __init__(self, folder: str | os.PathLike) -> None:
    """Opens the folder if it exists; `save` creates it.

    Raises:
      OSError: it cannot be read.
    """
    self.folder = epath.Path(folder)
    self._manager: Manager | None = None
    self._remover = retention.Remover()
    if processes.from_writer(self.folder.exists):
      self._open()

  def step(self) -> int | None:
    """Steps done before the step that the save is inside; None without a save.
    """
    number = self._number()
    return None if number is None else number // SAVES

  def save(self, step: int, arrays: Any, host: Mapping[str, Any],
           local: Any) -> None:
    """Saves and waits; the previous save is removed when this is complete.

    Args:
      step: steps done.
      arrays: the state, as for `Manager.save`.
      host: JSON-serialisable.
      local: further data of this process: dicts, lists and dataclasses of NumPy
        arrays, and of JAX arrays on its own devices, of any shapes.

    Raises:
      ValueError: `host` is not JSON-serialisable, or `local` holds Python
        objects.
      OSError: it could not be written; the previous save is unchanged.
    """
    self._open()
    former = self._number()
    number = step * SAVES
    if former is not None and former // SAVES == step:
      number = former + 1
    core_io.write_bytes(self._local(number), _packed(local))
    processes.gather("the local file is there")
    self._manager.save(number, arrays, host, force=True, donated=())
    self._manager.wait()
    if former is not None:
      self._local(former).unlink(missing_ok=True)

  def restore(self, like: Any) -> tuple[Any, dict[str, Any], dict[str, Any]]:
    """The (arrays, host, local) of the save.

    `local` is restored as dicts and lists of NumPy arrays.

    Args:
      like: the arrays, as for `Manager.restore`.

    Raises:
      ValueError: the arrays are not those of `like`; `faults.Unusable` if the
        save is damaged or was made by another number of processes.
      OSError: it could not be read for another reason.
    """
    number = self._number()
    self._check_count(number)
    try:
      arrays, host = self._manager.restore(number, like=like)
      local, fault = None, None
      try:
        local = _unpacked(self._local(number).read_bytes())
      except Exception as error:  # gcsfs raises errors of many classes
        fault = faults.reading(error, self.folder, _WITHOUT)
        fault.__cause__ = error
      faults.together(fault)
    except faults.Unusable as error:
      error.folder = self.folder  # the whole folder is unusable
      raise
    return arrays, host, local

  def drop(self) -> None:
    """Starts to remove the save, because the run has a newer checkpoint."""
    if self._manager is None:
      return
    number = self._number()
    self._manager.close()
    self._manager = None
    if processes.is_writer():
      state = [] if number is None else [self.folder / "state" / str(number)]
      self._remover.remove(state, also=[self.folder])

  def close(self) -> None:
    """Waits for the removal, then ends Orbax's threads."""
    self._remover.wait()
    if self._manager is not None:
      self._manager.close()

  def _open(self) -> None:
    self._remover.wait()
    if self._manager is None:
      self._manager = Manager(self.folder / "state", keep=1, without=_WITHOUT)

  def _number(self) -> int | None:
    return self._manager.latest_step() if self._manager else None

  def _local(self, number: int) -> epath.Path:
    return self.folder / "local" / (
        f"{number}.{jax.process_index()}_of_{jax.process_count()}.npz")

  def _check_count(self, number: int) -> None:
    """Raises `Unusable` if another number of processes made the save."""
    count = jax.process_count()
    made = processes.from_writer(lambda: sorted(
        int(path.stem.rpartition("_")[2]) for path
        in (self.folder / "local").glob(f"{number}.*.npz")))
    if made and made[0] != count:
      raise faults.Unusable(
          self.folder, f"{self.folder} was saved inside step"
          f" {number // SAVES + 1} by {made[0]} process(es), each with a part"
          f" of that step, but there are {count} now",
          f"Start {made[0]}, or the same command with --skip_damaged moves it"
          f" aside and {_WITHOUT}.")


def _packed(local: Any) -> bytes:
  """An .npz file of the arrays; keys are dotted names and names of dtypes."""
  arrays = {}
  for name, leaf in trees.flatten(local).items():
    leaf = np.asarray(jax.device_get(leaf))
    check(leaf.dtype != object, f"{name} is not an array of numbers")
    arrays[f"{name}{_DTYPE}{leaf.dtype.name}"] = leaf
  file = io.BytesIO()
  np.savez(file, **arrays)
  return file.getvalue()


def _unpacked(data: bytes) -> dict[str, Any]:
  """The tree that was given to `_packed`, as dicts and lists."""
  if not zipfile.is_zipfile(io.BytesIO(data)):
    raise zipfile.BadZipFile("no arrays in it")
  leaves = {}
  with np.load(io.BytesIO(data)) as file:
    for key in file.files:
      name, _, dtype = key.rpartition(_DTYPE)
      leaves[name] = file[key].view(np.dtype(dtype))
  return trees.nested(leaves)
