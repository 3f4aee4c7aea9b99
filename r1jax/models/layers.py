"""Parts of every layer: parameters with logical axes, whole-row attention."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp

from r1jax.models.compute import Compute
from r1jax.ops import flash, shared_prompts
from r1jax.ops.linear import Adapted, Products
from r1jax.sharding import rules
from r1jax.sharding.mesh import Place


class Context(NamedTuple):
  """What all layers of a full-sequence pass share.

  Attributes:
    cos, sin: float32 [B, T, rotated/2].
    segments_BT: int32, 0 is padding; attention stays within a segment.
    local: cos and sin of local layers, if they have their own.
  """

  cos: jax.Array
  sin: jax.Array
  segments_BT: jax.Array
  local: tuple[jax.Array, jax.Array] | None = None

  def of(self, is_local: jax.Array | bool | None) -> Context:
    """The context of one layer, with its cos and sin."""
    return self._replace(**_turned(self, is_local))


class Slot(NamedTuple):
  """What all layers of one decode step share.

  Attributes:
    cos, sin: float32 [B, T, rotated/2].
    index_B: int32, the cache slot of each row's first token: its position, less
      what `shared` holds of the row. A token attends to the slots up to its
      own.
    local: cos and sin of local layers, if they have their own.
    shared: prompts beside the cache, in `of` those of the layer, or None.
  """

  cos: jax.Array
  sin: jax.Array
  index_B: jax.Array
  local: tuple[jax.Array, jax.Array] | None = None
  shared: shared_prompts.Shared | None = None

  def put(self, cache: jax.Array, new: jax.Array, axis: int) -> jax.Array:
    """Writes every row's new entries into their slots of a cache.

    Args:
      cache: [B, ...], with the slots on `axis`.
      new: [B, T, ...], then the other axes of `cache` in order.
      axis: of the slots in `cache`, counted with B.
    """
    return jax.vmap(
        lambda row, tokens, at: jax.lax.dynamic_update_slice_in_dim(
            row, jnp.moveaxis(tokens, 0, axis - 1), at, axis - 1))(
                cache, new, self.index_B)

  def of(self, is_local: jax.Array | bool | None, layer: int) -> Slot:
    """The slot of one layer, with its cos and sin and its shared prompts."""
    return self._replace(shared=self.shared and self.shared.of(layer),
                         **_turned(self, is_local))


def _turned(shared: Context | Slot, is_local: jax.Array | bool | None
            ) -> dict[str, Any]:
  """The fields of `shared` that differ for a layer: its cos and sin."""
  if shared.local is None or is_local is None:
    return {}
  cos, sin = (jnp.where(is_local, own, common) for own, common in zip(
      shared.local, (shared.cos, shared.sin)))
  return {"cos": cos, "sin": sin, "local": None}


def products(module: nn.Module) -> Products:
  """How the products of a layer are computed."""
  place = module.place
  return Products(module.compute.products, place.flat,
                  widened=place.flat and place.layout == "decode")


def attend(compute: Compute, place: Place, context: Context,
           q_BNTH: jax.Array, k_BKSH: jax.Array, v_BKSW: jax.Array
           ) -> jax.Array:
  """Causal attention of whole rows, [B, N, T, W], in the form `compute` says.

  The queries are scaled already, before they are rounded to the compute dtype.
  So trainer and sampler use equal queries, and no form rounds them again.
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
  """A parameter boxed with its logical axis names, only during `init`."""

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

  A matrix is returned cast and gathered for use in a product (see
  `rules.gather_part`), and as an `Adapted` if the parameters have one there.
  """
  def boxed(key):
    return Named(init(key, shape, jnp.dtype(dtype)), axes)
  w = module.param(name, boxed)
  # Experts' matrices are gathered in ops/expert_parallel.py.
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
  """The gain of an RMSNorm, [size], initially 1; not split over devices.

  With `norm_offset` (Gemma) the parameter is the gain less the offset, which is
  added here in float32.
  """
  offset = module.cfg.norm_offset
  kept = weight(module, name, (None,), (size,),
                nn.initializers.constant(1.0 - offset), dtype)
  return kept.astype(jnp.float32) + offset if offset else kept
