"""Reductions over the sequences that are packed into a batch."""

from __future__ import annotations

import jax
import jax.numpy as jnp


def per_sequence(x_BT: jax.Array, segments_BT: jax.Array) -> jax.Array:
  """Sum over each segment of each row, [B, T + 1]; column 0 is padding.

  Args:
    x_BT: values.
    segments_BT: int32 in [0, T]; 0 is padding.
  """
  bins = x_BT.shape[1] + 1

  def row(x_T, segments_T):
    return jax.ops.segment_sum(x_T, segments_T, num_segments=bins)

  return jax.vmap(row)(x_BT, segments_BT)


def per_token(sums_BT1: jax.Array, segments_BT: jax.Array) -> jax.Array:
  """The entry of each token's segment in a result of `per_sequence`, [B, T]."""
  return jnp.take_along_axis(sums_BT1, segments_BT, axis=1)


def count(mask_BT: jax.Array, segments_BT: jax.Array) -> jax.Array:
  """Number of sequences with at least one unmasked token, float32 scalar."""
  kept = jnp.where(segments_BT > 0, mask_BT != 0, False)
  tokens = per_sequence(kept.astype(jnp.float32), segments_BT)
  return jnp.sum((tokens > 0).astype(jnp.float32))
