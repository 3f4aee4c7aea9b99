"""The one pure update, and its driver under jit.

Gradients are sums: the weights of all terms are added up over micro-batches and
devices first, then every micro-batch's gradient is already its share of the
whole. So one device, a mesh, pmap, and any number of micro-batches give the
same update.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from r1jax.core.config import check
from r1jax.core.types import TokenBatch
from r1jax.losses import balance
from r1jax.sharding import processes, rules
from r1jax.training import metrics as metrics_lib
from r1jax.training.lora import Frozen
from r1jax.training.metrics import Metrics
from r1jax.training.objectives import Objective
from r1jax.training.state import TrainState, float32

Update = Callable[[TrainState, TokenBatch], tuple[TrainState, Metrics]]


class Reduce(NamedTuple):
  """How trees of sums and of maxima are combined over devices."""

  total: Callable[[Any], Any]
  largest: Callable[[Any], Any]


# Under jit, with a mesh or without, arrays are global and so are their sums.
GLOBAL = Reduce(lambda tree: tree, lambda tree: tree)


class Sums(NamedTuple):
  """What adds up over micro-batches, besides metrics."""

  gradients: Any
  load_LE: jax.Array


def split(batch: TokenBatch, n_micro: int) -> TokenBatch:
  """[B, T, ...] -> [n_micro, B / n_micro, T, ...] in every array.

  Raises:
    ValueError: the rows do not divide.
  """
  rows = len(batch.tokens_BT)
  check(n_micro > 0 and rows % n_micro == 0,
        f"{rows} rows do not divide into {n_micro} micro-batches; pack to a"
        " multiple of it")
  return jax.tree.map(
      lambda x: x.reshape(n_micro, rows // n_micro, *x.shape[1:]), batch)


def gradients(
    objective: Objective, state: TrainState, batch: TokenBatch,
    reduce: Reduce = GLOBAL, frozen: Frozen | None = None
) -> tuple[Sums, Metrics]:
  """Gradient of the objective over the whole batch, float32.

  Args:
    objective: what is minimised.
    state: parameters and router bias.
    batch: micro-batches [n_micro, B, T]; under pmap this device's rows of each.
    reduce: over devices.
    frozen: what `state.params` adapt (LoRA); None if they are the model's.

  Returns:
    (gradients and expert loads, metrics), reduced. The metrics have `loss` and
    each term, by name, under `loss/`.
  """
  weights = reduce.total(jax.tree.map(
      lambda w: jnp.sum(w, 0), jax.lax.map(objective.weights, batch)))

  def loss(params, micro):
    params = params if frozen is None else frozen.merge(params)
    result = objective.evaluate(params, state.router_bias_LE, micro)
    value = sum(
        factor * result.terms[name][0] / jnp.maximum(weights[name], 1e-20)
        for name, factor in objective.factors.items())
    return value, result

  def one(sums, micro):
    (value, result), grads = jax.value_and_grad(loss, has_aux=True)(
        state.params, micro)
    sums = jax.tree.map(
        jnp.add, sums, Sums(float32(grads), result.load_LE))
    means = result.metrics.means | {
        f"loss/{name}": pair for name, pair in result.terms.items()}
    # Each micro-batch's loss is a share of the whole: its shares add up.
    return sums, (value, means, result.metrics.maxima)

  zeros = Sums(
      jax.tree.map(lambda p: jnp.zeros(p.shape, jnp.float32), state.params),
      jnp.zeros_like(state.router_bias_LE))
  sums, (values, means, maxima) = jax.lax.scan(one, zeros, batch)
  values, means = jax.tree.map(lambda x: jnp.sum(x, 0), (values, means))
  maxima = jax.tree.map(lambda x: jnp.max(x, 0), maxima)
  sums, value, means = reduce.total((sums, values, means))
  means = means | metrics_lib.single(loss=value)
  return sums, Metrics(means, reduce.largest(maxima))


def apply(
    optimizer: optax.GradientTransformation, gamma: float, state: TrainState,
    sums: Sums, metrics: Metrics) -> tuple[TrainState, Metrics]:
  """The new state; all but `step` is the old one if a gradient is not finite.

  Args:
    optimizer: from `optimizer.make_optimizer`.
    gamma: step of the router bias; 0 leaves it alone.
    state: before.
    sums: from `gradients`.
    metrics: from `gradients`; `grad_norm`, `skipped` (0 or 1) and the experts'
      `load/...` are added.
  """
  norm = optax.tree.norm(sums.gradients)
  finite = jnp.isfinite(norm) & jnp.isfinite(metrics.means["loss"][0])
  updates, opt_state = optimizer.update(
      sums.gradients, state.opt_state, float32(state.params))
  new = TrainState(
      optax.apply_updates(state.params, updates), state.router_bias_LE,
      opt_state, state.step)
  if gamma:
    new = new.replace(router_bias_LE=balance.bias_update(
        state.router_bias_LE, sums.load_LE, gamma))
  new = jax.tree.map(lambda a, b: jnp.where(finite, a, b), new, state)
  groups = rules.free_axes().get("expert", 1)
  load = {f"load/{name}": value for name, value in balance.load_metrics(
      sums.load_LE, groups).items()}
  means = metrics.means | metrics_lib.single(
      grad_norm=norm, skipped=~finite, **load)
  return new.replace(step=state.step + 1), metrics.replace(means=means)


def update(
    objective: Objective, optimizer: optax.GradientTransformation, gamma: float,
    state: TrainState, batch: TokenBatch, reduce: Reduce = GLOBAL,
    frozen: Frozen | None = None) -> tuple[TrainState, Metrics]:
  """One update from micro-batches [n_micro, B, T]; pure."""
  sums, metrics = gradients(objective, state, batch, reduce, frozen)
  return apply(optimizer, gamma, state, sums, metrics)


def make_update(
    objective: Objective, optimizer: optax.GradientTransformation, *,
    gamma: float = 0.0, shardings: TrainState | None = None,
    frozen: Frozen | None = None) -> Update:
  """Compiled `update(state, batch) -> (state, metrics)`.

  The old state's buffers are donated: it must not be used again, and nothing
  that outlives the call (a reference policy) may share its arrays.

  Args:
    objective: what is minimised.
    optimizer: from `optimizer.make_optimizer`.
    gamma: step of the router bias (V3: 0.001); 0 leaves it alone.
    shardings: from `state.shardings`, to train on a mesh: place the state by
      them and the batch by `step.batch_sharding`, and call under
      `jax.set_mesh`. None: one device.
    frozen: what the state's parameters adapt (LoRA). An argument of the
      compiled program, not a constant in it, and not donated.
  """
  out = None if shardings is None else (shardings, None)
  run = jax.jit(
      lambda state, batch, frozen=None: update(
          objective, optimizer, gamma, state, batch, frozen=frozen),
      donate_argnums=0, out_shardings=out)
  return run if frozen is None else functools.partial(run, frozen=frozen)


def batch_sharding(mesh: jax.sharding.Mesh) -> jax.sharding.NamedSharding:
  """Of micro-batches [n_micro, B, T]: rows and positions over the mesh."""
  return jax.sharding.NamedSharding(
      mesh, rules.spec((None, "act_batch", "act_length")))


def check_rows(rows: int, micro_batches: int, row_length: int,
               mesh: jax.sharding.Mesh | None) -> None:
  """Raises ValueError if micro-batches do not divide over the mesh."""
  if mesh is None:
    return
  shards, parts = rules.batch_shards(mesh), mesh.shape["sequence"]
  check(rows // micro_batches % shards == 0,
        f"rows={rows} in micro_batches={micro_batches} do not divide over"
        f" {shards} devices; make rows a multiple of their product")
  check(row_length % parts == 0, f"row_length={row_length} does not divide over"
        f" mesh.sequence={parts} devices; make it a multiple of that")


def place(batch: TokenBatch, mesh: jax.sharding.Mesh | None) -> TokenBatch:
  """Micro-batches on the device, or on those of the mesh.

  Under several processes all have the same batch.
  """
  if mesh is None:
    return jax.tree.map(jnp.asarray, batch)
  return processes.same(batch, batch_sharding(mesh))


def place_parts(batch: TokenBatch, n_micro: int,
                mesh: jax.sharding.Mesh | None) -> TokenBatch:
  """Micro-batches on the mesh of rows of which each process has a part.

  Args:
    batch: this process's rows [B, T], as many as every other's.
    n_micro: micro-batches that all of them make together.
    mesh: as in `place`.
  """
  if jax.process_count() == 1:
    return place(split(batch, n_micro), mesh)
  rows = processes.rows(batch, rules.batch_sharding(mesh))
  return _splitting(n_micro, mesh)(rows)


@functools.cache
def _splitting(n_micro, mesh):
  return jax.jit(functools.partial(split, n_micro=n_micro),
                 out_shardings=batch_sharding(mesh))


def on_mesh(mesh: jax.sharding.Mesh | None
            ) -> contextlib.AbstractContextManager:
  """The context that all device work runs in."""
  return contextlib.nullcontext() if mesh is None else jax.set_mesh(mesh)
