"""Exchange of host data between the processes of a run.

Every list of rows (questions, their samples, packed rows) is split over the N
processes: process p works on the p-th of N equal parts, whatever the mesh is.
`rows` makes one global array on a mesh from the parts of all processes,
`own_rows` returns the part of a process to its host. Only token ids and numbers
are moved, never parameters. So no process has to hold the rows of the others,
and a mesh may split tensors or sequences across processes.

All processes must call these functions in the same order. With a single process
each of them is trivial.
"""

from __future__ import annotations

import collections
import fractions
import functools
import json
import os
import pathlib
import platform
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from r1jax.core.config import check
from r1jax.sharding import watchdog

T = TypeVar("T")

# Bytes of the shortest message. Messages are padded to powers of two, so that
# few programs are compiled.
_SHORTEST = 1024


def is_writer() -> bool:
  """Whether this is process 0, which writes the files that exist once."""
  return jax.process_index() == 0


def suffix() -> str:
  """Suffix of the files that every process writes for itself; "" in process 0.
  """
  return "" if is_writer() else f".process_{jax.process_index()}"


def part(items: Sequence[T], what: str = "rows") -> Sequence[T]:
  """This process's part of a list that all processes have; no communication.

  Raises:
    ValueError: the number of items is no multiple of the number of processes;
      the message calls them `what`.
  """
  count = jax.process_count()
  check(len(items) % count == 0, f"{len(items)} {what} do not divide over"
        f" {count} processes; make them a multiple of that")
  size = len(items) // count
  return items[jax.process_index() * size:][:size]


def gather(value: Any) -> list[Any]:
  """The values of all processes, in order of processes, in each of them.

  Args:
    value: JSON-serialisable.
  """
  watchdog.mark()
  data = json.dumps(value).encode()
  if jax.process_count() == 1:
    return [json.loads(data)]
  sizes = multihost_utils.process_allgather(np.array([len(data)], np.int32))
  sizes = sizes.reshape(-1).tolist()
  room = max(_SHORTEST, 1 << (max(sizes) - 1).bit_length())
  padded = np.zeros(room, np.uint8)
  padded[:len(data)] = np.frombuffer(data, np.uint8)
  gathered = multihost_utils.process_allgather(padded)
  return [json.loads(row[:size].tobytes())
          for row, size in zip(gathered, sizes)]


def processors() -> int:
  """This process's share of the machine's processors, at least 1.

  A processor that several processes of this run may use is divided among them:
  eight processes on a machine with 96 have 12 each, pinned or not.
  """
  if hasattr(os, "sched_getaffinity"):
    own = sorted(os.sched_getaffinity(0))
  else:  # macOS
    own = list(range(os.cpu_count() or 1))
  # Machines may have the same name, but the id of a boot is unique.
  start = pathlib.Path("/proc/sys/kernel/random/boot_id")
  machine = start.read_text() if start.exists() else platform.node()
  users = collections.Counter(
      x for where, theirs in gather([machine, own]) if where == machine
      for x in theirs)
  return max(1, int(sum(fractions.Fraction(1, users[x]) for x in own)))


def largest(*numbers: int) -> tuple[int, ...]:
  """The largest of each number (below 2**31) over all processes."""
  watchdog.mark()
  if jax.process_count() == 1:
    return numbers
  gathered = multihost_utils.process_allgather(np.array(numbers, np.int32))
  return tuple(gathered.reshape(-1, len(numbers)).max(0).tolist())


def from_writer(action: Callable[[], T]) -> T:
  """Runs `action` in process 0; returns its result, or raises, in all of them.

  Args:
    action: its result must be JSON-serialisable.

  Raises:
    ValueError, OSError: what `action` raised, in every process.
  """
  if jax.process_count() == 1:
    return action()
  value, error = None, None
  if is_writer():
    try:
      value = action()
    except (ValueError, OSError) as caught:
      error = caught
  value, system, message = gather([value, *_told(error)])[0]
  if error is not None:
    raise error
  if message is not None:
    raise ValueError(message) if system is None else OSError(*system)
  return value


def _told(error: ValueError | OSError | None) -> tuple[Any, str | None]:
  """(arguments to rebuild an OSError, message), None where there is none."""
  if error is None or getattr(error, "errno", None) is None:
    return None, error and str(error)
  name = error.filename and os.fspath(error.filename)
  return (error.errno, error.strerror, name), str(error)


def rows(tree: Any, sharding: NamedSharding) -> Any:
  """Global arrays of the rows of all processes, in order of processes.

  Args:
    tree: of NumPy arrays [rows of this process, ...], with the same shapes in
      every process.
    sharding: of the global arrays.
  """
  count = jax.process_count()
  if count == 1:
    return jax.device_put(tree, sharding)
  ours = NamedSharding(_by_process(), PartitionSpec("process"))
  whole = jax.tree.map(
      lambda x: jax.make_array_from_process_local_data(
          ours, x, (count * len(x), *x.shape[1:])), tree)
  with jax.set_mesh(sharding.mesh):  # the current mesh may be another one
    return jax.device_put(whole, sharding)


def own_rows(tree: Any) -> Any:
  """The rows of this process, split as by `part`, as NumPy arrays.

  Args:
    tree: of global arrays [rows of all processes, ...].

  Raises:
    ValueError: the number of rows is no multiple of that of processes.
  """
  count = jax.process_count()
  if count == 1:
    return jax.device_get(tree)
  for x in jax.tree.leaves(tree):
    check(len(x) % count == 0, f"{len(x)} rows do not divide over {count}"
          " processes; make them a multiple of that")
  mesh = _by_process()
  with jax.set_mesh(mesh):
    ours = jax.device_put(tree, NamedSharding(mesh, PartitionSpec("process")))
  return jax.tree.map(lambda x: np.asarray(x.addressable_data(0)), ours)


def same(tree: Any, sharding: Any) -> Any:
  """Global arrays from arrays that are the same in every process.

  Each process copies to its devices what they hold. Whether the processes'
  arrays are equal is not checked.

  Args:
    tree: of arrays, on the host or on this process's default device.
    sharding: one for all arrays, or a tree with one for each.
  """
  if jax.process_count() == 1:
    return jax.device_put(tree, sharding)

  def place(x, to):
    x = np.asarray(x)
    return jax.make_array_from_callback(x.shape, to, lambda index: x[index])

  if isinstance(sharding, NamedSharding):
    return jax.tree.map(lambda x: place(x, sharding), tree)
  return jax.tree.map(place, tree, sharding)


def joined(array: np.ndarray) -> np.ndarray:
  """Merges arrays of which each process has some entries, and zeros elsewhere.

  The bytes are summed as integers, so every value arrives exactly.

  Args:
    array: of any dtype, with the same shape in all processes; an entry is
      non-zero in at most one of them.
  """
  if jax.process_count() == 1:
    return array
  array = np.ascontiguousarray(array)
  mesh = _by_process()
  with jax.set_mesh(mesh):
    bits = jax.make_array_from_process_local_data(
        NamedSharding(mesh, PartitionSpec("process")),
        array.reshape(-1).view(np.uint8)[None])
    total = _summed(bits)
  return np.asarray(total).view(array.dtype).reshape(array.shape)


def whole(array: jax.Array | np.ndarray) -> np.ndarray:
  """The whole of a global array, on the host of every process."""
  if not isinstance(array, jax.Array) or array.is_fully_addressable:
    return np.asarray(array)
  with jax.set_mesh(array.sharding.mesh):
    return np.asarray(jax.device_put(
        array, NamedSharding(array.sharding.mesh, PartitionSpec())))


@jax.jit
def _summed(bits):
  return jax.lax.with_sharding_constraint(
      jnp.sum(bits, 0, dtype=bits.dtype), PartitionSpec())


@functools.cache
def _by_process() -> Mesh:
  """A mesh [process, device of the process] of all devices."""
  devices = sorted(jax.devices(), key=lambda d: (d.process_index, d.id))
  return Mesh(np.array(devices).reshape(jax.process_count(), -1),
              ("process", "device"))
