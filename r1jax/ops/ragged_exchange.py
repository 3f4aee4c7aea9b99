"""Tokens to the devices of their experts by ragged all-to-all, and back.

A device sends a part of its tokens at a time, and receives at most a fixed
number of rows; where more are on their way, as when many tokens choose one
device's experts, all go on in further rounds. So nothing is dropped, memory is
bounded, and a balanced router needs one round. The number of rounds is known
only when running, hence loops whose backward pass is written out.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from r1jax.ops import experts as experts_ops

# Rows that a device receives in a round: what a balanced router sends, and a
# quarter more; at most MOST, which bounds memory.
SLACK = 1.25
MOST = 65536
SCOPE = "expert_rounds"  # the loops' name in a profile and in the HLO


class Exchange(NamedTuple):
  """What is static.

  Attributes:
    form: of the experts on one device, see `experts.routed`.
    group: the mesh axes whose devices share the experts.
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
  """Who sends what to whom; S senders, R receivers, n devices each.

  Attributes:
    pair_of_slot: int32, the sender's pairs sorted by expert.
    slot_of_pair_XA: int32, its inverse.
    loads_SRL: int32, rows from each sender to each receiver's L experts.
    starts_SR: int32, where a receiver's rows begin among the sender's slots.
    arrivals_SR: int32, rows that a receiver gets before those of a sender. It
      begins with its own and goes round, so that in every round all senders
      have rows to send.
    rounds: int32 scalar, the same on all devices.
    capacity: rows of a round.
  """

  pair_of_slot: jax.Array
  slot_of_pair_XA: jax.Array
  loads_SRL: jax.Array
  starts_SR: jax.Array
  arrivals_SR: jax.Array
  rounds: jax.Array
  capacity: int


def chunks(tokens: int, activated: int) -> int:
  """Equal parts that so many tokens are sent in, each in one round if it can.
  """
  least = -(-int(tokens * activated * SLACK) // MOST)
  return next((n for n in range(least, min(4 * least, tokens) + 1)
               if tokens % n == 0), 1)


def capacity(pairs: int) -> int:
  """Rows that a device receives in a round, of so many it has to send."""
  return min(max(1, int(pairs * SLACK)), MOST)


def forward(exchange: Exchange, x_XD, experts_XA, weights_XA, *w):
  """sum_a weight_a * expert_a(x) of this device's tokens; in `shard_map`.

  Args:
    exchange: what is static.
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
  """(dx [X, D], dweights [X, A], float32 gradients of this device's experts).

  The experts are computed again where the gradient arrives.
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
    # Where no row arrived y may be anything.
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
  # Row j of a receiver's column is the sender j places after it.
  turned_SR = (devices[:, None] + devices[None]) % n
  turned = jnp.take_along_axis(sizes_SR, turned_SR, 0)
  before = jnp.cumsum(turned, 0) - turned
  arrivals_SR = jnp.take_along_axis(
      before, (devices[:, None] - devices[None]) % n, 0)
  rows = capacity(flat.size)
  most = jnp.max(jnp.sum(sizes_SR, 0))
  # All devices of the mesh turn alike: other collectives may stand in between.
  rounds = jax.lax.pmax((most + rows - 1) // rows, exchange.everywhere)
  return Routes(pair_of_slot, slot_of_pair_XA, loads_SRL, starts_SR,
                arrivals_SR, rounds, rows)


class Window(NamedTuple):
  """What this device sends in a round, and where to: [n] each."""

  begins: jax.Array  # of the rows for each receiver, in the operand
  sizes: jax.Array
  places: jax.Array  # in the receiver's buffer
  coming: jax.Array  # rows from each sender


def _windows(routes, group, number) -> tuple[Window, Window]:
  """The way there and the way back of a round."""
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
  """int32 [capacity, 1], this device's expert of each row; L is none."""
  n, _, n_local = routes.loads_SRL.shape
  me = jax.lax.axis_index(group)
  loads_SL = jnp.roll(routes.loads_SRL[:, me], -me, 0)
  ends = jnp.cumsum(loads_SL.reshape(-1))
  row = number * routes.capacity + jnp.arange(routes.capacity)
  block = jnp.searchsorted(ends, row, side="right")
  expert = jnp.where(row < ends[-1], block % n_local, n_local)
  return expert.astype(jnp.int32)[:, None]


def _send(exchange, rows, buffer, window: Window):
  """`buffer` with what all devices of the group sent into it."""
  group = exchange.group
  if exchange.backend != "cpu":
    return jax.lax.ragged_all_to_all(rows, buffer, *window, axis_name=group)
  # XLA:CPU has no such operation: everything goes everywhere.
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
