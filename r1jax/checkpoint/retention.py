"""Decides which checkpoints are kept, and removes the others atomically.

A process can be killed while it removes a checkpoint, and the rest must not
look like a complete one. So the folder is first renamed to the name of an
unfinished save; on gs://, where folders cannot be renamed, the file that marks
it as complete is removed first. The next start removes the rest, as it does
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

# Orbax's suffix of an unfinished save, and its file that marks a complete one.
UNFINISHED = ".orbax-checkpoint-tmp"
COMPLETE = "commit_success.txt"


def kept(scores: Mapping[int, float | None], keep: int, mode: str) -> set[int]:
  """Steps to keep: the newest `keep` and the best one (of equals the later).

  Args:
    scores: {step: metric, or None if it has none}.
    keep: number of newest steps.
    mode: "max" or "min", which metric is the best.
  """
  newest = set(sorted(scores)[-keep:])
  top = best(scores, mode)
  return newest if top is None else newest | {top}


def best(scores: Mapping[int, float | None], mode: str) -> int | None:
  """The step with the best metric (of equals the later); None without any."""
  sign = 1 if mode == "max" else -1
  return max((step for step, score in scores.items() if score is not None),
             key=lambda step: (sign * scores[step], step), default=None)


def complete(directory: str | os.PathLike) -> list[int]:
  """Steps of all complete checkpoints, ascending; does not use Orbax."""
  directory = epath.Path(directory)
  if not directory.exists():
    return []
  return sorted(
      int(folder.name) for folder in directory.iterdir()
      if folder.name.isdecimal() and (
          not io.is_remote(directory) or (folder / COMPLETE).exists()))


def metrics(directory: str | os.PathLike, step: int) -> dict[str, float]:
  """The metrics that a checkpoint was saved with; {} if there are none.

  Raises:
    ValueError: the file is truncated.
  """
  path = epath.Path(directory) / str(step) / "metrics" / "metrics"
  return io.read_json(path) if path.exists() else {}


class Remover:
  """Removes folders of checkpoints in a background thread."""

  def __init__(self) -> None:
    self._thread: threading.Thread | None = None

  def remove(self, folders: Sequence[epath.Path],
             also: Sequence[epath.Path] = ()) -> None:
    """Marks the folders as incomplete, then starts to remove them.

    Args:
      folders: of checkpoints.
      also: folders without a mark, removed last.
    """
    self.wait()
    retired = [_retired(folder) for folder in folders]
    self._thread = threading.Thread(target=_remove, args=([*retired, *also],))
    self._thread.start()

  def wait(self) -> None:
    """Blocks until the folders are removed."""
    if self._thread is not None:
      self._thread.join()


def set_aside(folder: epath.Path, target: epath.Path) -> epath.Path:
  """Moves an unusable folder aside; returns its new path.

  Args:
    folder: what to move.
    target: its new path; a number is appended if it exists.
  """
  parent, name = target.parent, target.name
  for number in itertools.count(2):
    if not target.exists():
      break
    target = parent / f"{name}-{number}"
  if not io.is_remote(folder):
    parent.mkdir(parents=True, exist_ok=True)
    return folder.rename(target)
  # The mark moves last: a folder without it counts as an unfinished save.
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
    except OSError as error:  # costs disk space, but need not end the run
      logging.warning("could not remove the old checkpoint %s: %s", folder,
                      error)
