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
  """YaRN's frequencies ("NTK-by-parts", arXiv:2309.00071).

  Dimensions that rotate more than `beta_fast` times within the original context
  keep their frequency, those that rotate less than `beta_slow` times have it
  divided by `factor`; between them it is interpolated linearly.

  Args:
    freqs: float64 [dim/2] from `frequencies`.
    theta: the base that they were made with.
    factor: new context length / original context length.
    original: length of the original context, positions.
    beta_fast: rotations above which frequencies are kept.
    beta_slow: rotations below which they are divided by `factor`.

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
  """Frequencies scaled as in Llama 3.1, float64 [dim/2].

  Those with wavelengths longer than original/low_factor are divided by
  `factor`, those with wavelengths shorter than original/high_factor are kept,
  those between are interpolated.
  """
  wavelengths = 2 * np.pi / freqs
  smooth = np.clip((original / wavelengths - low_factor)
                   / (high_factor - low_factor), 0, 1)
  return (1 - smooth) * freqs / factor + smooth * freqs


def angles(positions: jax.Array, freqs: np.ndarray, scale: float = 1.0
           ) -> tuple[jax.Array, jax.Array]:
  """scale * cos and scale * sin of position * frequency, float32 [..., dim/2].

  Args:
    positions: int32 [...].
    freqs: float64 [dim/2], radians per position.
    scale: factor on both.
  """
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
    The rotated array, of the dtype and shape of `x`.
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
