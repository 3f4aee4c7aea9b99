"""What an update changes: one value."""

from __future__ import annotations

from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from r1jax.models.build import Model
from r1jax.sharding import rules


@flax.struct.dataclass
class TrainState:
  """Parameters and all that goes with them.

  Attributes:
    params: nested dict of arrays.
    router_bias_LE: float32 selection bias of the routers.
    opt_state: the optimizer's, float32.
    step: int32 scalar, updates so far, skipped ones included.
  """

  params: Any
  router_bias_LE: jax.Array
  opt_state: Any
  step: jax.Array


def create(params: Any, router_bias_LE: jax.Array,
           optimizer: optax.GradientTransformation) -> TrainState:
  """State before the first update; the moments are float32."""
  return TrainState(params, router_bias_LE, optimizer.init(float32(params)),
                    jnp.zeros((), jnp.int32))


def float32(tree: Any) -> Any:
  """The tree with float32 leaves."""
  return jax.tree.map(lambda x: x.astype(jnp.float32), tree)


def shardings(model: Model, optimizer: optax.GradientTransformation,
              mesh: Mesh) -> TrainState:
  """NamedSharding of every leaf: moments lie where their parameter lies."""
  params = jax.eval_shape(model.init, jax.random.key(0))
  bias = jax.eval_shape(model.init_router_bias)
  state = jax.eval_shape(lambda p, b: create(p, b, optimizer), params, bias)
  placed = rules.param_shardings(model.param_axes(), params, mesh)
  whole = NamedSharding(mesh, PartitionSpec())
  opt_state = optax.tree_map_params(
      optimizer, lambda _, place: place, state.opt_state, placed,
      transform_non_params=lambda _: whole)
  return TrainState(placed, whole, opt_state, whole)
