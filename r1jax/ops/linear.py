"""Matrix products over flattened tokens."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp

from r1jax.sharding import mesh, rules


def linear(x: jax.Array, w: jax.Array, n_in: int = 1,
           precision: jax.lax.Precision | None = None) -> jax.Array:
  """Contracts the last `n_in` axes of `x` with the first `n_in` of `w`.

  On the CPU all other axes are flattened to two dimensions around the product,
  which is faster there. Elsewhere they stay: rows and positions that are split
  over different axes of a mesh have no common flat order.

  Args:
    x: [..., in...], the compute dtype.
    w: [in..., out...], cast to the dtype of `x`.
    n_in: number of contracted axes.
    precision: of the product.

  Returns:
    [..., out...] in the dtype of `x`.
  """
  w = w.astype(x.dtype)
  if mesh.backend() != "cpu" or rules.free_axes().get("sequence", 1) > 1:
    return jnp.tensordot(x, w, n_in, precision=precision)
  lead, inner = x.shape[:x.ndim - n_in], w.shape[:n_in]
  out = w.shape[n_in:]
  x_2d = x.reshape(math.prod(lead), math.prod(inner))
  w_2d = w.reshape(math.prod(inner), math.prod(out))
  return jnp.dot(x_2d, w_2d, precision=precision).reshape(*lead, *out)


def swiglu(x: jax.Array, w_gate: jax.Array, w_up: jax.Array,
           w_down: jax.Array) -> jax.Array:
  """Gated feed-forward: W_down(silu(W_gate x) * W_up x). x [..., D] -> same."""
  return linear(gated(linear(x, w_gate), linear(x, w_up)), w_down)


@jax.custom_vjp
def gated(gate: jax.Array, up: jax.Array) -> jax.Array:
  """silu(gate) * up; the backward pass saves nothing but the two operands.

  Left to itself, autodiff keeps three arrays more of the feed-forward width.
  """
  return jax.nn.silu(gate) * up


def _gated_forward(gate, up):
  return gated(gate, up), (gate, up)


def _gated_backward(saved, dout):
  gate, up = saved
  sigmoid = jax.nn.sigmoid(gate)
  silu = gate * sigmoid
  # d silu / d gate = sigmoid + silu * (1 - sigmoid)
  return dout * up * (sigmoid + silu * (1 - sigmoid)), dout * silu


gated.defvjp(_gated_forward, _gated_backward)
