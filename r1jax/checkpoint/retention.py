"""Which checkpoints stay, and how the others go without ever being half there.

A process can be killed while it removes a checkpoint. So that what is left then
is not taken for a whole one, a folder first gets the name of an unfinished
save; on gs://, where nothing can be renamed, it first loses the file that says
that it is complete. The next start removes what a killed one left, as it does
with unfinished saves.
"""

from __future__ import annotations

import itertools
import logging
import os
import threading
from collections.abc import Mapping, Sequence

import fsspec
from etils import epath

from r1jax.core import io

# Orbax's names for what is not complete and for what is.
UNFINISHED = ".orbax-checkpoint-tmp"
COMPLETE = "commit_success.txt"


def kept(scores: Mapping[int, float | None], keep: int, mode: str) -> set[int]:
  """The newest `keep` steps and the best one, the later of equals.

  Args:
    scores: metric by step, None where there is none.
    keep: how many of the newest.
    mode: "max" or "min", which metric is the best.
  """
  newest = set(sorted(scores)[-keep:])
  top = best(scores, mode)
  return newest if top is None else newest | {top}


def best(scores: Mapping[int, float | None], mode: str) -> int | None:
  """The step with the best metric, the later of equals; None without any."""
  sign = 1 if mode == "max" else -1
  return max((step for step, score in scores.items() if score is not None),
             key=lambda step: (sign * scores[step], step), default=None)


def complete(directory: str | os.PathLike) -> list[int]:
  """Steps of the checkpoints that are whole, ascending; needs no Orbax."""
  directory = epath.Path(directory)
  if not directory.exists():
    return []
  return sorted(
      int(folder.name) for folder in directory.iterdir()
      if folder.name.isdecimal() and (
          not io.is_remote(directory) or (folder / COMPLETE).exists()))


def metrics(directory: str | os.PathLike, step: int) -> dict[str, float]:
  """What was measured of a checkpoint when it was saved; {} if nothing was.

  Raises:
    ValueError: the file is cut.
  """
  path = epath.Path(directory) / str(step) / "metrics" / "metrics"
  return io.read_json(path) if path.exists() else {}


class Remover:
  """Removes folders of checkpoints in a thread of its own."""

  def __init__(self) -> None:
    self._thread: threading.Thread | None = None

  def remove(self, folders: Sequence[epath.Path],
             also: Sequence[epath.Path] = ()) -> None:
    """Marks the folders as not complete at once, then starts to remove them.

    Args:
      folders: of checkpoints.
      also: what needs no mark, removed last.
    """
    self.wait()
    retired = [_retired(folder) for folder in folders]
    self._thread = threading.Thread(target=_remove, args=([*retired, *also],))
    self._thread.start()

  def wait(self) -> None:
    """Blocks until they are gone."""
    if self._thread is not None:
      self._thread.join()


def set_aside(folder: epath.Path, target: epath.Path) -> epath.Path:
  """Moves a folder that cannot be used out of the way; returns where it is.

  Args:
    folder: what to move.
    target: its new name, which gets a number if it is taken.
  """
  parent, name = target.parent, target.name
  for number in itertools.count(2):
    if not target.exists():
      break
    target = parent / f"{name}-{number}"
  if not io.is_remote(folder):
    parent.mkdir(parents=True, exist_ok=True)
    return folder.rename(target)
  # Without the last of them the rest would be taken for an unfinished save.
  system, path = fsspec.core.url_to_fs(os.fspath(folder))
  last = f"{path}/{COMPLETE}"
  for name in sorted(system.find(path), key=lambda name: name == last):
    system.mv(name, os.fspath(target) + name.removeprefix(path))
  return target


def _retired(folder: epath.Path) -> epath.Path:
  if io.is_remote(folder):
    (folder / COMPLETE).unlink(missing_ok=True)
    return folder
  return folder.rename(folder.parent / (folder.name + UNFINISHED))


def _remove(folders: Sequence[epath.Path]) -> None:
  for folder in folders:
    try:
      folder.rmtree(missing_ok=True)
    except OSError as error:  # It costs space, not the run.
      logging.warning("could not remove the old checkpoint %s: %s", folder,
                      error)
