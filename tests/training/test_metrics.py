import math

import jax
import jax.numpy as jnp

from r1jax.training import metrics
from r1jax.training.metrics import Metrics


def part(value, weight, largest):
  return Metrics({"a": (jnp.float32(value), jnp.float32(weight))},
                 {"m": jnp.float32(largest)})


def test_means_are_weighted_and_maxima_are_not():
  parts = part(3.0, 1.0, -2.0), part(5.0, 3.0, -4.0)
  want = {"a": 2.0, "m": -2.0}
  assert metrics.floats(*parts) == want
  assert metrics.floats(jax.jit(metrics.merge)(*parts)) == want


def test_what_was_not_measured_is_left_out():
  assert metrics.floats(part(0.0, 0.0, 1.0)) == {"m": 1.0}


def test_names_may_differ():
  other = Metrics(metrics.single(b=jnp.float32(7.0)), {})
  assert metrics.floats(part(3.0, 2.0, 1.0), other) == {
      "a": 1.5, "b": 7.0, "m": 1.0}


def test_a_nan_is_seen():
  assert math.isnan(metrics.floats(part(1.0, 1.0, 1.0),
                                   part(math.nan, 1.0, 1.0))["a"])
