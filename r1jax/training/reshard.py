"""Converts parameters from the training to the decoding layout, and back."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from r1jax.models.model import Model
from r1jax.ops import linear
from r1jax.sharding import rules

_STACKS = ("dense_blocks", "mixture_blocks")
HOST, DEVICE = "pinned_host", "device"  # JAX's names of memory kinds


def on(tree: Any, kind: str) -> Any:
  """The arrays in another memory kind, with the same sharding.

  Args:
    tree: of arrays; those in that memory already are returned as they are.
    kind: HOST or DEVICE.
  """
  def move(x):
    if x.sharding.memory_kind == kind:
      return x
    return jax.device_put(x, x.sharding.with_memory_kind(kind))

  return jax.tree.map(move, tree)


class Decoding:
  """Converts parameters to the decoding layout and back.

  In the decoding layout layers are unstacked, matrices are in the compute
  dtype, a tied embedding may be a head (see `_turns`), and arrays are sharded
  by the decoding table of `rules`.
  """

  def __init__(self, model: Model, mesh: Mesh | None, params: Any):
    """Prepares the conversions; compiles nothing yet.

    Args:
      model: of the parameters.
      mesh: that they are on; None for one device.
      params: such parameters, or their shapes.
    """
    self._moves = make_reshard(model, mesh, "decode", params, donate=True)
    self._copies = make_reshard(model, mesh, "decode", params)
    self._returns = make_reshard(model, mesh, "train", params, donate=True)

  def there(self, params: Any, *, donate: bool) -> Any:
    """Parameters in the decoding layout, for `Engine.generate`.

    Args:
      params: in the training layout.
      donate: whether to delete `params`. `back` then restores them exactly if
        they are in the compute dtype already.
    """
    return (self._moves if donate else self._copies)(params)

  def back(self, params: Any) -> Any:
    """Parameters in the training layout again; the argument is deleted."""
    return self._returns(params)


def make_reshard(model: Model, mesh: Mesh | None, layout: str,
                 like: Any = None, *, donate: bool = False
                 ) -> Callable[[Any], Any]:
  """A compiled function that converts parameters to a layout.

  One program moves everything between the devices. For decoding, matrices are
  cast to the compute dtype and layers are unstacked.

  Args:
    model: of the parameters.
    mesh: that they are on; None for one device.
    layout: to convert to, `train` or `decode`.
    like: parameters or shapes in the training layout; needed if they have
      adapters.
    donate: whether to delete the argument. Converting back restores it exactly
      only if no dtype was changed.

  Returns:
    The function; without `donate` it can be lowered. With `donate` and on one
    device it converts leaf by leaf, so that only one leaf is in memory twice.
  """
  between = places = None
  if mesh is not None:
    if like is None:
      like = jax.eval_shape(model.init, jax.random.key(0))
    train, stacked = (
        rules.param_shardings(model.param_axes(like), like, mesh, name)
        for name in ("train", "decode"))
    between = jax.tree.map(_between, train, stacked)
    places = train if layout == "train" else shardings(model, mesh, like)

  def midway(params):
    return params if between is None else (
        jax.lax.with_sharding_constraint(params, between))

  def there(params):
    made = dict(model.unstack(midway(model.cast(params))))
    if mesh is None and _turns(model, params):
      made["w_head"] = made.pop("embed").T
    return made

  def back(params):
    return midway(model.stack(params))

  if mesh is None and donate:
    return functools.partial(
        _there_by_leaf if layout == "decode" else _back_by_leaf, model)
  program = jax.jit(there if layout == "decode" else back,
                    donate_argnums=0 if donate else (), out_shardings=places)
  return _deleting(program) if donate else program


def _turns(model: Model, params: Any) -> bool:
  """Whether the decoding layout has the embedding as a head, [D, V].

  That is so for a tied one in bfloat16 on a CPU, where XLA multiplies bfloat16
  matrices themselves only in this order of their axes; else it makes a float32
  copy for every token.
  """
  return (model.cfg.tie_embeddings and model.compute.dtype == "bfloat16"
          and jax.default_backend() == "cpu"
          and not linear.is_adapted(params.get("embed")))


def _there_by_leaf(model: Model, params: Any) -> Any:
  """To the decoding layout; deletes each leaf before it makes the next."""
  wanted, made = jax.eval_shape(model.cast, params), {}
  params = dict(params)
  if _turns(model, params):
    made["w_head"] = _given_up(
        _turned, params.pop("embed"), dtype=wanted["embed"].dtype)
  for name, part in params.items():
    leaves, tree = jax.tree.flatten(part)
    stacked = name in _STACKS
    results = [
        _given_up(_parts, x, dtype=like.dtype, stacked=stacked)
        for x, like in zip(leaves, jax.tree.leaves(wanted[name]))]
    made[name] = (
        tuple(model.ready(tree.unflatten(layer), _given_up)
              for layer in zip(*results)) if stacked
        else tree.unflatten(results))
  return made


def _back_by_leaf(model: Model, params: Any) -> Any:
  """The inverse of `_there_by_leaf`."""
  params, made = dict(params), {}
  if "embed" not in params:
    head = params.pop("w_head")
    made["embed"] = _given_up(_turned, head, dtype=head.dtype)
  stack = functools.partial(_given_up, _stack)
  return made | {
      name: jax.tree.map(stack, *(
          model.unready(layer, _given_up) for layer in part))
      if name in _STACKS
      else jax.tree.map(functools.partial(_given_up, _same), part)
      for name, part in params.items()}


def _given_up(program, *arrays, **how):
  """The result of `program` on the arrays, which are deleted."""
  with warnings.catch_warnings():
    warnings.filterwarnings("ignore", "Some donated buffers were not usable")
    made = jax.block_until_ready(program(*arrays, **how))
  for x in arrays:
    x.delete()
  return made


@functools.partial(jax.jit, static_argnames=("dtype", "stacked"),
                   donate_argnums=0)
def _parts(x, *, dtype, stacked):
  x = x.astype(dtype)
  return tuple(x[i] for i in range(len(x))) if stacked else x


@functools.partial(jax.jit, static_argnames="dtype")
def _turned(x, *, dtype):
  return x.T.astype(dtype)


@jax.jit
def _stack(*parts):
  return jnp.stack(parts)


@functools.partial(jax.jit, donate_argnums=0)
def _same(x):
  """The same array in the same buffer, which is donated."""
  return x


def shardings(model: Model, mesh: Mesh, like: Any) -> Any:
  """Shardings of the decoding layout of parameters `like` these."""
  ready = jax.eval_shape(model.unstack, like)
  return rules.param_shardings(model.param_axes(ready), ready, mesh, "decode")


def _deleting(program):
  """`program` that deletes its argument.

  JAX does not reuse donated shards whose result has another size; it warns and
  keeps them, so they are deleted here.
  """
  def run(params):
    with warnings.catch_warnings():
      warnings.filterwarnings("ignore", "Some donated buffers were not usable")
      result = program(params)
    for leaf in jax.tree.leaves(params):
      leaf.delete()
    return result

  return run


def _between(train: NamedSharding, decode: NamedSharding) -> NamedSharding:
  """The training sharding, restricted to mesh axes that decoding splits over.

  From there to the decoding sharding an all-to-all within these axes suffices.
  For both steps at once XLA would gather the whole array first.
  """
  def names(entry):
    return (entry,) if isinstance(entry, str) else tuple(entry or ())

  kept = {name for entry in decode.spec for name in names(entry)}
  return NamedSharding(train.mesh, PartitionSpec(*(
      tuple(name for name in names(entry) if name in kept) or None
      for entry in train.spec)))
