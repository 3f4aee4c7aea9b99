"""One update: gradients summed over micro-batches, then an optimizer step.

A micro-batch is what is compiled, so no shape depends on their number:
`accumulate` adds a micro-batch's gradients to the sums, `apply` computes the
new state from the sums. `Update.sum` is the loop over `accumulate`; on
accelerators it dispatches without a host sync.

Gradients are sums, never means: the weights of all terms are first totalled
over micro-batches and devices, and each micro-batch's loss is divided by the
totals. So one device, a mesh, pmap, and any number of micro-batches give the
same update.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from r1jax.core.config import check
from r1jax.core.types import TokenBatch
from r1jax.losses import balance
from r1jax.sharding import mesh as mesh_lib
from r1jax.sharding import processes, rules
from r1jax.training import metrics as metrics_lib
from r1jax.training.lora import Frozen
from r1jax.training.metrics import Metrics
from r1jax.training.objectives import Objective
from r1jax.training.state import TrainState, float32, rounded, trained

Weights = dict[str, jax.Array]


class Reduce(NamedTuple):
  """Functions that combine trees of sums, and of maxima, over devices."""

  total: Callable[[Any], Any]
  largest: Callable[[Any], Any]


# Under jit, with or without a mesh, arrays are global and so are their sums.
GLOBAL = Reduce(lambda tree: tree, lambda tree: tree)


class Sums(NamedTuple):
  """What is summed over micro-batches, beside metrics.

  Attributes:
    gradients: float32, of the trained parameters.
    load_LE: float32 tokens sent to each expert.
    loss: float32 scalar.
  """

  gradients: Any
  load_LE: jax.Array
  loss: jax.Array


class Update(NamedTuple):
  """The compiled programs of an update.

  Attributes:
    weigh: (weights, micro-batch) -> weights of the terms, with those of the
      micro-batch added.
    zeros: (params, router_bias_LE) -> zero sums.
    accumulate: (params, router_bias_LE, weights, sums, micro-batch) -> (sums,
      metrics of the micro-batch). The input sums are donated.
    apply: (state, sums) -> (state, metrics). The old state is donated: it must
      not be used again, nor arrays that share its buffers.
    merge: (metrics, metrics) -> metrics of both.
    names: of the objective's terms.
  """

  weigh: Callable[[Weights, TokenBatch], Weights]
  zeros: Callable[[Any, jax.Array], Sums]
  accumulate: Callable[..., tuple[Sums, Metrics]]
  apply: Callable[[TrainState, Sums], tuple[TrainState, Metrics]]
  merge: Callable[[Metrics, Metrics], Metrics]
  names: tuple[str, ...]

  def run(self, state: TrainState, micros: Sequence[TokenBatch],
          params: Any = None) -> tuple[TrainState, Metrics]:
    """One update: `sum`, then `apply`."""
    sums, metrics = self.sum(state, micros, params)
    state, applied = self.apply(state, sums)
    return state, joined(metrics, applied)

  def sum(self, state: TrainState, micros: Sequence[TokenBatch],
          params: Any = None) -> tuple[Sums, Metrics]:
    """The sums over all of `micros`; no host sync on accelerators.

    Args:
      state: not changed; its optimizer state is not read.
      micros: micro-batches on the device, all of the same shape.
      params: the state's parameters cast to the compute dtype (`Model.cast`);
        None uses the state's own.
    """
    weights = {name: np.float32(0.0) for name in self.names}
    for micro in micros:
      weights = self.weigh(weights, micro)
    params = state.params if params is None else params
    sums = self.zeros(state.params, state.router_bias_LE)
    metrics = None
    for micro in micros:
      sums, of_micro = self.accumulate(
          params, state.router_bias_LE, weights, sums, micro)
      paced(of_micro)
      metrics = of_micro if metrics is None else self.merge(metrics, of_micro)
    return sums, metrics

  def compilations(self) -> int:
    """Number of programs compiled so far, for tests and logs."""
    # A private counter of jit; there is no public one.
    return sum(f._cache_size() for f in self if hasattr(f, "_cache_size"))


def paced(outputs: Any) -> Any:
  """Waits for `outputs` of a micro-batch on a CPU, and returns them.

  A CPU allocates a program's memory at dispatch, so every micro-batch in flight
  would hold its activations. On accelerators it does not wait.
  """
  return jax.block_until_ready(outputs) if (
      mesh_lib.backend() == "cpu") else outputs


def joined(summed: Metrics, applied: Metrics) -> Metrics:
  """The metrics of an update: those of `sum` and those of `apply`."""
  return Metrics(summed.means | applied.means, summed.maxima)


def make_update(
    objective: Objective, optimizer: optax.GradientTransformation, *,
    gamma: float = 0.0, shardings: TrainState | None = None,
    frozen: Frozen | None = None, held: tuple[str, ...] = ()) -> Update:
  """The programs of an update under jit, on one device or a mesh.

  Args:
    objective: what is minimised.
    optimizer: from `optimizer.make_optimizer`.
    gamma: update speed of the router bias (V3: 0.001); 0 keeps the bias.
    shardings: from `state.shardings`, to train on a mesh: place the state on
      them and micro-batches with `place`, and call under `jax.set_mesh`. None
      for one device.
    frozen: base parameters if the state's are an adapter (LoRA). They are an
      argument of the compiled program, not a constant, and not donated.
    held: top-level parts of the parameters that are not trained.
  """
  sums_at = state_at = None
  if shardings is not None:
    whole = shardings.step
    sums_at = Sums(trained(shardings.params, held), whole, whole)
    state_at = shardings
  add = jax.jit(
      lambda params, bias_LE, weights, sums, micro, frozen: accumulate(
          objective, params, bias_LE, weights, sums, micro, frozen=frozen,
          held=held),
      donate_argnums=3, out_shardings=sums_at and (sums_at, None))
  return Update(
      weigh=jax.jit(lambda weights, micro: weigh(objective, weights, micro)),
      zeros=jax.jit(lambda params, bias_LE: zeros(params, bias_LE, held),
                    out_shardings=sums_at),
      accumulate=_With(add, frozen),
      apply=jax.jit(
          lambda state, sums: apply(optimizer, gamma, state, sums),
          donate_argnums=0, out_shardings=state_at and (state_at, None)),
      merge=jax.jit(metrics_lib.merge), names=tuple(objective.factors))


class _With:
  """A compiled function with its last argument bound."""

  def __init__(self, run, last):
    self._run, self._last = run, last

  def __call__(self, *args):
    return self._run(*args, self._last)

  def lower(self, *args):
    return self._run.lower(*args, self._last)

  def _cache_size(self):
    return self._run._cache_size()


def weigh(objective: Objective, weights: Weights, micro: TokenBatch,
          reduce: Reduce = GLOBAL) -> Weights:
  """Adds the weights of a micro-batch's terms over all devices; pure."""
  added = reduce.total(objective.weights(micro))
  return {name: weights[name] + added[name] for name in weights}


def zeros(params: Any, bias_LE: jax.Array, held: tuple[str, ...] = ()) -> Sums:
  """The sums before the first micro-batch."""
  gradients = jax.tree.map(
      lambda p: jnp.zeros(p.shape, jnp.float32), trained(params, held))
  return Sums(gradients, jnp.zeros_like(bias_LE), jnp.zeros((), jnp.float32))


def accumulate(
    objective: Objective, params: Any, bias_LE: jax.Array, weights: Weights,
    sums: Sums, micro: TokenBatch, reduce: Reduce = GLOBAL,
    frozen: Frozen | None = None, held: tuple[str, ...] = ()
) -> tuple[Sums, Metrics]:
  """Adds a micro-batch's share of the objective's gradient; pure.

  Args:
    objective: what is minimised.
    params: in any dtype; an adapter if there is `frozen`.
    bias_LE: selection bias of the routers.
    weights: of the terms, totalled over all micro-batches.
    sums: of the micro-batches before.
    micro: [B, T]; under pmap this device's rows.
    reduce: combines the metrics over devices.
    frozen: base parameters of the adapter (LoRA); None without an adapter.
    held: top-level parts of `params` that get no gradient.

  Returns:
    (sums, under pmap those of this device; metrics, which include the terms as
    `loss/NAME`).
  """
  rest = {name: params[name] for name in held if name in params}

  def loss(moving):
    whole = moving | rest
    whole = whole if frozen is None else frozen.merge(whole)
    result = objective.evaluate(whole, bias_LE, micro)
    value = sum(
        factor * result.terms[name][0] / jnp.maximum(weights[name], 1e-20)
        for name, factor in objective.factors.items())
    return value, result

  (value, result), grads = jax.value_and_grad(loss, has_aux=True)(
      trained(params, held))
  added = Sums(float32(grads), result.load_LE, value)
  means = result.metrics.means | {
      f"loss/{name}": pair for name, pair in result.terms.items()}
  return (jax.tree.map(jnp.add, sums, added),
          Metrics(reduce.total(means), reduce.largest(result.metrics.maxima)))


def apply(
    optimizer: optax.GradientTransformation, gamma: float, state: TrainState,
    sums: Sums, reduce: Reduce = GLOBAL) -> tuple[TrainState, Metrics]:
  """One optimizer step; pure.

  If the loss or the gradient's norm is not finite, the update is skipped: only
  `step` changes. Parameters are float32 masters, or are rounded stochastically
  to the dtype that they are kept in (`OptimizerConfig.rounding`).

  Args:
    optimizer: from `optimizer.make_optimizer`.
    gamma: update speed of the router bias; 0 keeps the bias.
    state: before the update.
    sums: over all micro-batches. Parameters without a gradient in them are not
      trained.
    reduce: combines the sums over devices.

  Returns:
    (state, metrics: `loss`, `grad_norm`, `skipped` (0 or 1) and the experts'
    `load/...`).
  """
  sums = reduce.total(sums)
  norm = optax.tree.norm(sums.gradients)
  finite = jnp.isfinite(norm) & jnp.isfinite(sums.loss)
  moving = {name: state.params[name] for name in sums.gradients}
  masters = float32(moving)
  choose = functools.partial(
      jax.tree.map, lambda a, b: jnp.where(finite, a, b))
  before = state.opt_state
  updates, opt_state = optimizer.update(sums.gradients, before, masters)
  params = choose(rounded(
      optax.apply_updates(masters, updates), moving, state.step), moving)
  if mesh_lib.backend() == "cpu" and not rules.free_axes():
    # Once more, in an order in which XLA writes moments in place, see `_after`.
    before = optax.tree_map_params(optimizer, _after, before, params)
    _, opt_state = optimizer.update(sums.gradients, before, masters)
  new = state.replace(params=state.params | params,
                      opt_state=choose(opt_state, before))
  if gamma:
    new = new.replace(router_bias_LE=choose(balance.bias_update(
        state.router_bias_LE, sums.load_LE, gamma), state.router_bias_LE))
  groups = rules.free_axes().get("expert", 1)
  load = {f"load/{name}": value for name, value in balance.load_metrics(
      sums.load_LE, groups).items()}
  means = metrics_lib.single(
      loss=sums.loss, grad_norm=norm, skipped=~finite, **load)
  return new.replace(step=state.step + 1), Metrics(means, {})


def _after(moment: jax.Array, param: jax.Array) -> jax.Array:
  """The moment, for use after the new parameter was computed from it.

  XLA on a CPU copies all moments before it computes the parameters, unless new
  moments depend on new parameters, so that they can be written in place.
  """
  if not param.size:
    return moment
  first = param[(0,) * param.ndim]
  never = (first != first) & (jnp.abs(first) == jnp.inf)
  return jnp.where(never, jnp.zeros_like(moment), moment)


def micro_batches(batch: Any, count: int) -> list[Any]:
  """Splits [B, T, ...] into `count` times [B / count, T, ...], in order.

  Args:
    batch: a TokenBatch, or another tree of arrays with equal numbers of rows.
    count: number of micro-batches.

  Raises:
    ValueError: the number of rows is no multiple of `count`.
  """
  rows = len(jax.tree.leaves(batch)[0])
  check(count > 0 and rows % count == 0,
        f"{rows} rows do not divide into {count} micro-batches; pack to a"
        " multiple of it")
  size = rows // count
  return [jax.tree.map(lambda x, i=i: x[i * size:][:size], batch)
          for i in range(count)]


def batch_sharding(mesh: jax.sharding.Mesh) -> jax.sharding.NamedSharding:
  """Sharding of a micro-batch [B, T]: rows and positions over the mesh."""
  return jax.sharding.NamedSharding(
      mesh, rules.spec(("act_batch", "act_length")))


def check_rows(micro_rows: int, row_length: int,
               mesh: jax.sharding.Mesh | None) -> None:
  """Raises ValueError if a micro-batch does not divide over the mesh."""
  if mesh is None:
    return
  shards, parts = rules.batch_shards(mesh), mesh.shape["sequence"]
  check(micro_rows % shards == 0, f"{micro_rows} rows of a micro-batch do not"
        f" divide over {shards} devices; make them a multiple of that")
  check(row_length % parts == 0, f"row_length={row_length} does not divide over"
        f" mesh.sequence={parts} devices; make it a multiple of that")


def place(micro: TokenBatch, mesh: jax.sharding.Mesh | None, *,
          parts: bool = False) -> TokenBatch:
  """Copies a micro-batch from the host to the device, or to those of a mesh.

  Args:
    micro: on the host.
    mesh: None for one device.
    parts: in a multi-process run, whether `micro` is this process's part of the
      rows (of equal size in all processes) or the same in all processes.
  """
  if mesh is None:
    return jax.tree.map(jnp.asarray, micro)
  lay = processes.rows if parts else processes.same
  return lay(micro, batch_sharding(mesh))


def on_mesh(mesh: jax.sharding.Mesh | None
            ) -> contextlib.AbstractContextManager:
  """A context in which `mesh` is the current mesh, if there is one."""
  return contextlib.nullcontext() if mesh is None else jax.set_mesh(mesh)
