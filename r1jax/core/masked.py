"""Reductions over the entries that a mask keeps.

The mask is applied before and after any nonlinearity: masking only afterwards
lets a non-finite value at a masked entry poison the gradient.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp


def fill(x: jax.Array, mask: jax.Array, value: float = 0.0) -> jax.Array:
  """`x` where the mask is non-zero, else `value`; same shape and dtype."""
  return jnp.where(mask != 0, x, jnp.asarray(value, x.dtype))


def total(x: jax.Array, mask: jax.Array) -> tuple[jax.Array, jax.Array]:
  """(sum of x over kept entries, number of kept entries), float32 scalars."""
  kept = fill(x.astype(jnp.float32), mask)
  return jnp.sum(kept), jnp.sum((mask != 0).astype(jnp.float32))


def maximum(x: jax.Array, mask: jax.Array) -> jax.Array:
  """Largest kept entry, float32 scalar; 0 where nothing is kept."""
  low = fill(x.astype(jnp.float32), mask, -jnp.inf)
  return jnp.where(jnp.any(mask != 0), jnp.max(low), 0.0)


def mean(pair: tuple[jax.Array, jax.Array]) -> jax.Array:
  """sum / weight of a (sum, weight) pair; 0 where the weight is 0."""
  value, weight = pair
  return jnp.where(weight > 0, value / jnp.where(weight > 0, weight, 1.0), 0.0)
