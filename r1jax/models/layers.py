"""What every layer is made of: named parameters, attention of whole rows."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp

from r1jax.models.compute import Compute
from r1jax.ops import flash
from r1jax.ops.linear import Adapted, Products
from r1jax.sharding import rules
from r1jax.sharding.mesh import Place


class Context(NamedTuple):
  """What all layers of a full-sequence pass share.

  Attributes:
    cos, sin: float32 [B, T, rotated/2].
    segments_BT: int32, 0 is padding; attention stays within them.
    local: cos and sin of local layers, if they have others.
  """

  cos: jax.Array
  sin: jax.Array
  segments_BT: jax.Array
  local: tuple[jax.Array, jax.Array] | None = None

  def of(self, is_local: jax.Array | bool | None) -> Context:
    """As a layer sees it."""
    return self._replace(**_turned(self, is_local))


class Slot(NamedTuple):
  """What all layers of one decode step share.

  Attributes:
    cos, sin: float32 [B, T, rotated/2].
    index_B: int32, the cache slot that each row's first token takes: its
      position. A token attends to the slots up to its own.
    longest: int32 scalar, the most slots that a row of interest attends to.
    block: slots that attention reads at a time, see `attention.decode_block`.
    local: cos and sin of local layers, if they have others.
  """

  cos: jax.Array
  sin: jax.Array
  index_B: jax.Array
  longest: jax.Array
  block: int
  local: tuple[jax.Array, jax.Array] | None = None

  def put(self, cache: jax.Array, new: jax.Array, axis: int) -> jax.Array:
    """A cache with every row's tokens in their slots.

    Args:
      cache: [B, ...], its slots on `axis`.
      new: [B, T, ...], the same without that axis.
      axis: counted with B.
    """
    return jax.vmap(
        lambda row, tokens, at: jax.lax.dynamic_update_slice_in_dim(
            row, jnp.moveaxis(tokens, 0, axis - 1), at, axis - 1))(
                cache, new, self.index_B)

  def of(self, is_local: jax.Array | bool | None) -> Slot:
    """As a layer sees it."""
    return self._replace(**_turned(self, is_local))


def _turned(shared: Context | Slot, is_local: jax.Array | bool | None
            ) -> dict[str, Any]:
  """The rotation of a layer."""
  if shared.local is None:
    return {}
  cos, sin = (jnp.where(is_local, own, common) for own, common in zip(
      shared.local, (shared.cos, shared.sin)))
  return {"cos": cos, "sin": sin, "local": None}


def products(module: nn.Module) -> Products:
  """How the products of a layer are computed."""
  return Products(module.compute.products, module.place.flat)


def attend(compute: Compute, place: Place, context: Context,
           q_BNTH: jax.Array, k_BKSH: jax.Array, v_BKSW: jax.Array
           ) -> jax.Array:
  """Causal attention of whole rows in the form that `compute` asks for.

  The queries come scaled: they are where they are made, before they are rounded
  to the compute dtype, so that trainer and sampler have the same and neither
  rounds them again.
  """
  form = compute.attention
  if form == "auto":
    form = flash.choose(
        place.backend, q_BNTH.shape[2], q_BNTH.dtype,
        max(q_BNTH.shape[3], v_BKSW.shape[3]), compute.packed)
  return flash.sharded(
      form, q_BNTH, k_BKSH, v_BKSW, context.segments_BT, 1.0,
      rules.spec(("act_batch", "act_heads", "act_length"), place.layout),
      place.axes, packed=compute.packed, precision=compute.products)


@flax.struct.dataclass
class Named(nn.meta.AxisMetadata):
  """A parameter with its logical axis names; only `init` sees the box."""

  value: Any
  axes: tuple[str | None, ...] = flax.struct.field(pytree_node=False)

  def unbox(self) -> Any:
    return self.value

  def replace_boxed(self, val: Any) -> Named:
    return self.replace(value=val)

  def add_axis(self, index: int, params: dict[Any, Any]) -> Named:
    axes = list(self.axes)
    axes.insert(index, params[nn.PARTITION_NAME])
    return self.replace(axes=tuple(axes))

  def remove_axis(self, index: int, params: dict[Any, Any]) -> Named:
    del params
    axes = list(self.axes)
    del axes[index]
    return self.replace(axes=tuple(axes))


def normal(std: float) -> Callable[..., jax.Array]:
  """Initialiser N(0, std^2)."""
  return nn.initializers.normal(std)


def weight(module: nn.Module, name: str, axes: tuple[str | None, ...],
           shape: tuple[int, ...], init: Callable[..., jax.Array],
           dtype: str) -> jax.Array | Adapted:
  """Declares a parameter of `module` together with its logical axes.

  A matrix comes as the products of the module's layout use it, and with its
  adapter if the parameters have one in its place.
  """
  def boxed(key):
    return Named(init(key, shape, jnp.dtype(dtype)), axes)
  w = module.param(name, boxed)
  # Experts have their own way to the devices that use them.
  if "experts" in axes or not name.startswith("w_"):
    return w
  used = "float32" if name == "w_router" else module.compute.dtype
  layout = module.place.layout
  if not isinstance(w, Adapted):
    return rules.gather_part(w, axes, used, layout)
  of = w.axes(axes)
  return w.replace(
      w=rules.gather_part(w.w, of.w, used, layout),
      a=rules.gather_part(w.a, of.a, "float32", layout),
      b=rules.gather_part(w.b, of.b, "float32", layout))


def scale(module: nn.Module, name: str, size: int, dtype: str) -> jax.Array:
  """The gain of an RMSNorm, [size], 1 at first; whole on every device.

  With an offset it is the sum, in float32, of that and what is kept (Gemma).
  """
  offset = module.cfg.norm_offset
  kept = weight(module, name, (None,), (size,),
                nn.initializers.constant(1.0 - offset), dtype)
  return kept.astype(jnp.float32) + offset if offset else kept
