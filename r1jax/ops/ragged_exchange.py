"""Sends tokens to the devices of their experts by ragged all-to-all, and back.

The receive buffer of a device has a fixed number of rows. If more rows are sent
to any device, because many tokens chose its experts, the exchange takes further
rounds. So no token is dropped, memory is bounded, and a balanced router needs
one round. The number of rounds is only known at run time, so the loops are
`fori_loop`s with a hand-written backward pass.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from r1jax.ops import experts as experts_ops

# Rows of the receive buffer: 1.25 times what a balanced router sends, and at
# most MOST, to bound memory.
SLACK = 1.25
MOST = 65536
SCOPE = "expert_rounds"  # the loops' name in a profile and in the HLO


class Exchange(NamedTuple):
  """Static arguments.

  Attributes:
    form: of the experts on one device, see `experts.routed`.
    group: mesh axes that the experts are split over.
    everywhere: all axes of the mesh.
    backend: `cpu`, `gpu` or `tpu`.
    precision: of the products.
  """

  form: str
  group: tuple[str, ...]
  everywhere: tuple[str, ...]
  backend: str
  precision: jax.lax.Precision | None


class Routes(NamedTuple):
  """Which rows each device sends to which; S senders and R receivers.

  Attributes:
    pair_of_slot: int32, this device's (token, expert) pairs sorted by expert.
    slot_of_pair_XA: int32, the inverse permutation.
    loads_SRL: int32, rows from each sender to each of a receiver's L experts.
    starts_SR: int32, index of a receiver's first row among a sender's slots.
    arrivals_SR: int32, rows that a receiver gets before those of a sender. A
      receiver r takes the rows of senders r, r + 1, ... in cyclic order, so
      that all senders are busy in every round.
    rounds: int32 scalar, the same on all devices.
    capacity: rows of the receive buffer.
  """

  pair_of_slot: jax.Array
  slot_of_pair_XA: jax.Array
  loads_SRL: jax.Array
  starts_SR: jax.Array
  arrivals_SR: jax.Array
  rounds: jax.Array
  capacity: int


def chunks(tokens: int, activated: int) -> int:
  """Number of equal parts in which tokens are sent, one after the other.

  Few enough tokens per part that a balanced router needs one round for each.
  """
  least = -(-int(tokens * activated * SLACK) // MOST)
  return next((n for n in range(least, min(4 * least, tokens) + 1)
               if tokens % n == 0), 1)


def capacity(pairs: int) -> int:
  """Rows of the receive buffer of a device that sends `pairs` rows."""
  return min(max(1, int(pairs * SLACK)), MOST)


def forward(exchange: Exchange, x_XD, experts_XA, weights_XA, *w):
  """sum_a weight_a * expert_a(x) of this device's tokens; in `shard_map`.

  Args:
    exchange: static arguments.
    x_XD: this device's tokens.
    experts_XA: int32, their experts, numbered over the whole group.
    weights_XA: float32 gates.
    w: gate, up and down projections of this device's experts.

  Returns:
    [X, D] in the dtype of `x_XD`.
  """
  n = chunks(*experts_XA.shape)
  parts = _parts(n, x_XD, experts_XA, weights_XA)
  y = jax.lax.map(lambda part: _forward(exchange, *part, *w), parts)
  return y.reshape(x_XD.shape)


def backward(exchange: Exchange, x_XD, experts_XA, weights_XA, *w_dout):
  """Gradients of `forward`, which recompute the experts' outputs.

  Args:
    exchange, x_XD, experts_XA, weights_XA: as in `forward`.
    w_dout: gate, up and down projections, then the gradient of the result
      [X, D].

  Returns:
    (dx [X, D], dweights [X, A], float32 gradients of this device's experts).
  """
  *w, dout_XD = w_dout

  def one(dw, part):
    dx, dweights, new = _backward(exchange, *part[:3], *w, part[3])
    return jax.tree.map(jnp.add, dw, new), (dx, dweights)

  n = chunks(*experts_XA.shape)
  dw, (dx, dweights) = jax.lax.scan(
      one, _zeros(w),
      _parts(n, x_XD, experts_XA, weights_XA, dout_XD))
  return dx.reshape(x_XD.shape), dweights.reshape(weights_XA.shape), dw


def _zeros(w):
  return jax.tree.map(lambda a: jnp.zeros(a.shape, jnp.float32), list(w))


def _parts(n, *arrays):
  return tuple(a.reshape(n, len(a) // n, *a.shape[1:]) for a in arrays)


def _forward(exchange, x_XD, experts_XA, weights_XA, *w):
  group = exchange.group
  routes = _routes(exchange, experts_XA, w[0].shape[0])
  x_slots = x_XD[routes.pair_of_slot // experts_XA.shape[1]]

  def one_round(number, y_slots):
    there, back = _windows(routes, group, number)
    rows = _send(exchange, x_slots, _empty(routes, x_slots), there)
    y = _experts(exchange, rows, _expert_of_row(routes, group, number), *w)
    return _send(exchange, y, y_slots, back)

  with jax.named_scope(SCOPE):
    y_slots = jax.lax.fori_loop(
        0, routes.rounds, one_round, jnp.zeros_like(x_slots))
  y_XAD = y_slots[routes.slot_of_pair_XA].astype(jnp.float32)
  return jnp.sum(y_XAD * weights_XA[..., None], 1).astype(x_XD.dtype)


def _backward(exchange, x_XD, experts_XA, weights_XA, *w_dout):
  *w, dout_XD = w_dout
  group, n_local = exchange.group, w[0].shape[0]
  routes = _routes(exchange, experts_XA, n_local)
  token_of_slot = routes.pair_of_slot // experts_XA.shape[1]
  x_slots, dout_slots = x_XD[token_of_slot], dout_XD[token_of_slot]
  weight_slots = weights_XA.reshape(-1)[routes.pair_of_slot]

  def one_round(number, sums):
    dx_slots, dweight_slots, dw = sums
    there, back = _windows(routes, group, number)
    rows, dout, weight = (
        _send(exchange, a, _empty(routes, a), there)
        for a in (x_slots, dout_slots, weight_slots))
    experts = _expert_of_row(routes, group, number)
    y, transpose = jax.vjp(
        lambda rows, *w: _experts(exchange, rows, experts, *w), rows, *w)
    real = experts[:, 0] < n_local
    products = y.astype(jnp.float32) * dout.astype(jnp.float32)
    # Rows of the buffer that received nothing may hold anything.
    dweight = jnp.where(real, jnp.sum(products, -1), 0.0)
    dx, *new = transpose(
        (dout.astype(jnp.float32) * weight[:, None]).astype(y.dtype))
    dw = jax.tree.map(
        lambda total, d: total + d.astype(jnp.float32), dw, new)
    return (_send(exchange, dx, dx_slots, back),
            _send(exchange, dweight, dweight_slots, back), dw)

  with jax.named_scope(SCOPE):
    dx_slots, dweight_slots, dw = jax.lax.fori_loop(
        0, routes.rounds, one_round,
        (jnp.zeros_like(x_slots), jnp.zeros_like(weight_slots),
         _zeros(w)))
  dx_XAD = dx_slots[routes.slot_of_pair_XA].astype(jnp.float32)
  return (jnp.sum(dx_XAD, 1).astype(x_XD.dtype),
          dweight_slots[routes.slot_of_pair_XA], dw)


def _experts(exchange, rows, experts, *w):
  ones = jnp.ones(experts.shape, jnp.float32)
  return experts_ops.routed(
      exchange.form, rows, experts, ones, *w, absent=True,
      precision=exchange.precision, interpret=exchange.backend != "tpu")


def _empty(routes, like):
  return jnp.zeros((routes.capacity, *like.shape[1:]), like.dtype)


def _routes(exchange, experts_XA, n_local) -> Routes:
  group = exchange.group
  n = jax.lax.axis_size(group)
  flat = experts_XA.reshape(-1)
  pair_of_slot = jnp.argsort(flat, stable=True).astype(jnp.int32)
  slot_of_pair_XA = jnp.argsort(pair_of_slot).astype(jnp.int32).reshape(
      experts_XA.shape)
  load_E = jnp.bincount(flat, length=n * n_local).astype(jnp.int32)
  loads_SRL = jax.lax.all_gather(load_E, group).reshape(n, n, n_local)
  sizes_SR = jnp.sum(loads_SRL, -1)
  starts_SR = jnp.cumsum(sizes_SR, 1) - sizes_SR
  devices = jnp.arange(n)
  # Entry [j, r] is the sender j places after receiver r.
  turned_SR = (devices[:, None] + devices[None]) % n
  turned = jnp.take_along_axis(sizes_SR, turned_SR, 0)
  before = jnp.cumsum(turned, 0) - turned
  arrivals_SR = jnp.take_along_axis(
      before, (devices[:, None] - devices[None]) % n, 0)
  rows = capacity(flat.size)
  most = jnp.max(jnp.sum(sizes_SR, 0))
  # All devices of the mesh, not only those of a group, take the same number of
  # rounds, because XLA may schedule other collectives in between.
  rounds = jax.lax.pmax((most + rows - 1) // rows, exchange.everywhere)
  return Routes(pair_of_slot, slot_of_pair_XA, loads_SRL, starts_SR,
                arrivals_SR, rounds, rows)


class Window(NamedTuple):
  """What this device sends in a round: int32 [n devices] each.

  They are the arguments of `jax.lax.ragged_all_to_all`.

  Attributes:
    begins: index in the operand of the first row for each receiver.
    sizes: number of rows for each receiver.
    places: index of that first row in the receiver's buffer.
    coming: number of rows from each sender.
  """

  begins: jax.Array
  sizes: jax.Array
  places: jax.Array
  coming: jax.Array


def _windows(routes, group, number) -> tuple[Window, Window]:
  """The windows of a round: tokens to experts, and results back."""
  me = jax.lax.axis_index(group)
  first = number * routes.capacity
  sizes_SR = jnp.sum(routes.loads_SRL, -1)
  low_SR = jnp.clip(first - routes.arrivals_SR, 0, sizes_SR)
  high_SR = jnp.clip(
      first + routes.capacity - routes.arrivals_SR, 0, sizes_SR)
  sent_SR = high_SR - low_SR
  at_sender_SR = routes.starts_SR + low_SR
  at_receiver_SR = jnp.clip(
      routes.arrivals_SR + low_SR - first, 0, routes.capacity)
  there = Window(at_sender_SR[me], sent_SR[me], at_receiver_SR[me],
                 sent_SR[:, me])
  back = Window(at_receiver_SR[:, me], sent_SR[:, me], at_sender_SR[:, me],
                sent_SR[me])
  return there, back


def _expert_of_row(routes, group, number) -> jax.Array:
  """int32 [capacity, 1], local expert of each received row; L for none."""
  n, _, n_local = routes.loads_SRL.shape
  me = jax.lax.axis_index(group)
  loads_SL = jnp.roll(routes.loads_SRL[:, me], -me, 0)
  ends = jnp.cumsum(loads_SL.reshape(-1))
  row = number * routes.capacity + jnp.arange(routes.capacity)
  block = jnp.searchsorted(ends, row, side="right")
  expert = jnp.where(row < ends[-1], block % n_local, n_local)
  return expert.astype(jnp.int32)[:, None]


def _send(exchange, rows, buffer, window: Window):
  """`buffer` with the rows that the devices of the group sent into it."""
  group = exchange.group
  if exchange.backend != "cpu":
    return jax.lax.ragged_all_to_all(rows, buffer, *window, axis_name=group)
  # XLA:CPU has no ragged all-to-all: all-gather everything and select.
  rows_S, begins_SR, sizes_SR, places_SR = jax.lax.all_gather(
      (rows, *window[:3]), group)
  me = jax.lax.axis_index(group)
  slot = jnp.arange(len(buffer))
  begins, sizes, places = (a[:, me] for a in (begins_SR, sizes_SR, places_SR))
  hit_SX = (slot[None] >= places[:, None]) & (
      slot[None] < (places + sizes)[:, None])
  sender = jnp.argmax(hit_SX, 0)
  source = slot + (begins - places)[sender]
  got = rows_S[sender, jnp.clip(source, 0, len(rows) - 1)]
  there = jnp.any(hit_SX, 0).reshape(-1, *(1,) * (rows.ndim - 1))
  return jnp.where(there, got, buffer)
