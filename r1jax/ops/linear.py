"""Matrix products of activations with weights, plain or with a LoRA adapter."""

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
    flat: whether operands are reshaped to two dimensions for the product, see
      `mesh.Place.flat`.
    widened: whether the product of bfloat16 arrays is float32 before it is
      rounded, see `times`. Then no float32 copy of a matrix is made, but what
      is kept for a gradient is float32.
  """

  precision: jax.lax.Precision | None = None
  flat: bool = False
  widened: bool = False


PLAIN = Products()


@flax.struct.dataclass
class Adapted:
  """The matrix W + scale A B (LoRA, arXiv:2106.09685), kept as three arrays.

  It replaces W in a tree of parameters, with the same stacking. The sum is
  never formed: in W's dtype it would lose most of an adapter early in training
  (in bfloat16 a change of less than 1/512 of a weight is rounded away). Instead
  a product x (W + scale A B) is computed as x W + scale (x A) B, added in
  float32 and then rounded.

  Attributes:
    w: [lead..., in..., out...], of any dtype. It must be the first leaf, which
      Flax compares with the parameter that a module declares.
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
    """Logical axes of the leaves, given those of W; the rank is not split."""
    lead = self.a.ndim + self.b.ndim - 2 - self.w.ndim
    split = self.a.ndim - 1
    return self.replace(w=names, a=(*names[:split], None),
                        b=(*names[:lead], None, *names[split:]))


def is_adapted(node: Any) -> bool:
  """Whether a node is an `Adapted`; for `is_leaf` of tree functions."""
  return isinstance(node, Adapted)


def cast(w: Any, dtype: Any) -> Any:
  """A matrix in another dtype; of an `Adapted` only W is cast."""
  return w.replace(w=w.w.astype(dtype)) if is_adapted(w) else w.astype(dtype)


def precise(precision: jax.lax.Precision | None, dtype: Any
            ) -> jax.lax.Precision:
  """`precision`, or if it is None HIGHEST for float32 and DEFAULT otherwise.

  With DEFAULT an accelerator computes products of float32 arrays in TF32 (GPU)
  or one pass of bfloat16 (TPU).
  """
  if precision is not None:
    return precision
  return HIGHEST if dtype == jnp.float32 else jax.lax.Precision.DEFAULT


def linear(x: jax.Array, w: jax.Array | Adapted, n_in: int = 1,
           how: Products = PLAIN, scale: float = 1.0) -> jax.Array:
  """Contracts the last `n_in` axes of `x` with the first `n_in` of `w`.

  Args:
    x: [..., in...] in the compute dtype.
    w: [in..., out...], cast to the dtype of `x`.
    n_in: number of contracted axes.
    how: how the product is computed.
    scale: multiplies the result, in float32.

  Returns:
    [..., out...] in the dtype of `x`.
  """
  first, second = (
      functools.partial(_contract, n, how.flat) for n in (n_in, 1))
  return times(first, second, how.precision, x, w, scale=scale,
               widened=how.widened and x.dtype == jnp.bfloat16)


def times(first: Callable[..., jax.Array], second: Callable[..., jax.Array],
          precision: jax.lax.Precision | None, x: jax.Array,
          w: jax.Array | Adapted, *rest: Any, scale: float = 1.0,
          widened: bool = False) -> jax.Array:
  """The product of `x` and a matrix, with or without an adapter, in x's dtype.

  With an adapter: x W + w.scale (x A) B, with the adapter's products and the
  sum in float32, rounded once.

  Args:
    first: (x, w, *rest, precision=, dtype=) -> x w in `dtype`, accumulated in
      float32; for x W and x A.
    second: the same for (x A) B, whose axes may differ.
    precision: of x W; the adapter's products have full float32 precision.
    x: any dtype.
    w: the matrix.
    rest: integer arrays that both products take.
    scale: multiplies the result before it is rounded.
    widened: whether the product has a float32 result that is rounded, for XLA
      on a CPU: it multiplies bfloat16 matrices themselves if their product is
      float32, else float32 copies of them, which it even makes of all layers
      at once.
  """
  precision = precise(precision, x.dtype)
  if isinstance(w, Adapted):
    exact = dict(precision=HIGHEST, dtype=jnp.float32)
    low32 = first(x.astype(jnp.float32), w.a, *rest, **exact)
    y32 = wide(first, precision, x, w.w.astype(x.dtype), *rest)
    y32 += w.scale * second(low32, w.b, *rest, **exact)
  elif scale == 1.0 and not widened:
    return first(x, w.astype(x.dtype), *rest, precision=precision,
                 dtype=x.dtype)
  else:
    y32 = wide(first, precision, x, w.astype(x.dtype), *rest)
  return (scale * y32).astype(x.dtype)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def wide(product: Callable[..., jax.Array], precision: jax.lax.Precision,
         x: jax.Array, w: jax.Array, *rest: Any) -> jax.Array:
  """`product` with a float32 result, and a backward pass in x's dtype.

  Autodiff would multiply the float32 gradient with bfloat16 matrices, a product
  that hardware computes in float32, slowly.
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
  """f(x, *rest) for a kernel that has no argument for its products' precision.

  Such a kernel uses `jax.default_matmul_precision` at the time when it, or its
  backward pass, is traced. Both are set here: to the default, which is exact
  for bfloat16 operands, or for float32 to `highest` unless `precision` says
  default.

  Args:
    f: any function of arrays; it must not close over arrays.
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
  return rows_times(x_2d, w_2d, **how).reshape(*lead, *out)


def rows_times(x_XI: jax.Array, w_IO: jax.Array, **how: Any) -> jax.Array:
  """`jnp.dot`, which on a CPU makes no float32 copy of a bfloat16 matrix.

  XLA would make one for a single row.

  Args:
    x_XI: any number of rows.
    w_IO: the matrix.
    how: of `jnp.dot`.
  """
  if len(x_XI) > 1 or x_XI.dtype != jnp.bfloat16:
    return jnp.dot(x_XI, w_IO, **how)
  return jnp.dot(jnp.pad(x_XI, ((0, 1), (0, 0))), w_IO, **how)[:1]


def swiglu(x: jax.Array, w_gate: jax.Array, w_up: jax.Array,
           w_down: jax.Array, how: Products = PLAIN, activation: str = "silu"
           ) -> jax.Array:
  """Gated feed-forward: W_down(silu(W_gate x) * W_up x).

  Args:
    x: [..., D].
    w_gate, w_up: [D, F].
    w_down: [F, D].
    how: how the products are computed.
    activation: `silu`, or `gelu` (tanh approximation, as in Gemma).

  Returns:
    [..., D] in the dtype of `x`.
  """
  gate, up = (linear(x, w, how=how) for w in (w_gate, w_up))
  if activation == "gelu":
    return linear(jax.nn.gelu(gate, approximate=True) * up, w_down, how=how)
  return linear(gated(gate, up), w_down, how=how)


@jax.custom_vjp
def gated(gate: jax.Array, up: jax.Array) -> jax.Array:
  """silu(gate) * up; only the two operands are saved for the backward pass.

  Autodiff would save three more arrays of the feed-forward width.
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
