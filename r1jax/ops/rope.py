"""Rotary position embedding, with YaRN and Llama 3 frequency scaling."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np


def frequencies(dim: int, theta: float) -> np.ndarray:
  """theta^(-2i/dim) for i < dim/2, float64 [dim/2], radians per position."""
  return theta ** (-np.arange(0, dim, 2, dtype=np.float64) / dim)


def yarn(freqs: np.ndarray, theta: float, factor: float, original: int,
         beta_fast: float, beta_slow: float) -> np.ndarray:
  """YaRN by parts (arXiv:2309.00071): slow dimensions are stretched by factor.

  Dimensions that turn more than `beta_fast` times within the original context
  keep their frequency, those that turn less than `beta_slow` times are divided
  by `factor`, those between are blended linearly.

  Args:
    freqs: float64 [dim/2] from `frequencies`.
    theta: the base that made them.
    factor: new context / original context.
    original: positions of the original context.
    beta_fast: turns above which nothing changes.
    beta_slow: turns below which all is stretched.

  Returns:
    float64 [dim/2].
  """
  dim = 2 * len(freqs)

  def index_of(turns: float) -> float:
    return dim * math.log(original / (2 * math.pi * turns)) / (
        2 * math.log(theta))

  low = max(math.floor(index_of(beta_fast)), 0)
  high = min(math.ceil(index_of(beta_slow)), dim - 1)
  ramp = np.clip((np.arange(dim // 2) - low) / max(high - low, 1e-3), 0, 1)
  return freqs * (1 - ramp) + freqs / factor * ramp


def yarn_mscale(factor: float, mscale: float) -> float:
  """m = 0.1 * mscale * ln(factor) + 1; m^2 multiplies the softmax scale."""
  return 0.1 * mscale * math.log(factor) + 1 if factor > 1 else 1.0


def llama3(freqs: np.ndarray, factor: float, original: int, low_factor: float,
           high_factor: float) -> np.ndarray:
  """Llama 3.1's smooth stretch of the slow dimensions.

  Wavelengths longer than original/low_factor are stretched by `factor`, those
  shorter than original/high_factor are kept, those between are blended.
  """
  wavelengths = 2 * np.pi / freqs
  smooth = np.clip((original / wavelengths - low_factor)
                   / (high_factor - low_factor), 0, 1)
  return (1 - smooth) * freqs / factor + smooth * freqs


def angles(positions: jax.Array, freqs: np.ndarray, scale: float = 1.0
           ) -> tuple[jax.Array, jax.Array]:
  """(cos, sin) of position * frequency, times scale, float32 [..., dim/2]."""
  freqs32 = jnp.asarray(freqs, jnp.float32).reshape(
      (1,) * positions.ndim + (-1,))
  phase = positions[..., None].astype(jnp.float32) * freqs32
  return scale * jnp.cos(phase), scale * jnp.sin(phase)


def rotate_pairs(x: jax.Array, cos: jax.Array, sin: jax.Array) -> jax.Array:
  """Rotates adjacent pairs (2i, 2i+1), as DeepSeek does.

  Args:
    x: [..., heads, R].
    cos: float32 [..., R/2], without the heads axis.
    sin: like `cos`.

  Returns:
    The rotated array, dtype and shape of `x`.
  """
  pairs = x.astype(jnp.float32).reshape(*x.shape[:-1], -1, 2)
  a, b = pairs[..., 0], pairs[..., 1]
  c, s = cos[..., None, :], sin[..., None, :]
  turned = jnp.stack([a * c - b * s, a * s + b * c], -1)
  return turned.reshape(x.shape).astype(x.dtype)


def rotate_halves(x: jax.Array, cos: jax.Array, sin: jax.Array) -> jax.Array:
  """Rotates (i, i + dim/2), as Qwen and Llama do; shapes as `rotate_pairs`."""
  a, b = jnp.split(x.astype(jnp.float32), 2, axis=-1)
  c, s = cos[..., None, :], sin[..., None, :]
  return jnp.concatenate([a * c - b * s, b * c + a * s], -1).astype(x.dtype)
