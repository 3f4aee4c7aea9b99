"""Moves elements of arrays, on a CPU as bits where they are bfloat16.

XLA's CPU compiler has no bfloat16: it moves, stacks and slices such arrays as
float32 copies. It leaves integers as they are.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp


def moved(backend: str, move: Callable[..., Any], to: Any, *others: Any) -> Any:
  """`move(to, *others)`, for a loop that only moves elements.

  To update a few elements of bfloat16, a CPU converts the array to float32 and
  back, again in every turn of the loop. Bits are moved in place. (One update
  outside of a loop gains nothing.)

  Args:
    backend: a JAX backend (`cpu`, `gpu`, `tpu`).
    move: a function of these trees.
    to, others: trees of arrays, none of them uint16.
  """
  return values(move(*(bits(backend, tree) for tree in (to, *others))))


def bits(backend: str, tree: Any) -> Any:
  """The tree, on a CPU with bfloat16 arrays as uint16, with the same bits.

  Args:
    backend: a JAX backend.
    tree: of arrays, none of them uint16.
  """
  return _cast(tree, jnp.bfloat16, jnp.uint16) if backend == "cpu" else tree


def values(tree: Any) -> Any:
  """The inverse of `bits`."""
  return _cast(tree, jnp.uint16, jnp.bfloat16)


def rows(backend: str, x: jax.Array, index_N: jax.Array) -> jax.Array:
  """`x[index_N]`; of large arrays on a TPU one after the other.

  A gather of rows would first lay all of some arrays out anew.
  """
  if backend != "tpu" or x.ndim < 3:
    return x[index_N]
  return jax.lax.map(lambda index: x[index], index_N)


def _cast(tree: Any, old: Any, new: Any) -> Any:
  return jax.tree.map(lambda x: jax.lax.bitcast_convert_type(x, new)
                      if x.dtype == old else x, tree)
