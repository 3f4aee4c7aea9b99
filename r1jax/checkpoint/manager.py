"""Checkpoints of the whole state of a run: sharded, asynchronous, atomic.

A checkpoint is a tree of arrays and a JSON dictionary of host state (data
position, stage, counts). Orbax writes both to `DIRECTORY/STEP` and renames the
folder into place when it is complete, so that a killed process leaves the last
complete checkpoint.
"""

from __future__ import annotations

import contextlib
import errno
import gc
import json
import logging
import math
import os
import shutil
import sys
from collections.abc import Collection, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from etils import epath

from r1jax.checkpoint import faults, retention, trees
from r1jax.core import io

# Most bytes that are read at once, unless an eighth of a checkpoint is more.
_AT_ONCE = 64 << 20
_FLOATS = ("bfloat16", "float16", "float32", "float64")


class Unlike(ValueError):
  """The arrays of a checkpoint are not those that were requested."""


class Manager:
  """Saves, removes and restores checkpoints of one run.

  Typed random keys are stored as their data and restored as keys. Leaves of
  size zero (a dense model's router bias) are not stored and restored as empty
  arrays. In a multi-process run all processes must call every method.
  """

  def __init__(
      self, directory: str | os.PathLike, *, keep: int = 3,
      save_interval: int = 1, best_metric: str = "", best_mode: str = "max",
      read_only: bool = False, without: str = "") -> None:
    """Opens or creates `directory` and removes unfinished saves.

    Args:
      directory: local or gs:// folder, only for this run's checkpoints.
      keep: number of newest checkpoints to keep.
      save_interval: `save` does nothing at steps that are no multiple of it.
      best_metric: key of `save(metrics=...)` by which the best checkpoint is
        chosen and kept in addition to the newest; "" for none.
      best_mode: "max" or "min".
      read_only: create, remove and save nothing (to evaluate while a run goes
        on).
      without: for error messages: what a run does without a damaged checkpoint.
        By default it resumes after the previous one.

    Raises:
      ValueError: a bad argument; `faults.Unusable` if the metrics of a
        checkpoint are truncated.
      OSError: the folder cannot be created, or a file cannot be read.
    """
    if keep < 1 or save_interval < 1:
      raise ValueError(
          f"keep={keep} and save_interval={save_interval} must be at least 1")
    if best_mode not in ("max", "min"):
      raise ValueError(f"best_mode={best_mode!r} must be 'max' or 'min'")
    self.directory = epath.Path(
        directory if io.is_remote(directory) else os.path.abspath(directory))
    self._interval, self._keep = save_interval, keep
    self._best_metric, self._best_mode = best_metric, best_mode
    self._pending: int | None = None
    self._without = without
    self._remover = retention.Remover()
    logging.getLogger("absl").addFilter(_not_from_orbax)
    _drop_abandoned()
    try:
      self._orbax = ocp.CheckpointManager(
          self.directory, options=_options(best_metric, read_only),
          # Weights hardly compress; trying takes longer than writing them.
          item_handlers={"arrays": ocp.PyTreeCheckpointHandler(
              use_compression=False),
                         "host": ocp.JsonCheckpointHandler()})
      self._scores = {int(s): self._score(s)
                      for s in self._orbax.all_steps()}
    except Exception as error:  # Orbax raises errors of many classes
      raise self._unopened(error) from error

  def save(
      self, step: int, arrays: Any, host: Mapping[str, Any], *,
      metrics: Mapping[str, float] | None = None, force: bool = False,
      donated: Collection[str] | None = None) -> bool:
    """Starts an asynchronous save; returns whether it did.

    It first waits until the previous save is complete. If an array that is not
    among `donated` is donated before it is written, the program that it is
    donated to waits.

    Args:
      step: number of the checkpoint; nothing is saved unless it exceeds that of
        the newest checkpoint.
      arrays: tree of `jax.Array` and `np.ndarray`.
      host: JSON-serialisable dictionary with string keys (tuples are restored
        as lists).
      metrics: values of this step, for `best_metric`; non-finite ones are
        dropped.
      force: save although `step` is no multiple of `save_interval`.
      donated: keys of `arrays` whose arrays may be donated at once; None for
        all. On a CPU they are copied, because it would write from their own
        buffers.

    Raises:
      ValueError: `host` is not JSON-serialisable.
      OSError: this save or the previous one could not be written.
    """
    latest = self.latest_step()
    if latest is not None and step <= latest:
      return False
    if step % self._interval and not force:
      return False
    try:
      host = json.loads(json.dumps(dict(host)))
    except (TypeError, ValueError) as error:
      raise ValueError(
          f"host state of step {step} is not JSON-ready: {error}") from error
    self.wait()  # before the copies below take memory
    stored = {name: _data(leaf)
              for name, leaf in trees.flatten(arrays).items() if leaf.size}
    stored |= {name: _snapshot(leaf) for name, leaf in stored.items()
               if donated is None or name.partition(".")[0] in donated}
    self._pending = step
    finite = self._finite(metrics)
    size = sum(leaf.nbytes for leaf in stored.values())
    try:
      if not _has_room(self.directory, size):
        self._remover.wait()  # old checkpoints are still being removed
      _probe(self.directory, size)
      self._orbax.save(
          step, metrics=finite, force=True,
          args=ocp.args.Composite(arrays=ocp.args.PyTreeSave(stored),
                                  host=ocp.args.JsonSave(host)))
    except Exception as error:  # Orbax raises errors of many classes
      raise self._failure(error) from error
    self._scores[step] = finite and finite[self._best_metric]
    return True

  def due(self, step: int) -> bool:
    """Whether `step` is a multiple of `save_interval`."""
    return step % self._interval == 0

  def improves(self, metrics: Mapping[str, float]) -> bool:
    """Whether a checkpoint with these metrics would be better than all others.
    """
    finite = self._finite(metrics)
    if finite is None:
      return False
    best = retention.best(self._scores, self._best_mode)
    lead = best is None or finite[self._best_metric] - self._scores[best]
    return lead > 0 if self._best_mode == "max" or best is None else lead < 0

  def wait(self) -> None:
    """Blocks until the save in progress is complete.

    Raises:
      OSError: it could not be written; earlier checkpoints are unchanged.
    """
    try:
      self._orbax.wait_until_finished()
    except Exception as error:  # Orbax raises errors of many classes
      raise self._failure(error) from error
    if self._pending is not None:
      self._pending = None
      self._prune()

  def latest_step(self) -> int | None:
    """Step of the newest checkpoint, including a save in progress, or None."""
    return max(self._scores, default=None)

  def complete_step(self) -> int | None:
    """Step of the newest complete checkpoint, or None; does not wait."""
    saving = self._orbax.is_saving_in_progress()
    return max((step for step in self._scores
                if not (saving and step == self._pending)), default=None)

  def best_step(self) -> int | None:
    """Step of the best checkpoint by `best_metric`; None if none has it.

    Raises:
      ValueError: the manager has no `best_metric`.
    """
    if not self._best_metric:
      raise ValueError("best_step() needs Manager(best_metric=...)")
    self.wait()
    return retention.best(self._scores, self._best_mode)

  def steps(self) -> list[int]:
    """Steps of all checkpoints, ascending; waits for a save in progress."""
    self.wait()
    return sorted(self._scores)

  def restore(
      self, step: int | None = None, *, like: Any, partial: bool = False,
      cast: bool = False) -> tuple[Any, dict[str, Any]]:
    """(arrays, host) of a checkpoint, placed on the shardings of `like`.

    The mesh may differ from the one that it was saved on.

    Args:
      step: of the checkpoint; None for the newest.
      like: tree of arrays or `jax.ShapeDtypeStruct` with shardings. A
        `ShapeDtypeStruct` without sharding goes to the first local device, an
        `np.ndarray` is restored as one.
      partial: restore only the leaves of `like` (parameters without the
        optimizer).
      cast: cast floats to the dtypes of `like`; by default a different dtype is
        an error.

    Raises:
      ValueError: there is no such checkpoint, or its arrays are not those of
        `like`; `faults.Unusable` if files of it are missing or truncated.
      OSError: it could not be read for another reason. In a multi-process run
        all processes raise the error, which says what to do.
    """
    steps = self.steps()
    step = step if step is not None else max(steps, default=None)
    if step is None or step not in steps:
      raise ValueError(
          f"no checkpoint of step {step} in {self.directory}; there are"
          f" {steps or 'none'}")
    wanted = trees.flatten(like)
    target = {n: _abstract(x) for n, x in wanted.items() if math.prod(x.shape)}
    got, host = {}, {}
    for number, part in enumerate(_parts(target)):
      fault = None
      try:
        if not number:
          self._check(step, self.described(step), target, partial, cast)
        restored = self._orbax.restore(step, args=ocp.args.Composite(
            arrays=ocp.args.PyTreeRestore(
                part, partial_restore=True, restore_args=(
                    ocp.checkpoint_utils.construct_restore_args(part))),
            host=ocp.args.JsonRestore()))
        got, host = got | restored.arrays, restored.host
        # Else what it was copied from stays while the next part is read.
        jax.block_until_ready(restored.arrays)
        del restored
        gc.collect()
      except Unlike:
        raise
      except Exception as error:  # Orbax raises errors of many classes
        fault = self._unread(step, steps, error)
        fault.__cause__ = error
      faults.together(fault)
    leaves = {n: _leaf(got.get(n), x) for n, x in wanted.items()}
    return trees.unflatten(like, leaves), host

  def described(self, step: int) -> dict[str, tuple]:
    """{dotted name: (shape, name of dtype)} of a checkpoint's arrays.

    Random keys are listed as their data; arrays of size zero are not listed.
    """
    saved = self._orbax.item_metadata(step)["arrays"]
    if saved is None:
      raise FileNotFoundError("the list of its arrays is missing")
    return {n: (tuple(m.shape), str(m.dtype)) for n, m in saved.tree.items()}

  def close(self) -> None:
    """Waits for saves and removals, then ends Orbax's threads.

    A KeyboardInterrupt skips the latter, which would wait again.
    """
    try:
      self.wait()
    except Exception:
      self._free()
      raise
    self._free()

  def _free(self) -> None:
    self._remover.wait()
    self._orbax.close()

  def _prune(self) -> None:
    stay = retention.kept(self._scores, self._keep, self._best_mode)
    gone = sorted(set(self._scores) - stay)
    self._scores = {s: self._scores[s] for s in sorted(stay)}
    if gone and jax.process_index() == 0:
      self._remover.remove([self.directory / str(step) for step in gone])

  def _score(self, step: int) -> float | None:
    saved = self._orbax.metrics(step) if self._best_metric else None
    return saved and saved.get(self._best_metric)

  def _unopened(self, error: Exception) -> Exception:
    """The error for a folder that could not be opened.

    Orbax reads the metrics of all checkpoints when it opens a folder, but does
    not say which checkpoint's are truncated: so look for it.
    """
    with contextlib.suppress(OSError):
      folders = {int(folder.name): folder for folder in self.directory.iterdir()
                 if folder.name.isdigit()}
      for step, folder in folders.items():
        path = folder / "metrics" / "metrics"
        try:
          if path.exists():
            json.loads(path.read_text())
        except ValueError as cut:
          return self._unread(step, list(folders), cut)
    return faults.opening(error, self.directory)

  def _finite(self, metrics: Mapping[str, float] | None) -> dict | None:
    if not self._best_metric:
      return None
    finite = {k: float(v) for k, v in (metrics or {}).items() if np.isfinite(v)}
    return finite if self._best_metric in finite else None

  def _check(
      self, step: int, stored: dict, target: dict, partial: bool, cast: bool
  ) -> None:
    described = {name: (tuple(leaf.shape), str(leaf.dtype))
                 for name, leaf in target.items()}
    if cast:
      stored, described = ({
          name: (shape, "float" if dtype in _FLOATS else dtype)
          for name, (shape, dtype) in of.items()} for of in (stored, described))
    if partial:
      stored = {n: d for n, d in stored.items() if n in described}
    lines = trees.mismatches(stored, described)
    if lines:
      raise Unlike(
          f"checkpoint {self.directory / str(step)} is of another run or model:"
          f"\n{trees.listed(lines)}\n"
          "It was not changed. Resume with the flags that made it, or choose"
          " another --workdir")

  def _failure(self, error: Exception) -> OSError:
    step, self._pending = self._pending, None
    self._scores.pop(step, None)
    if jax.process_index() == 0 and not io.is_remote(self.directory):
      part = self.directory / f"{step}{retention.UNFINISHED}"
      with contextlib.suppress(OSError):  # the disk may be read-only
        part.rmtree(missing_ok=True)
    number = faults.number(error) or errno.EIO
    left = []
    with contextlib.suppress(OSError):  # the disk may not answer
      left = retention.complete(self.directory)
    kept = (f"the earlier checkpoints ({left}) are intact" if left else
            "there is no earlier checkpoint")
    return OSError(
        number, f"could not write checkpoint {self.directory / str(step)}:"
        f" {faults.brief(error)}; {kept}: {io.remedy(number)}, then run the"
        " same command" + (" to resume" if left else ""))

  def _unread(
      self, step: int, steps: list[int], error: Exception) -> Exception:
    # Else tracebacks of Orbax's abandoned reads would hide the clear error.
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)
    earlier = max((s for s in steps if s < step), default=None)
    return faults.reading(
        error, self.directory / str(step), self._without or (
            "starts from the beginning, as there is no earlier one"
            if earlier is None else f"resumes after step {earlier}"))


def _options(
    best_metric: str, read_only: bool) -> ocp.CheckpointManagerOptions:
  policies = ocp.checkpoint_managers.preservation_policy
  return ocp.CheckpointManagerOptions(
      preservation_policy=policies.PreserveAll(),  # `retention` removes them
      # This makes Orbax store the metrics.
      best_fn=(lambda metrics: metrics[best_metric]) if best_metric else None,
      read_only=read_only, create=not read_only,
      cleanup_tmp_directories=not read_only, save_root_metadata=False,
      # All processes use the steps that process 0 finds.
      single_host_load_and_broadcast=True)


def _probe(directory: epath.Path, size: int) -> None:
  """Raises OSError if `directory` has no room for `size` bytes or is read-only.

  Orbax would notice only after starting threads, which then wait for minutes or
  print tracebacks of their own.
  """
  if not _has_room(directory, size):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
  if jax.process_index() or io.is_remote(directory):
    return
  path = directory / ".probe"
  try:
    path.write_bytes(b"\0" * 4096)
  finally:
    with contextlib.suppress(OSError):
      path.unlink(missing_ok=True)


def _has_room(directory: epath.Path, size: int) -> bool:
  return (jax.process_index() > 0 or io.is_remote(directory)
          or shutil.disk_usage(directory).free >= size)


def _is_key(leaf: Any) -> bool:
  return jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _data(leaf: Any) -> Any:
  return jax.random.key_data(leaf) if _is_key(leaf) else leaf


def _snapshot(leaf: Any) -> Any:
  """An array that can be written while `leaf` is donated.

  From other devices Orbax copies to the host. On a CPU it would write from the
  buffer itself, and an update that the buffer is donated to would wait for it.
  """
  on_cpu = isinstance(leaf, jax.Array) and all(
      device.platform == "cpu" for device in leaf.sharding.device_set)
  return jnp.copy(leaf) if on_cpu else leaf


def _abstract(leaf: Any) -> Any:
  """Shape, dtype and sharding to restore for `leaf`, as Orbax wants them."""
  if isinstance(leaf, (np.ndarray, np.generic)):
    return np.empty(leaf.shape, leaf.dtype)
  sharding = leaf.sharding or jax.sharding.SingleDeviceSharding(
      jax.local_devices()[0])
  shape, dtype = leaf.shape, leaf.dtype
  if _is_key(leaf):
    data = jax.eval_shape(
        jax.random.key_data, jax.ShapeDtypeStruct(shape, dtype))
    shape, dtype = data.shape, data.dtype
  return jax.ShapeDtypeStruct(shape, dtype, sharding=sharding)


def _parts(target: dict[str, Any]) -> list[dict[str, Any]]:
  """The leaves in groups that are restored one after the other.

  Orbax reads all leaves of a call at once, and each is on the host twice before
  it is on its devices. On a CPU that would be a second copy of the checkpoint.
  The largest come first, while little else is in memory.
  """
  sizes = {n: math.prod(x.shape) * x.dtype.itemsize for n, x in target.items()}
  most = max(_AT_ONCE, sum(sizes.values()) // 8)
  parts, held = [{}], 0
  for name in sorted(target, key=sizes.get, reverse=True):
    if parts[-1] and held + sizes[name] > most:
      parts, held = [*parts, {}], 0
    parts[-1][name] = target[name]
    held += sizes[name]
  return parts


def _leaf(got: Any, like: Any) -> Any:
  if got is None:
    if isinstance(like, np.ndarray):
      return np.zeros(like.shape, like.dtype)
    return jax.device_put(np.zeros(like.shape, like.dtype), like.sharding)
  if _is_key(like):
    return jax.random.wrap_key_data(got, impl=_key_impl(like))
  return got


def _key_impl(like: Any) -> Any:
  """The random generator of the keys of `like`, an array or its shape."""
  generators = []
  jax.eval_shape(lambda key: generators.append(jax.random.key_impl(key)), like)
  return generators[0]


def _drop_abandoned() -> None:
  """Silences reads and writes that Orbax abandons when one of them fails.

  They end in threads of TensorStore with tracebacks ("Event loop is closed")
  that would hide the clear error.
  """
  former = sys.unraisablehook
  if former.__module__ == __name__:
    return

  def hook(unraisable: sys.UnraisableHookArgs) -> None:
    if str(unraisable.exc_value) != "Event loop is closed":
      former(unraisable)

  sys.unraisablehook = hook


def _not_from_orbax(record: logging.LogRecord) -> bool:
  """Drops log records of Orbax about errors that are raised here anyway."""
  return f"{os.sep}orbax{os.sep}" not in record.pathname
