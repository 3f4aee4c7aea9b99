"""Copies of prompts' KV caches, into rows or beside them."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from r1jax.ops import moving


def copied(cache: Any, prompts: Any, fill_B: jax.Array, sources_B: jax.Array,
           lanes: int, backend: str) -> Any:
  """`cache` with prompts copied to the first slots of some of its rows.

  Args:
    cache: tree of arrays with B rows, equally many of each lane.
    prompts: the same tree of the prefilled prompts, with equally many prompts
      of each lane and at most as many slots.
    fill_B: bool, rows that take a copy.
    sources_B: int32, index of its prompt among the lane's prefilled prompts.
    lanes: number of lanes.
    backend: a JAX backend (`cpu`, `gpu`, `tpu`).
  """
  fill_SR, sources_SR = (x.reshape(lanes, -1) for x in (fill_B, sources_B))
  order_SR = jnp.argsort(~fill_SR, axis=1, stable=True)
  counts_S = jnp.sum(fill_SR, 1)

  def by_lane(x):
    return x.reshape(lanes, x.shape[0] // lanes, *x.shape[1:])

  def one(i, cache, prompts):
    """Inserts the i-th prompt of every lane that has one."""
    row_S = order_SR[:, i]
    source_S = jnp.take_along_axis(sources_SR, row_S[:, None], 1)[:, 0]
    at = row_S, source_S, i < counts_S
    if lanes == 1:  # a plain copy; under vmap it becomes a scatter
      return jax.tree.map(
          lambda to, new: _put(to, new, *(x[0] for x in at)), cache, prompts)
    return jax.tree.map(
        lambda to, new: jax.vmap(_put)(
            by_lane(to), by_lane(new), *at).reshape(to.shape),
        cache, prompts)

  return moving.moved(
      backend, lambda cache, prompts: jax.lax.fori_loop(
          0, jnp.max(counts_S), lambda i, cache: one(i, cache, prompts),
          cache), cache, prompts)


def _put(to: jax.Array, new: jax.Array, row: jax.Array, source: jax.Array,
         active: jax.Array) -> jax.Array:
  """`to` with the first slots of `row` copied from `source` of `new` if active.
  """
  part = jax.lax.dynamic_index_in_dim(new, source)
  at = (row,) + (jnp.int32(0),) * (to.ndim - 1)
  now = jax.lax.dynamic_slice(to, at, part.shape)
  return jax.lax.dynamic_update_slice(to, jnp.where(active, part, now), at)
