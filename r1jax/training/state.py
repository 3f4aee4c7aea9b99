"""The training state: parameters, router bias, optimizer state and step."""

from __future__ import annotations

from typing import Any, NamedTuple

import flax.struct
import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from r1jax.core.config import check
from r1jax.models.model import Model
from r1jax.ops import rounding
from r1jax.sharding import processes, rules
from r1jax.training import lora
from r1jax.training.lora import LoraConfig
from r1jax.training.optimizer import OptimizerConfig, make_optimizer


@flax.struct.dataclass
class TrainState:
  """Everything that an update changes.

  Attributes:
    params: nested dict of arrays: the model's parameters, or an adapter (LoRA).
      float32 masters, or bfloat16 with stochastic rounding.
    router_bias_LE: float32 selection bias of the routers.
    opt_state: the optimizer's, float32 unless `OptimizerConfig.moments` says
      otherwise.
    step: int32 scalar, updates so far, including skipped ones.
  """

  params: Any
  router_bias_LE: jax.Array
  opt_state: Any
  step: jax.Array


def create(params: Any, router_bias_LE: jax.Array,
           optimizer: optax.GradientTransformation, *,
           held: tuple[str, ...] = (), masters: bool = True) -> TrainState:
  """State before the first update; traceable.

  Args:
    params: of any dtype.
    router_bias_LE: selection bias of the routers.
    optimizer: from `optimizer.make_optimizer`.
    held: top-level parts of `params` that are not trained and have no moments.
    masters: whether to keep the parameters in float32. Else their dtypes stay,
      and updates are rounded to them.
  """
  params = float32(params) if masters else params
  return TrainState(
      params, router_bias_LE, optimizer.init(float32(trained(params, held))),
      jnp.zeros((), jnp.int32))


def float32(tree: Any) -> Any:
  """The tree with float32 leaves."""
  return jax.tree.map(lambda x: x.astype(jnp.float32), tree)


def trained(params: Any, held: tuple[str, ...]) -> Any:
  """The parameters without the top-level parts that are not trained."""
  return {name: part for name, part in params.items() if name not in held}


def rounded(params: Any, like: Any, step: jax.Array) -> Any:
  """float32 parameters in the dtypes of `like`, rounded stochastically.

  Args:
    params: float32, after an update.
    like: the parameters before it, float32 or bfloat16.
    step: updates so far; the random bits are derived from it.
  """
  leaves, tree = jax.tree.flatten(params)
  key = jax.random.fold_in(jax.random.key(0), step)
  return tree.unflatten([
      x if old.dtype == jnp.float32 else rounding.stochastic(
          x, jax.random.fold_in(key, number), old.dtype)
      for number, (x, old) in enumerate(
          zip(leaves, jax.tree.leaves(like), strict=True))])


def shardings(model: Model, optimizer: optax.GradientTransformation,
              mesh: Mesh, adapter: LoraConfig | None = None,
              zero1: bool = False, held: tuple[str, ...] = ()) -> TrainState:
  """NamedSharding of every leaf; moments are sharded like their parameters.

  Args:
    model: what is trained.
    optimizer: from `optimizer.make_optimizer`.
    mesh: to train on.
    adapter: with rank > 0 if an adapter is trained instead of the parameters.
    zero1: split the moments over `data` too (ZeRO-1, arXiv:1910.02054): each
      replica updates a part of the parameters, which are then gathered.
    held: see `create`.
  """
  params = jax.eval_shape(model.init, jax.random.key(0))
  axes = model.param_axes()
  if adapter:
    params, axes = (
        jax.eval_shape(
            lambda p: lora.init(jax.random.key(0), p, axes, adapter), params),
        lora.adapter_axes(axes, adapter))
  bias = jax.eval_shape(model.init_router_bias)
  state = jax.eval_shape(
      lambda p, b: create(p, b, optimizer, held=held), params, bias)
  placed = rules.param_shardings(axes, params, mesh)
  whole = NamedSharding(mesh, PartitionSpec())
  opt_state = optax.tree_map_params(
      optimizer, lambda moment, place: _over_data(moment, place) if zero1
      else place, state.opt_state, trained(placed, held),
      transform_non_params=lambda _: whole)
  return TrainState(placed, whole, opt_state, whole)


def _over_data(moment: jax.ShapeDtypeStruct, place: NamedSharding
               ) -> NamedSharding:
  """`place`, also split over `data` in the first dimension that it divides."""
  ways = place.mesh.shape["data"]
  parts = list(place.spec) + [None] * (len(moment.shape) - len(place.spec))
  sizes = place.shard_shape(moment.shape)
  for dim, (part, size) in enumerate(zip(parts, sizes, strict=True)):
    if size % ways == 0:
      names = (part,) if isinstance(part, str) else tuple(part or ())
      parts[dim] = ("data", *names)
      break
  return NamedSharding(place.mesh, PartitionSpec(*parts))


class Started(NamedTuple):
  """What a stage trains with.

  Attributes:
    state: before the first update.
    frozen: the base parameters of an adapter; None if all are trained.
    shardings: of the state; None without a mesh.
    held: top-level parts of the parameters that are not trained.
    optimizer: for `step.make_update`.
  """

  state: TrainState
  frozen: lora.Frozen | None
  shardings: TrainState | None
  held: tuple[str, ...]
  optimizer: optax.GradientTransformation


def start(model: Model, params: Any, router_bias_LE: jax.Array,
          cfg: OptimizerConfig, *, adapter: LoraConfig | None = None,
          key: jax.Array | None = None, mesh: Mesh | None = None,
          held: tuple[str, ...] = ()) -> Started:
  """The training state of initial parameters.

  Trained parameters are float32 masters whatever the compute dtype is, because
  an update at a learning rate of 1e-6 is smaller than half of bfloat16's step
  and would be rounded away. Stochastic rounding does without masters.

  Args:
    model: what is trained.
    params: its parameters, donated: they become the state's own or are deleted,
      with adapters summed up. If an adapter is trained, they are frozen and
      kept.
    router_bias_LE: its router bias, donated.
    cfg: the optimizer.
    adapter: with rank > 0, trains an adapter instead of the parameters.
    key: for the adapter's initial values.
    mesh: to place everything on; None leaves it where it is.
    held: top-level parts of `params` that are not trained; names that the
      parameters lack are ignored.

  Raises:
    ValueError: all parameters are to be trained, but without masters
      (`param_dtype=bfloat16`) and with nearest rounding.
  """
  adapter = adapter if adapter and adapter.rank else None
  stochastic = cfg.rounding == "stochastic"
  check(adapter or stochastic or model.compute.param_dtype == "float32",
        "param_dtype='bfloat16' would train parameters that an update with"
        " lr=1e-6 does not move, because half of bfloat16's step is 2^-9 of a"
        " value. Leave it at float32 and set dtype='bfloat16': the model then"
        " computes with bfloat16 copies. Without memory for float32 masters set"
        " optimizer.rounding='stochastic'")
  held = () if adapter else tuple(name for name in held if name in params)
  optimizer = make_optimizer(cfg)
  places = mesh and shardings(
      model, optimizer, mesh, adapter, cfg.zero1, held)
  frozen = None
  if adapter:
    if mesh:
      params = jax.device_put(params, rules.param_shardings(
          model.param_axes(params), params, mesh))
    frozen = lora.Frozen(params, adapter.scale)
    params = lora.init(key, params, model.param_axes(), adapter)
  else:
    params = lora.dense(params)
  masters = adapter is not None or not stochastic
  params = _owned(params, places and places.params, masters)
  bias_LE = _owned(router_bias_LE, places and places.router_bias_LE, True)
  # Parameters are not outputs of this program, so they are not copied.
  opt_state, step = jax.jit(
      lambda p, b: (lambda s: (s.opt_state, s.step))(
          create(p, b, optimizer, held=held, masters=masters)),
      out_shardings=places and (places.opt_state, places.step))(params, bias_LE)
  return Started(TrainState(params, bias_LE, opt_state, step), frozen, places,
                 held, optimizer)


def _owned(tree: Any, places: Any, masters: bool) -> Any:
  """The arrays on their shardings, in float32 if `masters`; deletes the inputs.
  """
  def leaf(x, place):
    if not isinstance(x, jax.Array):
      x = jnp.array(x)  # a copy: an update must not write to a NumPy array
    new = x if place is None else _placed(x, place)
    if masters and new.dtype != jnp.float32:
      new = new.astype(jnp.float32)
    # An array that was neither moved nor cast may share its buffer.
    if new is not x and not _share(new, x):
      x.delete()
    return new

  if places is None:
    places = jax.tree.map(lambda _: None, tree)
  return jax.tree.map(leaf, tree, places)


def _placed(x: jax.Array, place: NamedSharding) -> jax.Array:
  # An array that every process loaded for itself is not a global array yet.
  local = x.is_fully_addressable
  return processes.same(x, place) if local else jax.device_put(x, place)


def _share(a: jax.Array, b: jax.Array) -> bool:
  """Whether two arrays have a buffer in common, on this process's devices."""
  def pointers(x):
    return {shard.data.unsafe_buffer_pointer() for shard in
            x.addressable_shards}

  return bool(pointers(a) & pointers(b))
