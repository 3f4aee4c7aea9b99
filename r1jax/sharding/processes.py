"""What the host side of a process needs of the other processes.

Every process works on a part of its own of each list of rows (questions, their
samples, packed rows): part p of N, in order, whatever mesh the rows lie on.
`rows` lays the parts of all processes on a mesh as one array, `own_rows` brings
a process's part back. What moves are ids and numbers, never parameters, so no
process has to hold the rows of the others, and a mesh may split tensors or
sequences across processes.

Every process calls these functions in the same order. With one process each of
them is trivial.
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

# Messages are padded to powers of two, so that few programs are compiled.
_SHORTEST = 1024


def is_writer() -> bool:
  """Whether this process writes what is written once."""
  return jax.process_index() == 0


def suffix() -> str:
  """What this process adds to the names of files that each writes for itself.
  """
  return "" if is_writer() else f".process_{jax.process_index()}"


def part(items: Sequence[T], what: str = "rows") -> Sequence[T]:
  """This process's part of items that all processes know; needs no other.

  Raises:
    ValueError: they do not divide over the processes; names `what`.
  """
  count = jax.process_count()
  check(len(items) % count == 0, f"{len(items)} {what} do not divide over"
        f" {count} processes; make them a multiple of that")
  size = len(items) // count
  return items[jax.process_index() * size:][:size]


def gather(value: Any) -> list[Any]:
  """The JSON-ready values of all processes, in order, in each of them."""
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
  """How many processors are for this process, at least 1.

  Those that it may use, each divided by the processes of this run that may use
  the same one: eight on a machine of 96 have 12 each, bound to their own or
  not.
  """
  if hasattr(os, "sched_getaffinity"):
    own = sorted(os.sched_getaffinity(0))
  else:  # macOS
    own = list(range(os.cpu_count() or 1))
  # Machines may have the same name, but no two systems the same start.
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
  """What `action` gives or raises in process 0, where alone it runs.

  Args:
    action: its result is JSON-ready.

  Raises:
    ValueError, OSError: as `action`, in every process.
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
  """(what makes an OSError anew, the message), each None where there is none.
  """
  if error is None or getattr(error, "errno", None) is None:
    return None, error and str(error)
  name = error.filename and os.fspath(error.filename)
  return (error.errno, error.strerror, name), str(error)


def rows(tree: Any, sharding: NamedSharding) -> Any:
  """Global arrays whose rows are those of all processes, one after the other.

  Args:
    tree: of NumPy arrays [rows of this process, ...], of the same shapes in
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
  with jax.set_mesh(sharding.mesh):  # another one may be set
    return jax.device_put(whole, sharding)


def own_rows(tree: Any) -> Any:
  """The rows of this process, as `part` counts them, as NumPy arrays.

  Raises:
    ValueError: the rows do not divide over the processes.
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
  """Global arrays from NumPy arrays that every process has alike.

  Each process places what its devices hold. Nothing is compared.

  Args:
    tree: of arrays, on the host or on this process's default device.
    sharding: of all arrays, or a tree of one for each.
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
  """The array of which each process has some entries and zeros elsewhere.

  Bits are added, so that every value arrives as it was.

  Args:
    array: of any dtype, of one shape; no entry is held by two processes.
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
  """All of an array, on the host of every process."""
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
  """All devices, those of a process in a row."""
  devices = sorted(jax.devices(), key=lambda d: (d.process_index, d.id))
  return Mesh(np.array(devices).reshape(jax.process_count(), -1),
              ("process", "device"))
