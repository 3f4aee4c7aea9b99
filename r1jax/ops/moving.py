"""Moves elements of arrays, on a CPU as bits where they are bfloat16."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp


def moved(backend: str, move: Callable[..., Any], to: Any, *others: Any) -> Any:
  """`move(to, *others)`, for a loop that only moves elements.

  XLA's CPU compiler has no bfloat16. To update a few elements it converts the
  array to float32 and back, again in every turn of a loop. As uint16 the same
  bits are moved in place. (One update outside of a loop gains nothing.)

  Args:
    backend: a JAX backend (`cpu`, `gpu`, `tpu`).
    move: a function of these trees; its result has the dtypes of `to`.
    to, others: trees of arrays.
  """
  if backend != "cpu":
    return move(to, *others)
  found = move(*(jax.tree.map(_bits, tree) for tree in (to, *others)))
  return jax.tree.map(
      lambda old, x: jax.lax.bitcast_convert_type(x, old.dtype)
      if old.dtype == jnp.bfloat16 else x, to, found)


def _bits(x: jax.Array) -> jax.Array:
  if x.dtype != jnp.bfloat16:
    return x
  return jax.lax.bitcast_convert_type(x, jnp.uint16)
