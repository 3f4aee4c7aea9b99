"""Stochastic rounding to bfloat16, which is exact on average."""

from __future__ import annotations

import jax
import jax.numpy as jnp

_CUT = 16  # bits of float32 that bfloat16 lacks


def stochastic(x: jax.Array, key: jax.Array, dtype: str = "bfloat16"
               ) -> jax.Array:
  """Rounds x to one of its two neighbours in bfloat16, at random.

  The probability of a neighbour is 1 - its distance / the gap between the two,
  so the expectation is x; numbers that bfloat16 represents stay as they are.
  With it, parameters without float32 masters follow updates far below half a
  gap, which rounding to nearest loses. Above the largest finite bfloat16 the
  upper neighbour is infinity.

  Method: 16 uniform random bits are added to the 16 low bits of the float32,
  and the low bits of the sum are cut off. That is right because magnitudes of
  floats, subnormal ones too, are ordered like their bits. The random bits of an
  element depend only on the key and its index, not on the sharding.

  Args:
    x: any shape; converted to float32.
    key: for this array and update; it must not be used for another.
    dtype: `bfloat16`; or `float32`, which returns x in float32, for trees that
      have both.

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
  # If all set mantissa bits of a NaN are cut off, infinity would be left.
  return jnp.where(jnp.isnan(x), jnp.asarray(jnp.nan, jnp.bfloat16), rounded)
