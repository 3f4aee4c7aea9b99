"""The update of `step` under jax.pmap: every device has a copy of the state."""

from __future__ import annotations

import jax
import optax

from r1jax.core.config import check
from r1jax.core.types import TokenBatch
from r1jax.training import metrics as metrics_lib
from r1jax.training import step
from r1jax.training.objectives import Objective

AXIS = "devices"

PSUM = step.Reduce(lambda tree: jax.lax.psum(tree, AXIS),
                   lambda tree: jax.lax.pmax(tree, AXIS))


def shard(micro: TokenBatch, devices: int) -> TokenBatch:
  """[B, T, ...] -> [devices, B / devices, T, ...].

  Raises:
    ValueError: the number of rows is no multiple of `devices`.
  """
  rows = len(micro.tokens_BT)
  check(rows % devices == 0, f"{rows} rows of a micro-batch do not divide over"
        f" {devices} devices; pack to a multiple of it")
  return jax.tree.map(
      lambda x: x.reshape(devices, rows // devices, *x.shape[1:]), micro)


def make_update(
    objective: Objective, optimizer: optax.GradientTransformation, *,
    gamma: float = 0.0, held: tuple[str, ...] = ()) -> step.Update:
  """Like `step.make_update`, for micro-batches from `shard`.

  Input and output states have no device axis. Every device sums the gradients
  of its own rows; `apply` sums them over the devices.
  """
  def mapped(run, in_axes, out_axes, donate=()):
    return jax.pmap(run, axis_name=AXIS, in_axes=in_axes, out_axes=out_axes,
                    donate_argnums=donate)

  # pmap takes the number of devices from an input with a device axis.
  empty = mapped(lambda params, bias_LE, _: step.zeros(params, bias_LE, held),
                 (None, None, 0), 0)
  numbers = jax.numpy.arange(jax.local_device_count())
  return step.Update(
      weigh=mapped(lambda weights, micro: step.weigh(
          objective, weights, micro, PSUM), (None, 0), None),
      zeros=lambda params, bias_LE: empty(params, bias_LE, numbers),
      accumulate=mapped(
          lambda params, bias_LE, weights, sums, micro: step.accumulate(
              objective, params, bias_LE, weights, sums, micro, PSUM,
              held=held),
          (None, None, None, 0, 0), (0, None), donate=3),
      apply=mapped(
          lambda state, sums: step.apply(optimizer, gamma, state, sums, PSUM),
          (None, 0), None, donate=0),
      merge=jax.jit(metrics_lib.merge), names=tuple(objective.factors))
