"""Parameters from the layout of training to that of decoding, and back."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from r1jax.models.model import Model
from r1jax.sharding import rules

_STACKS = ("dense_blocks", "mixture_blocks")
HOST, DEVICE = "pinned_host", "device"  # kinds of memory, as JAX names them


def on(tree: Any, kind: str) -> Any:
  """The arrays in another kind of memory, split as they are.

  Args:
    tree: of arrays; those that are there already are the same arrays.
    kind: HOST or DEVICE.
  """
  def move(x):
    if x.sharding.memory_kind == kind:
      return x
    return jax.device_put(x, x.sharding.with_memory_kind(kind))

  return jax.tree.map(move, tree)


class Decoding:
  """The way of parameters to the layout of decoding and back.

  There the layers are unstacked, matrices are in the compute dtype, and a mesh
  splits them as `rules` says of decoding.
  """

  def __init__(self, model: Model, mesh: Mesh | None, params: Any):
    """Prepares; compiles nothing yet.

    Args:
      model: whose parameters they are.
      mesh: where they lie; None for one device.
      params: parameters like them, or their shapes.
    """
    self._moves = make_reshard(model, mesh, "decode", params, donate=True)
    self._copies = make_reshard(model, mesh, "decode", params)
    self._returns = make_reshard(model, mesh, "train", params, donate=True)

  def there(self, params: Any, *, donate: bool) -> Any:
    """Parameters for `Engine.generate`.

    Args:
      params: of the model.
      donate: they are given up. `back` restores them bit by bit if they were in
        the compute dtype already.
    """
    return (self._moves if donate else self._copies)(params)

  def back(self, params: Any) -> Any:
    """What went there with `donate`; its argument is gone."""
    return self._returns(params)


def make_reshard(model: Model, mesh: Mesh | None, layout: str,
                 like: Any = None, *, donate: bool = False
                 ) -> Callable[[Any], Any]:
  """Compiled: parameters -> the same, placed as `layout` says.

  One program moves everything between the devices. For decoding, matrices take
  the compute dtype, in which they are used there anyway, and each layer its own
  arrays.

  Args:
    model: whose parameters they are.
    mesh: where they lie; None for one device.
    layout: `train` or `decode`.
    like: parameters or shapes as in training, if they are not those of
      `model.init` alone but have adapters.
    donate: give up the parameters that come in. Only where their dtype is kept
      does the way back restore them bit by bit.

  Returns:
    The compiled function; without `donate` it can be lowered. With it, on one
    device, parameters go over leaf by leaf: no more than one lies there twice.
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
    return model.unstack(midway(model.cast(params)))

  def back(params):
    return midway(model.stack(params))

  if mesh is None and donate:
    return (functools.partial(_there_by_leaf, model) if layout == "decode"
            else _back_by_leaf)
  program = jax.jit(there if layout == "decode" else back,
                    donate_argnums=0 if donate else (), out_shardings=places)
  return _deleting(program) if donate else program


def _there_by_leaf(model: Model, params: Any) -> Any:
  """Ready to decode; each leaf is gone before the next is made."""
  wanted, made = jax.eval_shape(model.cast, params), {}
  for name, part in params.items():
    leaves, tree = jax.tree.flatten(part)
    stacked = name in _STACKS
    results = [
        _given_up(_parts, x, dtype=like.dtype, stacked=stacked)
        for x, like in zip(leaves, jax.tree.leaves(wanted[name]))]
    made[name] = (tuple(map(tree.unflatten, zip(*results))) if stacked
                  else tree.unflatten(results))
  return made


def _back_by_leaf(params: Any) -> Any:
  """The way back of `_there_by_leaf`."""
  stack = functools.partial(_given_up, _stack)
  return {name: jax.tree.map(stack, *part) if name in _STACKS
          else jax.tree.map(functools.partial(_given_up, _same), part)
          for name, part in params.items()}


def _given_up(program, *arrays, **how):
  """What `program` makes of the arrays, which then are no more."""
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


@jax.jit
def _stack(*parts):
  return jnp.stack(parts)


@functools.partial(jax.jit, donate_argnums=0)
def _same(x):
  """Where it lies already."""
  return x


def shardings(model: Model, mesh: Mesh, like: Any) -> Any:
  """Where parameters that are ready to decode lie, of those `like` these."""
  ready = jax.eval_shape(model.unstack, like)
  return rules.param_shardings(model.param_axes(ready), ready, mesh, "decode")


def _deleting(program):
  """`program`, after which nothing is left of its argument.

  Parts of another size on the device cannot be written over, and JAX then warns
  and keeps them.
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
  """Split as in training, but only over axes that decoding splits over too.

  From here an exchange within those axes is enough. The compiler does not see
  it: asked for both steps at once it would gather the whole array first.
  """
  def names(entry):
    return (entry,) if isinstance(entry, str) else tuple(entry or ())

  kept = {name for entry in decode.spec for name in names(entry)}
  return NamedSharding(train.mesh, PartitionSpec(*(
      tuple(name for name in names(entry) if name in kept) or None
      for entry in train.spec)))
