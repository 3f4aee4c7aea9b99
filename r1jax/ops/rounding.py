"""Rounding by chance, so that what is rounded away is not lost on average."""

from __future__ import annotations

import jax
import jax.numpy as jnp

_CUT = 16  # bits of float32 that bfloat16 lacks


def stochastic(x: jax.Array, key: jax.Array, dtype: str = "bfloat16"
               ) -> jax.Array:
  """x in bfloat16: one of its two neighbours, the nearer more often.

  The probability of a neighbour is one less its distance over the gap, so the
  mean is x; that of a number which bfloat16 has is that number. Parameters
  without float32 masters move with it by updates far below half a gap, which
  rounding to the nearest loses. Beyond the largest finite bfloat16 the upper
  neighbour is infinite.

  Sign and magnitude are apart in a float, and magnitudes are ordered like their
  bits, subnormal ones too: uniform bits are added below what is kept, and the
  sum is cut off. An element's bits depend on the key and its place alone, not
  on how a mesh splits the array.

  Args:
    x: any shape; read as float32.
    key: of this array and update; no two may share one.
    dtype: `bfloat16`; or `float32`, which returns x, for trees that have both.

  Raises:
    ValueError: another dtype.
  """
  x = x.astype(jnp.float32)
  if jnp.dtype(dtype) == jnp.float32:
    return x
  if jnp.dtype(dtype) != jnp.bfloat16:
    raise ValueError(f"dtype={dtype}: stochastic rounding is to bfloat16")
  bits = jax.lax.bitcast_convert_type(x, jnp.uint32)
  chance = jax.random.bits(key, x.shape, jnp.uint16).astype(jnp.uint32)
  kept = ((bits + chance) >> _CUT).astype(jnp.uint16)
  rounded = jax.lax.bitcast_convert_type(kept, jnp.bfloat16)
  # The bits of a NaN may lie in what is cut off, and leave an infinity.
  return jnp.where(jnp.isnan(x), jnp.asarray(jnp.nan, jnp.bfloat16), rounded)
