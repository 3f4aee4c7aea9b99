"""Metrics on the device: means as (sum, weight) pairs, and maxima."""

from __future__ import annotations

from typing import Any

import flax.struct
import jax
import jax.numpy as jnp


@flax.struct.dataclass
class Metrics:
  """Metrics that can be merged over micro-batches, devices and updates.

  Attributes:
    means: name -> (sum, weight), float32 scalars.
    maxima: name -> float32 scalar.
  """

  means: dict[str, tuple[jax.Array, jax.Array]]
  maxima: dict[str, jax.Array]


def merge(*parts: Metrics) -> Metrics:
  """Adds sums and weights and takes the largest maxima; works inside jit.

  All parts must have the same names.
  """
  return Metrics(
      jax.tree.map(lambda *xs: sum(xs), *(p.means for p in parts)),
      jax.tree.map(lambda *xs: jnp.max(jnp.stack(xs)),
                   *(p.maxima for p in parts)))


def single(**values: jax.Array) -> dict[str, tuple[jax.Array, jax.Array]]:
  """Scalars as (sum, weight) pairs of weight 1."""
  return {name: (jnp.asarray(value, jnp.float32), jnp.ones((), jnp.float32))
          for name, value in values.items()}


def floats(*parts: Metrics) -> dict[str, float]:
  """{name: number} over all parts, with one host sync.

  Means with a total weight of 0 are left out. Parts need not have the same
  names.
  """
  sums: dict[str, float] = {}
  weights: dict[str, float] = {}
  maxima: dict[str, float] = {}
  for part in jax.device_get(parts):
    for name, (value, weight) in part.means.items():
      sums[name] = sums.get(name, 0.0) + float(value)
      weights[name] = weights.get(name, 0.0) + float(weight)
    for name, value in part.maxima.items():
      maxima[name] = max(maxima.get(name, float(value)), float(value))
  means = {n: sums[n] / weights[n] for n in sums if weights[n] > 0}
  return means | maxima


def to_json(metrics: Metrics) -> dict[str, Any]:
  """The metrics as a JSON-serialisable dictionary, without rounding."""
  host = jax.device_get(metrics)
  return {"means": {name: [float(value), float(weight)]
                    for name, (value, weight) in host.means.items()},
          "maxima": {name: float(x) for name, x in host.maxima.items()}}


def from_json(saved: dict[str, Any]) -> Metrics:
  """The inverse of `to_json`; the numbers are on the host."""
  return Metrics({name: tuple(pair) for name, pair in saved["means"].items()},
                 saved["maxima"])
