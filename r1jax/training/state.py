"""What an update changes: one value."""

from __future__ import annotations

from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from r1jax.models.model import Model
from r1jax.sharding import rules
from r1jax.training import lora
from r1jax.training.lora import LoraConfig


@flax.struct.dataclass
class TrainState:
  """Parameters and all that goes with them.

  Attributes:
    params: nested dict of arrays: the model's, or an adapter of them (LoRA).
    router_bias_LE: float32 selection bias of the routers.
    opt_state: the optimizer's, float32 unless it stores less.
    step: int32 scalar, updates so far, skipped ones included.
  """

  params: Any
  router_bias_LE: jax.Array
  opt_state: Any
  step: jax.Array


def create(params: Any, router_bias_LE: jax.Array,
           optimizer: optax.GradientTransformation) -> TrainState:
  """State before the first update."""
  return TrainState(params, router_bias_LE, optimizer.init(float32(params)),
                    jnp.zeros((), jnp.int32))


def float32(tree: Any) -> Any:
  """The tree with float32 leaves."""
  return jax.tree.map(lambda x: x.astype(jnp.float32), tree)


def shardings(model: Model, optimizer: optax.GradientTransformation,
              mesh: Mesh, adapter: LoraConfig | None = None,
              zero1: bool = False) -> TrainState:
  """NamedSharding of every leaf: moments lie where their parameter lies.

  Args:
    model: what is trained.
    optimizer: from `optimizer.make_optimizer`.
    mesh: to train on.
    adapter: of rank > 0 if an adapter is trained in place of the parameters.
    zero1: split the moments over `data` too (ZeRO-1, arXiv:1910.02054): each
      replica updates its part of the parameters, which are then gathered.
  """
  params = jax.eval_shape(model.init, jax.random.key(0))
  axes = model.param_axes()
  if adapter:
    params, axes = (
        jax.eval_shape(
            lambda p: lora.init(jax.random.key(0), p, axes, adapter), params),
        lora.adapter_axes(axes, adapter))
  bias = jax.eval_shape(model.init_router_bias)
  state = jax.eval_shape(lambda p, b: create(p, b, optimizer), params, bias)
  placed = rules.param_shardings(axes, params, mesh)
  whole = NamedSharding(mesh, PartitionSpec())
  opt_state = optax.tree_map_params(
      optimizer, lambda moment, place: _over_data(moment, place) if zero1
      else place, state.opt_state, placed,
      transform_non_params=lambda _: whole)
  return TrainState(placed, whole, opt_state, whole)


def _over_data(moment: jax.ShapeDtypeStruct, place: NamedSharding
               ) -> NamedSharding:
  """Also split over `data`, in the first dimension that it divides."""
  ways = place.mesh.shape["data"]
  parts = list(place.spec) + [None] * (len(moment.shape) - len(place.spec))
  sizes = place.shard_shape(moment.shape)
  for dim, (part, size) in enumerate(zip(parts, sizes, strict=True)):
    if size % ways == 0:
      names = (part,) if isinstance(part, str) else tuple(part or ())
      parts[dim] = ("data", *names)
      break
  return NamedSharding(place.mesh, PartitionSpec(*parts))


def start(model: Model, params: Any, router_bias_LE: jax.Array,
          optimizer: optax.GradientTransformation, *,
          adapter: LoraConfig | None = None, key: jax.Array | None = None,
          mesh: Mesh | None = None, zero1: bool = False
          ) -> tuple[TrainState, lora.Frozen | None, TrainState | None]:
  """What an update needs of first parameters.

  Args:
    model: what is trained.
    params: its parameters; they are copied, or frozen and shared. Adapters in
      them are summed up if all parameters are trained.
    router_bias_LE: its router bias.
    optimizer: from `optimizer.make_optimizer`.
    adapter: trains an adapter in place of the parameters if its rank > 0.
    key: of the adapter.
    mesh: to place everything on; None leaves it where it is.
    zero1: see `shardings`.

  Returns:
    (state, the frozen parameters if an adapter is trained, shardings of the
    state if there is a mesh).
  """
  adapter = adapter if adapter and adapter.rank else None
  placed = mesh and shardings(model, optimizer, mesh, adapter, zero1)
  frozen = None
  if adapter:
    if mesh:
      params = jax.device_put(params, rules.param_shardings(
          model.param_axes(params), params, mesh))
    frozen = lora.Frozen(params, adapter.scale)
    params = lora.init(key, params, model.param_axes(), adapter)
  else:
    params = lora.dense(params)
  # Copies: updates donate the state, and the caller keeps its weights.
  state = jax.jit(
      lambda p, b: create(p, b, optimizer), out_shardings=placed)(
          *jax.tree.map(jnp.copy, (params, router_bias_LE)))
  return state, frozen, placed
