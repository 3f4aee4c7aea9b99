"""How many rows fit into the memory that devices have free."""

from __future__ import annotations

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp

from r1jax.models.model import Model, Params
from r1jax.rollout.programs import Programs
from r1jax.sharding import rules

# Share of the memory free at the beginning of a rollout that its rows may take;
# the rest is for prefill activations and the programs' temporaries.
ROOM = 0.75


def rows_each(model: Model, run: Programs, lanes: int,
              mesh: jax.sharding.Mesh | None, params: Params,
              bias_LE: jax.Array, prompt: int, most: int, shared: bool
              ) -> int | None:
  """Rows of every lane that fit, at least 1.

  Args:
    model: in the decode layout.
    run: the engine's programs.
    lanes: number of lanes.
    mesh: on which the engine runs; None for one device.
    params, bias_LE: what the programs read.
    prompt: tokens of the longest prompt, padded.
    most: slots of a row when its sample is as long as it may be.
    shared: whether prompts are shared. Each row is counted with one: the live
      rows may be of as many questions.

  Returns:
    None if the devices do not report their memory, as CPUs do not.
  """
  free = _free(mesh)
  if free is None:
    return None
  shape = jax.ShapeDtypeStruct
  prompts, _ = jax.eval_shape(
      run.prefill, params, bias_LE, shape((lanes, prompt), jnp.int32),
      shape((lanes,), jnp.int32))
  rows = jax.eval_shape(
      functools.partial(run.empty, rows=lanes, slots=most), prompts,
      jax.random.key(0))
  axes = run.axes(rows).cache
  held = (rows.cache, prompts)[:1 + shared]
  cache = sum(jax.tree.leaves(jax.tree.map(
      functools.partial(_bytes, mesh), (axes,) * len(held), held,
      is_leaf=rules.is_axes)))
  # A layer exists twice while it grows; float32 logits exist three times with a
  # nucleus: themselves, their exponentials and a copy.
  row = cache * (1 + 1 / model.cfg.n_layers) + (
      3 * 4 * model.cfg.vocab_size * (1 + run.depth))
  return max(1, int(ROOM * free / row))


def _bytes(mesh: jax.sharding.Mesh | None, axes: Any, x: Any) -> int:
  """Bytes of one device's shard of an array."""
  shape = x.shape
  if mesh is not None:
    shape = jax.sharding.NamedSharding(mesh, rules.fitted(
        axes, shape, dict(mesh.shape), "decode")).shard_shape(shape)
  return math.prod(shape) * x.dtype.itemsize


def _free(mesh: jax.sharding.Mesh | None) -> int | None:
  """Least free bytes of this process's devices; None if not reported."""
  devices = jax.local_devices()[:1] if mesh is None else mesh.local_devices
  told = [device.memory_stats() or {} for device in devices]
  if not all("bytes_limit" in stats for stats in told):
    return None
  return min(x["bytes_limit"] - x["bytes_in_use"] for x in told)
