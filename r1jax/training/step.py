"""One update: gradients summed over micro-batches, then an optimizer step.

The compiled unit is a micro-batch, so no shape depends on how many there are:
`accumulate` adds one micro-batch's gradients to the sums, `apply` turns the
sums into a new state. `Update.sum` is the loop around the former; it only
dispatches and never waits for an accelerator.

Gradients are sums: the weights of all terms are added up over micro-batches and
devices first, then every micro-batch's gradient is already its share of the
whole. So one device, a mesh, pmap, and any number of micro-batches give the
same update.
"""

from __future__ import annotations

import contextlib
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
  """How trees of sums and of maxima are combined over devices."""

  total: Callable[[Any], Any]
  largest: Callable[[Any], Any]


# Under jit, with a mesh or without, arrays are global and so are their sums.
GLOBAL = Reduce(lambda tree: tree, lambda tree: tree)


class Sums(NamedTuple):
  """What adds up over micro-batches, besides metrics.

  Attributes:
    gradients: float32, of the trained parameters.
    load_LE: float32 tokens of each expert.
    loss: float32 scalar, of all micro-batches so far.
  """

  gradients: Any
  load_LE: jax.Array
  loss: jax.Array


class Update(NamedTuple):
  """The compiled programs of an update.

  Attributes:
    weigh: (weights, micro-batch) -> the weights of the terms with this
      micro-batch's added.
    zeros: (trained parameters, router_bias_LE) -> empty sums.
    accumulate: (params, router_bias_LE, weights, sums, micro-batch) -> (sums,
      metrics of the micro-batch). The sums that come in are donated.
    apply: (state, sums) -> (state, metrics). The old state is donated: it must
      not be used again, and nothing that outlives the call may share its
      arrays.
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
    """The sums over all of `micros`; an accelerator is not waited for.

    Args:
      state: stays as it is; its optimizer state is not read.
      micros: micro-batches on the device, all of one shape.
      params: the parameters to compute with, if they are not the state's own:
        the same values in the compute dtype.
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
    """Programs compiled so far, for tests and logs."""
    # jit's own counter; there is no public one.
    return sum(f._cache_size() for f in self if hasattr(f, "_cache_size"))


def paced(outputs: Any) -> Any:
  """`outputs` of a program that is run for one micro-batch after the other.

  On a CPU they are waited for: it takes a program's memory when the program is
  dispatched and not when it runs, so that every micro-batch in flight would
  hold its activations. An accelerator is not waited for.
  """
  return jax.block_until_ready(outputs) if (
      mesh_lib.backend() == "cpu") else outputs


def joined(summed: Metrics, applied: Metrics) -> Metrics:
  """The metrics of an update, from its two parts."""
  return Metrics(summed.means | applied.means, summed.maxima)


def make_update(
    objective: Objective, optimizer: optax.GradientTransformation, *,
    gamma: float = 0.0, shardings: TrainState | None = None,
    frozen: Frozen | None = None, held: tuple[str, ...] = ()) -> Update:
  """The programs of an update under jit, on one device or a mesh.

  Args:
    objective: what is minimised.
    optimizer: from `optimizer.make_optimizer`.
    gamma: step of the router bias (V3: 0.001); 0 leaves it alone.
    shardings: from `state.shardings`, to train on a mesh: place the state by
      them and micro-batches by `place`, and call under `jax.set_mesh`. None:
      one device.
    frozen: what the state's parameters adapt (LoRA). An argument of the
      compiled program, not a constant in it, and not donated.
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
  """A compiled function with its last argument given."""

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
  """Adds the weights of a micro-batch's terms, of all devices; pure."""
  added = reduce.total(objective.weights(micro))
  return {name: weights[name] + added[name] for name in weights}


def zeros(params: Any, bias_LE: jax.Array, held: tuple[str, ...] = ()) -> Sums:
  """Sums before the first micro-batch."""
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
    params: to compute with, in any dtype; an adapter if there is `frozen`.
    bias_LE: selection bias of the routers.
    weights: of the terms, over all micro-batches.
    sums: so far.
    micro: [B, T]; under pmap this device's rows.
    reduce: of the metrics over devices.
    frozen: what `params` adapt (LoRA); None if they are the model's.
    held: top-level parts of `params` that get no gradient.

  Returns:
    (sums, of this device under pmap; metrics with each term, by name, under
    `loss/`).
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
  """The new state; all but `step` is the old one if a gradient is not finite.

  Parameters are float32 masters, or are rounded stochastically to the dtype
  that they are kept in (`OptimizerConfig.rounding`).

  Args:
    optimizer: from `optimizer.make_optimizer`.
    gamma: step of the router bias; 0 leaves it alone.
    state: before.
    sums: of all micro-batches; what was not summed is not trained.
    reduce: over devices.

  Returns:
    (state, metrics: `loss`, `grad_norm`, `skipped` (0 or 1) and the experts'
    `load/...`).
  """
  sums = reduce.total(sums)
  norm = optax.tree.norm(sums.gradients)
  finite = jnp.isfinite(norm) & jnp.isfinite(sums.loss)
  moving = {name: state.params[name] for name in sums.gradients}
  masters = float32(moving)
  updates, opt_state = optimizer.update(
      sums.gradients, state.opt_state, masters)
  params = rounded(optax.apply_updates(masters, updates), moving, state.step)
  new = TrainState(
      state.params | params, state.router_bias_LE, opt_state, state.step)
  if gamma:
    new = new.replace(router_bias_LE=balance.bias_update(
        state.router_bias_LE, sums.load_LE, gamma))
  new = jax.tree.map(lambda a, b: jnp.where(finite, a, b), new, state)
  groups = rules.free_axes().get("expert", 1)
  load = {f"load/{name}": value for name, value in balance.load_metrics(
      sums.load_LE, groups).items()}
  means = metrics_lib.single(
      loss=sums.loss, grad_norm=norm, skipped=~finite, **load)
  return new.replace(step=state.step + 1), Metrics(means, {})


def micro_batches(batch: Any, count: int) -> list[Any]:
  """[B, T, ...] -> `count` times [B / count, T, ...], in order.

  Args:
    batch: a TokenBatch, or another tree of arrays of as many rows.
    count: of micro-batches.

  Raises:
    ValueError: the rows do not divide.
  """
  rows = len(jax.tree.leaves(batch)[0])
  check(count > 0 and rows % count == 0,
        f"{rows} rows do not divide into {count} micro-batches; pack to a"
        " multiple of it")
  size = rows // count
  return [jax.tree.map(lambda x, i=i: x[i * size:][:size], batch)
          for i in range(count)]


def batch_sharding(mesh: jax.sharding.Mesh) -> jax.sharding.NamedSharding:
  """Of a micro-batch [B, T]: rows and positions over the mesh."""
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
  """A micro-batch on the device, or on those of the mesh.

  Args:
    micro: on the host.
    mesh: None for one device.
    parts: under several processes: whether each has rows of its own, as many
      as every other, and not all of them the same.
  """
  if mesh is None:
    return jax.tree.map(jnp.asarray, micro)
  lay = processes.rows if parts else processes.same
  return lay(micro, batch_sharding(mesh))


def on_mesh(mesh: jax.sharding.Mesh | None
            ) -> contextlib.AbstractContextManager:
  """The context that all device work runs in."""
  return contextlib.nullcontext() if mesh is None else jax.set_mesh(mesh)
