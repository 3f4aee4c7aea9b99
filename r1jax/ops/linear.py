"""Matrix products over flattened tokens, plain and with an adapter beside."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.struct
import jax
import jax.numpy as jnp

HIGHEST = jax.lax.Precision.HIGHEST


class Products(NamedTuple):
  """How a matrix product over tokens is computed.

  Attributes:
    precision: see `precise`.
    flat: whether all axes but the contracted ones are flattened to two
      dimensions around the product, see `mesh.Place.flat`.
  """

  precision: jax.lax.Precision | None = None
  flat: bool = False


PLAIN = Products()


@flax.struct.dataclass
class Adapted:
  """The matrix W + scale A B, which nothing ever forms (arXiv:2106.09685).

  It stands in a tree of parameters where W stood, stacked as W was. A sum in
  W's dtype would lose most of a young adapter: in bfloat16 a change of less
  than 1/512 of a weight is rounded away. Here a product adds what both factors
  of the adapter make of its operand, in float32, before it is rounded.

  Attributes:
    w: [lead..., in..., out...], of any dtype. It is the first leaf, because
      Flax compares the first leaf with the parameter that a module declares.
    a: float32 [lead..., in..., r].
    b: float32 [lead..., r, out...].
    scale: alpha / rank.
  """

  w: Any
  a: Any
  b: Any
  scale: float = flax.struct.field(pytree_node=False)

  @property
  def shape(self) -> tuple[int, ...]:
    return self.w.shape

  @property
  def ndim(self) -> int:
    return self.w.ndim

  def axes(self, names: tuple[str | None, ...]) -> Adapted:
    """Logical axes of the leaves from those of W; the rank is whole."""
    lead = self.a.ndim + self.b.ndim - 2 - self.w.ndim
    split = self.a.ndim - 1
    return self.replace(w=names, a=(*names[:split], None),
                        b=(*names[:lead], None, *names[split:]))


def is_adapted(node: Any) -> bool:
  """For `is_leaf` where a matrix and its adapter are one thing."""
  return isinstance(node, Adapted)


def cast(w: Any, dtype: Any) -> Any:
  """A matrix in another dtype; of an adapted one the base, for A and B stay."""
  return w.replace(w=w.w.astype(dtype)) if is_adapted(w) else w.astype(dtype)


def precise(precision: jax.lax.Precision | None, dtype: Any
            ) -> jax.lax.Precision:
  """`precision`, or that of the dtype: float32 in full, else the default.

  By default an accelerator computes products of float32 arrays in TF32 (GPU)
  or one pass of bfloat16 (TPU).
  """
  if precision is not None:
    return precision
  return HIGHEST if dtype == jnp.float32 else jax.lax.Precision.DEFAULT


def linear(x: jax.Array, w: jax.Array | Adapted, n_in: int = 1,
           how: Products = PLAIN, scale: float = 1.0) -> jax.Array:
  """Contracts the last `n_in` axes of `x` with the first `n_in` of `w`.

  Args:
    x: [..., in...], the compute dtype.
    w: [in..., out...], cast to the dtype of `x`.
    n_in: number of contracted axes.
    how: the product is computed.
    scale: multiplies the result, in float32.

  Returns:
    [..., out...] in the dtype of `x`.
  """
  first, second = (
      functools.partial(_contract, n, how.flat) for n in (n_in, 1))
  return times(first, second, how.precision, x, w, scale=scale)


def times(first: Callable[..., jax.Array], second: Callable[..., jax.Array],
          precision: jax.lax.Precision | None, x: jax.Array,
          w: jax.Array | Adapted, *rest: Any, scale: float = 1.0
          ) -> jax.Array:
  """The product of `x` and a matrix, or its base and adapter, in x's dtype.

  With an adapter: x W + scale (x A) B, the factors' products in float32, the
  sum in float32 and rounded once.

  Args:
    first: (x, w, *rest, precision=, dtype=) -> x w, accumulated in float32,
      as `dtype`.
    second: the same for (x A) and B; another where the axes differ.
    precision: of x W; the adapter's products are float32 on every backend.
    x: any dtype.
    w: the matrix.
    rest: integer arrays that both products take.
    scale: multiplies the result before it is rounded.
  """
  precision = precise(precision, x.dtype)
  if isinstance(w, Adapted):
    exact = dict(precision=HIGHEST, dtype=jnp.float32)
    low32 = first(x.astype(jnp.float32), w.a, *rest, **exact)
    y32 = wide(first, precision, x, w.w.astype(x.dtype), *rest)
    y32 += w.scale * second(low32, w.b, *rest, **exact)
  elif scale == 1.0:
    return first(x, w.astype(x.dtype), *rest, precision=precision,
                 dtype=x.dtype)
  else:
    y32 = wide(first, precision, x, w.astype(x.dtype), *rest)
  return (scale * y32).astype(x.dtype)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def wide(product: Callable[..., jax.Array], precision: jax.lax.Precision,
         x: jax.Array, w: jax.Array, *rest: Any) -> jax.Array:
  """`product` before its result is rounded: float32.

  Backwards it is the plain product: autodiff would multiply a float32 gradient
  with bfloat16 matrices, which hardware does in float32.
  """
  return product(x, w, *rest, precision=precision, dtype=jnp.float32)


def _wide_forward(product, precision, x, w, *rest):
  return wide(product, precision, x, w, *rest), (x, w, rest)


def _wide_backward(product, precision, saved, dy):
  x, w, rest = saved
  _, transpose = jax.vjp(lambda x, w: product(
      x, w, *rest, precision=precision, dtype=x.dtype), x, w)
  return *transpose(dy.astype(x.dtype)), *(None for _ in rest)


wide.defvjp(_wide_forward, _wide_backward)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def kernel(f: Callable[..., jax.Array],
           precision: jax.lax.Precision | None, x: jax.Array, *rest: Any
           ) -> jax.Array:
  """f(x, *rest), a kernel that cannot be told the precision of its products.

  They take the one that is ambient where they are traced, and so those of its
  gradients, which are traced later, elsewhere. Kernels know two: the default,
  which is exact for bfloat16 operands, and for float32 the highest.

  Args:
    f: any function of arrays, which it takes as arguments only.
    precision: see `precise`.
    x: the array whose dtype decides.
    rest: other arrays.
  """
  with _ambient(precision, x.dtype):
    return f(x, *rest)


def _kernel_forward(f, precision, x, *rest):
  with _ambient(precision, x.dtype):
    return jax.vjp(f, x, *rest)


def _kernel_backward(f, precision, transpose, dy):
  del f
  with _ambient(precision, dy.dtype):
    return transpose(dy)


kernel.defvjp(_kernel_forward, _kernel_backward)


def _ambient(precision, dtype):
  exact = dtype == jnp.float32 and (
      precise(precision, dtype) != jax.lax.Precision.DEFAULT)
  return jax.default_matmul_precision("highest" if exact else None)


def _contract(n_in, flat, x, w, *, precision, dtype):
  how = dict(precision=precision, preferred_element_type=dtype)
  if not flat:
    return jnp.tensordot(x, w, n_in, **how)
  lead, inner = x.shape[:x.ndim - n_in], w.shape[:n_in]
  out = w.shape[n_in:]
  x_2d = x.reshape(math.prod(lead), math.prod(inner))
  w_2d = w.reshape(math.prod(inner), math.prod(out))
  return jnp.dot(x_2d, w_2d, **how).reshape(*lead, *out)


def swiglu(x: jax.Array, w_gate: jax.Array, w_up: jax.Array,
           w_down: jax.Array, how: Products = PLAIN, activation: str = "silu"
           ) -> jax.Array:
  """Gated feed-forward: W_down(silu(W_gate x) * W_up x). x [..., D] -> same.

  With activation="gelu" it is GELU by its approximation with tanh, as Gemma's.
  """
  gate, up = (linear(x, w, how=how) for w in (w_gate, w_up))
  if activation == "gelu":
    return linear(jax.nn.gelu(gate, approximate=True) * up, w_down, how=how)
  return linear(gated(gate, up), w_down, how=how)


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
