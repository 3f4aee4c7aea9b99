"""What every layer is made of: named parameters and the compute settings."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp

from r1jax.core.config import check
from r1jax.ops import flash
from r1jax.sharding import mesh, rules


@dataclasses.dataclass(frozen=True, kw_only=True)
class Compute:
  """How a model is computed; none of it changes what it means.

  Attributes:
    dtype: activations and matrix products, `float32` or `bfloat16`.
    param_dtype: parameters as `init` makes them.
    remat: what the backward pass recomputes: `none`, `dots` (all but matrix
      products without batch axes), `full` (whole layers).
    experts: form of the routed experts, `auto`, `gmm`, `ragged`, `blocks`,
      `dense`.
    exchange: how tokens reach experts on other devices, `auto`, `gather`,
      `ragged`.
    attention: form of attention over whole rows, `auto`, `naive`, `blocks`,
      `splash` (TPU), `cudnn` (GPU, bfloat16, not packed).
    packed: whether a row may hold several sequences. False is a promise, which
      `cudnn` needs.
    unroll: layers written out in one turn of the scan over layers. On CPU the
      scan costs copies of all that the backward pass needs; elsewhere it only
      saves compilation. 0 is all layers of a shallow model on CPU, else 1.
  """

  dtype: str = "float32"
  param_dtype: str = "float32"
  remat: str = "none"
  experts: str = "auto"
  exchange: str = "auto"
  attention: str = "auto"
  packed: bool = True
  unroll: int = 0

  def __post_init__(self):
    for name in ("dtype", "param_dtype"):
      check(getattr(self, name) in ("float32", "bfloat16"),
            f"{name}={getattr(self, name)!r}: choose float32 or bfloat16")
    check(self.remat in REMAT, f"remat={self.remat!r}: choose one of"
          f" {', '.join(REMAT)}")
    forms = ("auto", "gmm", "ragged", "blocks", "dense")
    check(self.experts in forms,
          f"experts={self.experts!r}: choose one of {', '.join(forms)}")
    check(self.exchange in ("auto", "gather", "ragged"),
          f"exchange={self.exchange!r}: choose one of auto, gather, ragged")
    forms = ("auto", *flash.FORMS)
    check(self.attention in forms,
          f"attention={self.attention!r}: choose one of {', '.join(forms)}")
    check(self.unroll >= 0, f"unroll={self.unroll} must not be negative")

  def unrolled(self, length: int) -> int:
    """Layers in one turn of a scan over `length` layers."""
    shallow = mesh.backend() == "cpu" and length <= SHALLOW
    return min(self.unroll or (length if shallow else 1), length)


SHALLOW = 8

REMAT = {
    "none": None,
    "dots": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
    "full": jax.checkpoint_policies.nothing_saveable,
}


class Context(NamedTuple):
  """What all layers of a full-sequence pass share.

  Attributes:
    cos, sin: float32 [B, T, rotated/2].
    segments_BT: int32, 0 is padding; attention stays within them.
  """

  cos: jax.Array
  sin: jax.Array
  segments_BT: jax.Array


class Slot(NamedTuple):
  """What all layers of one decode step share.

  Attributes:
    cos, sin: float32 [B, rotated/2].
    index: int32 scalar, the cache slot that this token takes in every row.
    valid_BS: bool, the slots to attend to, `index` among them.
  """

  cos: jax.Array
  sin: jax.Array
  index: jax.Array
  valid_BS: jax.Array


def attend(compute: Compute, layout: str, context: Context, scale: float,
           q_BNTH: jax.Array, k_BKSH: jax.Array, v_BKSW: jax.Array
           ) -> jax.Array:
  """Causal attention of whole rows in the form that `compute` asks for."""
  form = compute.attention
  if form == "auto":
    form = flash.choose(
        mesh.backend(), q_BNTH.shape[2], q_BNTH.dtype,
        max(q_BNTH.shape[3], v_BKSW.shape[3]), compute.packed)
  return flash.sharded(
      form, q_BNTH, k_BKSH, v_BKSW, context.segments_BT, scale,
      rules.spec(("act_batch", "act_heads", "act_length"), layout),
      packed=compute.packed)


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
           dtype: str) -> jax.Array:
  """Declares a parameter of `module` together with its logical axes.

  A matrix comes as the products of `module.layout` use it.
  """
  def boxed(key):
    return Named(init(key, shape, jnp.dtype(dtype)), axes)
  w = module.param(name, boxed)
  # Experts have their own way to the devices that use them.
  if "experts" in axes or not name.startswith("w_"):
    return w
  return rules.gather_part(
      w, axes, "float32" if name == "w_router" else module.compute.dtype,
      module.layout)


def scale(module: nn.Module, name: str, size: int, dtype: str) -> jax.Array:
  """The gain of an RMSNorm, [size], ones at first; whole on every device."""
  return weight(module, name, (None,), (size,), nn.initializers.ones, dtype)
