"""The same update under jax.pmap: a replica of the state on every device."""

from __future__ import annotations

import jax
import optax

from r1jax.core.config import check
from r1jax.core.types import TokenBatch
from r1jax.training import step
from r1jax.training.objectives import Objective

AXIS = "devices"

PSUM = step.Reduce(lambda tree: jax.lax.psum(tree, AXIS),
                   lambda tree: jax.lax.pmax(tree, AXIS))


def shard(batch: TokenBatch, devices: int) -> TokenBatch:
  """[n_micro, B, T, ...] -> [devices, n_micro, B / devices, T, ...].

  Raises:
    ValueError: the rows do not divide.
  """
  rows = batch.tokens_BT.shape[1]
  check(rows % devices == 0, f"{rows} rows of a micro-batch do not divide over"
        f" {devices} devices; pack to a multiple of it")

  def leaf(x):
    parts = x.reshape(len(x), devices, rows // devices, *x.shape[2:])
    return parts.swapaxes(0, 1)

  return jax.tree.map(leaf, batch)


def make_update(
    objective: Objective, optimizer: optax.GradientTransformation, *,
    gamma: float = 0.0) -> step.Update:
  """Like `step.make_update`; the batch is that of `shard`.

  The state goes in and comes out without an axis of devices.
  """
  return jax.pmap(
      lambda state, batch: step.update(
          objective, optimizer, gamma, state, batch, PSUM),
      axis_name=AXIS, in_axes=(None, 0), out_axes=None, donate_argnums=0)
