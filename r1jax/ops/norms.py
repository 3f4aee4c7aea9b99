"""RMS normalisation."""

from __future__ import annotations

import jax
import jax.numpy as jnp


def rms_norm(x: jax.Array, scale: jax.Array, eps: float) -> jax.Array:
  """RMSNorm over the last axis: x / sqrt(mean(x^2) + eps) * scale.

  Computed in float32; the result has the dtype of `x`.

  Args:
    x: [..., D].
    scale: [D].
    eps: added to the mean square.
  """
  x32 = x.astype(jnp.float32)
  inverse = jax.lax.rsqrt(jnp.mean(x32 * x32, -1, keepdims=True) + eps)
  scale32 = scale.astype(jnp.float32).reshape((1,) * (x.ndim - 1) + (-1,))
  return (x32 * inverse * scale32).astype(x.dtype)
