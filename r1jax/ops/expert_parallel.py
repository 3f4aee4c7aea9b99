"""Expert parallelism: tokens are sent to the devices of their experts and back.

Under `jax.shard_map` every device of an expert group of n devices holds E / n
experts and a part of the group's tokens. The exchange `gather` all-gathers the
group's tokens and reduce-scatters the results (the reference, and the form for
few tokens); `ragged` sends each token only to the devices that hold its
experts. Neither drops a token. Forward and backward passes are written by hand,
so every collective is visible here.
"""

from __future__ import annotations

import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from r1jax.ops import experts as experts_ops
from r1jax.ops import linear, ragged_exchange
from r1jax.ops.experts import Matrices
from r1jax.sharding import rules
from r1jax.sharding.mesh import Place

# With fewer tokens than this on a device, `gather` is used: a ragged exchange
# would be dominated by latency.
FEW = 256
# Rows of a turn, see `_in_turns`: at least a tile of a TPU's grouped product.
LEAST = 128
LANES = 128  # of a tile of a TPU's memory
TURNS = "expert_turns"  # the loop's name in a profile and in the HLO


class Plan(NamedTuple):
  """How the operands are split over the mesh; () means not split.

  Attributes:
    form: of the experts on one device, see `experts.routed`.
    exchange: `none` (every device has all experts), `shared` (all devices of a
      group have the same tokens), `gather` or `ragged`.
    tokens: partition of the leading dimensions of x.
    group: mesh axes that the experts are split over.
    tensor: mesh axes that the experts' feed-forward width is split over.
    width: mesh axes that the input width of the parameters is split over; the
      parameters are gathered over them before use.
    precision: of the products.
    place: of the pass.
  """

  form: str
  exchange: str
  tokens: PartitionSpec
  group: tuple[str, ...]
  tensor: tuple[str, ...]
  width: tuple[str, ...]
  precision: jax.lax.Precision
  place: Place


def choose(backend: str, tokens: int) -> str:
  """The exchange to use for `tokens` tokens per device on a JAX backend."""
  # XLA:CPU has no ragged all-to-all.
  return "gather" if backend == "cpu" or tokens < FEW else "ragged"


def routed(form: str, exchange: str, x: jax.Array, experts: jax.Array,
           weights: jax.Array, w_gate_EDJ: Matrices, w_up_EDJ: Matrices,
           w_down_EJD: Matrices, place: Place, *,
           precision: jax.lax.Precision | None = None) -> jax.Array:
  """`experts.routed` on a mesh, or on one device.

  Args:
    form: of the experts on one device.
    exchange: `auto`, `gather` or `ragged`.
    x: tokens, [B, T, D] or [B, D].
    experts: int32 [..., A], distinct experts of each token.
    weights: float32 [..., A] gates.
    w_gate_EDJ: gate projections.
    w_up_EDJ: up projections.
    w_down_EJD: down projections.
    place: backend, free axes of the mesh that is set, and layout.
    precision: of the products, see `linear.precise`.

  Returns:
    Like `x`.

  Raises:
    ValueError: an unknown form or exchange.
  """
  if exchange not in ("auto", "gather", "ragged"):
    raise ValueError(
        f"exchange={exchange!r}: choose one of auto, gather, ragged")
  w = [linear.cast(a, x.dtype) for a in (w_gate_EDJ, w_up_EDJ, w_down_EJD)]
  precision = linear.precise(precision, x.dtype)
  if math.prod(place.axes.values()) == 1:
    flat = [a.reshape(-1, a.shape[-1]) for a in (x, experts, weights)]
    return experts_ops.routed(
        form, *flat, *w, precision=precision,
        interpret=place.backend != "tpu").reshape(x.shape)
  plan = _plan(form, exchange, x.shape, w_gate_EDJ.shape, precision, place)
  return _parallel(plan, x, experts, weights, *w)


def _plan(form, exchange, x_shape, w_shape, precision, place) -> Plan:
  sizes = {a: n for a, n in place.axes.items() if n > 1}
  lead = ("act_batch", "act_length")[:len(x_shape) - 1]
  tokens = rules.fitted(lead, x_shape[:-1], sizes, place.layout)
  group, width, tensor = (_names(entry) for entry in rules.fitted(
      ("experts", "expert_embed", "expert_mlp"), w_shape, sizes,
      place.layout))
  split = [name for entry in tokens for name in _names(entry)]
  # Parameters are gathered over all axes of `width`, and their gradient is
  # reduce-scattered over those of them that tokens are split over.
  width = tuple(name for name in width if name in split)
  if not group:
    exchange = "none"
  elif not set(group) <= set(split):
    exchange = "shared"
  elif exchange == "auto":
    ways = math.prod(sizes[name] for name in split)
    exchange = choose(place.backend, math.prod(x_shape[:-1]) // ways)
  return Plan(form, exchange, tokens, group, tensor, width, precision, place)


def _names(entry) -> tuple[str, ...]:
  return (entry,) if isinstance(entry, str) else tuple(entry or ())


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _parallel(plan: Plan, x, experts, weights, *w):
  rows = PartitionSpec(*plan.tokens, None)
  return jax.shard_map(
      functools.partial(_forward, plan),
      in_specs=(rows, rows, rows, *_specs(plan, (), w)), out_specs=rows,
      check_vma=False)(x, experts, weights, *w)


def _specs(plan, width, w):
  """Partition specs of w_gate, w_up and w_down, with their adapters if any."""
  group, tensor, wide = (
      names or None for names in (plan.group, plan.tensor, width))

  def spec(matrix, *names):
    if not linear.is_adapted(matrix):
      return PartitionSpec(*names)
    return jax.tree.map(lambda names: PartitionSpec(*names), matrix.axes(names),
                        is_leaf=lambda node: isinstance(node, tuple))

  gate, up, down = w
  return (spec(gate, group, wide, tensor), spec(up, group, wide, tensor),
          spec(down, group, tensor, wide))


def _save(plan, *operands):
  return _parallel(plan, *operands), operands


def _gradients(plan, operands, dout):
  rows, w = PartitionSpec(*plan.tokens, None), operands[3:]
  dx, dweights, *dw = jax.shard_map(
      functools.partial(_backward, plan),
      in_specs=(rows, rows, rows, *_specs(plan, (), w), rows),
      out_specs=(rows, rows, *_specs(plan, plan.width, w)),
      check_vma=False)(*operands, dout)
  return dx, None, dweights, *dw


_parallel.defvjp(_save, _gradients)


def _forward(plan, x, experts, weights, *w):
  """The result for the tokens of one device."""
  shape, (x, experts, weights) = x.shape, _flat(x, experts, weights)
  if plan.exchange == "ragged":
    y = ragged_exchange.forward(_ragged(plan), x, experts, weights, *w)
  elif plan.exchange == "gather":
    inputs = [_gather(a, plan.group) for a in (_tiled(x), experts, weights)]
    y = _scatter(_own(plan, *inputs, *w), plan.group)
  elif plan.exchange == "shared":
    y = jax.lax.psum(_own(plan, x, experts, weights, *w), plan.group)
  else:
    y = experts_ops.routed(plan.form, x, experts, weights, *w, **_how(plan))
  return _total(y, plan.tensor).reshape(shape)


def _backward(plan, x, experts, weights, *w_dout):
  """Gradients of this device's tokens and gates, and of its parameters."""
  *w, dout = w_dout
  shapes = x.shape, weights.shape
  x, experts, weights, dout = _flat(x, experts, weights, dout)
  if plan.exchange == "ragged":
    dx, dweights, dw = ragged_exchange.backward(
        _ragged(plan), x, experts, weights, *w, dout)
  else:
    gathers = plan.exchange == "gather"
    inputs = [_gather(a, plan.group) if gathers else a
              for a in (x, experts, weights, dout)]
    dx, dweights, dw = _own_gradients(plan, *inputs, w)
    if gathers:
      dx, dweights = (_scatter(d, plan.group) for d in (dx, dweights))
    elif plan.exchange == "shared":
      dx, dweights = jax.lax.psum((dx, dweights), plan.group)
  dx, dweights = (_total(d, plan.tensor) for d in (dx, dweights))
  totals = jax.tree.map(functools.partial(_over_devices, plan),
                        tuple(dw), tuple(w), _specs(plan, plan.width, w))
  return dx.reshape(shapes[0]), dweights.reshape(shapes[1]), *totals


def _own(plan, x, experts, weights, *w):
  """The contribution of this device's experts to these tokens."""
  chosen, gates, _ = _local(plan, experts, weights, w[0].shape[0])
  run = functools.partial(
      experts_ops.routed, plan.form, absent=True, **_how(plan))
  size = _turn(-(-experts.size // jax.lax.axis_size(plan.group)))
  if 2 * size > chosen.size:
    return run(x.reshape(len(x), -1), chosen, gates, *w)
  return _in_turns(run, size, x, chosen, gates, *w)


def _turn(pairs: int) -> int:
  """Rows of a turn: twice the pairs of a device under a balanced router."""
  return max(LEAST, 1 << (2 * pairs - 1).bit_length())


def _in_turns(run, size, x, experts_XL, weights_XL, *w):
  """`run` of the pairs that are here, `size` at a time; `x` may be `_tiled`.

  Where many devices share the experts, few of all tokens' pairs are here, but
  any number may be: sorting a row for each would move them all.
  """
  columns, absent = experts_XL.shape[1], w[0].shape[0]
  experts, weights = experts_XL.reshape(-1), weights_XL.reshape(-1)
  # Those that are here come first.
  order = jnp.pad(jnp.argsort(experts, stable=True),
                  (0, -len(experts) % size))
  here = jnp.sum(experts < absent)

  def turn(i, y_XD):
    pairs = jax.lax.dynamic_slice_in_dim(order, i * size, size)
    there = i * size + jnp.arange(size) < here
    tokens = pairs // columns
    rows = run(x[tokens].reshape(size, -1),
               jnp.where(there, experts[pairs], absent)[:, None],
               weights[pairs][:, None], *w, ordered=True)
    return y_XD.at[jnp.where(there, tokens, len(y_XD))].add(
        rows.astype(y_XD.dtype), mode="drop")

  # A token with one expert here is written once, as it is.
  y_XD = jnp.zeros((len(x), math.prod(x.shape[1:])),
                   x.dtype if columns == 1 else jnp.float32)
  with jax.named_scope(TURNS):
    y_XD = jax.lax.fori_loop(0, (here + size - 1) // size, turn, y_XD)
  return y_XD.astype(x.dtype)


def _how(plan):
  return dict(precision=plan.precision,
              interpret=plan.place.backend != "tpu")


def _ragged(plan) -> ragged_exchange.Exchange:
  return ragged_exchange.Exchange(
      plan.form, plan.group, tuple(name for name, _ in plan.place.sizes),
      plan.place.backend, plan.precision)


def _own_gradients(plan, x, experts, weights, dout, w):
  if plan.exchange == "none":
    chosen, gates, order = experts, weights, None
  else:
    chosen, gates, order = _local(plan, experts, weights, w[0].shape[0])

  def value(x, gates, *w):
    return experts_ops.routed(
        plan.form, x, chosen, gates, *w, absent=order is not None,
        **_how(plan))

  dx, dgates, *dw = jax.vjp(value, x, gates, *w)[1](dout)
  if order is None:
    return dx, dgates, dw
  # Pairs of other devices' experts have a zero gradient already.
  dweights = jnp.zeros_like(weights).at[
      jnp.arange(len(order))[:, None], order].add(dgates)
  return dx, dweights, dw


def _local(plan, experts_XA, weights_XA, n_local):
  """(token, expert) pairs of this device's experts.

  Experts are numbered from 0 on the device; n_local marks a pair of another
  device. At most n_local of a token's A experts are here, so further columns
  are dropped.

  Returns:
    (experts, gates, columns that were taken), each [X, min(A, n_local)].
  """
  local_XA = experts_XA - jax.lax.axis_index(plan.group) * n_local
  here_XA = (local_XA >= 0) & (local_XA < n_local)
  order = jnp.argsort(~here_XA, axis=-1, stable=True)[:, :n_local]
  take = lambda a: jnp.take_along_axis(a, order, -1)
  chosen = take(jnp.where(here_XA, local_XA, n_local))
  return chosen, take(jnp.where(here_XA, weights_XA, 0.0)), order


def _flat(*arrays):
  return tuple(a.reshape(-1, a.shape[-1]) for a in arrays)


def _tiled(x_XD):
  """[X, D] -> [X, D / LANES, LANES] if D divides so.

  Then no tile of a TPU's memory holds parts of several rows, so that what was
  gathered from devices with few rows each is read as it is and not copied.
  """
  x, d = x_XD.shape
  # The barrier keeps the compiler from moving the reshape past the gather.
  return x_XD if d % LANES else jax.lax.optimization_barrier(
      x_XD.reshape(x, d // LANES, LANES))


def _gather(x, axes):
  return jax.lax.all_gather(x, axes, tiled=True)


def _scatter(x, axes):
  return jax.lax.psum_scatter(x, axes, tiled=True)


def _total(x, axes):
  return jax.lax.psum(x, axes) if axes else x


def _over_devices(plan, dw, like, spec):
  """Gradient of a parameter, summed in float32 over the devices that share it.

  The sum goes over the axes that tokens are split over and, for the factor of
  an adapter that is not split over the experts' width, over `plan.tensor`.
  """
  split = [name for entry in plan.tokens for name in _names(entry)]
  dim_of = {name: dim for dim, entry in enumerate(spec)
            for name in _names(entry)}
  dw = _total(dw.astype(jnp.float32), tuple(
      name for name in (*split, *plan.tensor) if name not in dim_of))
  for axis in plan.width:
    if axis in dim_of:
      dw = jax.lax.psum_scatter(
          dw, axis, scatter_dimension=dim_of[axis], tiled=True)
  return dw.astype(like.dtype)
