"""Stochastic rounding against the two neighbours, by bits."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from r1jax.ops.rounding import stochastic
from r1jax.sharding.mesh import MeshConfig, make_mesh

KEY = jax.random.key(3)
DRAWS = 4096


def neighbours(x):
  """The largest bfloat16 in magnitude not beyond x, and the next, float64."""
  bits = np.float32(x).view(np.uint32)
  low = np.uint32(bits & np.uint32(0xffff0000))
  return [np.float64(b.view(np.float32)) for b in (low, low + np.uint32(2**16))]


VALUES = [1.0 + 2**-9, -(1.0 + 3 * 2**-10), 3.14159274, -1e-30, 2.7e38,
          1.0 + 2**-23, -(2.0 - 2**-23), 1e-39, -5e-41, 2**-149, 2**-126]


@pytest.mark.parametrize("x", VALUES)
def test_mean_and_variance(x):
  """Of the share that is rounded away from 0."""
  low, high = neighbours(x)
  got = np.float64(jax.jit(stochastic)(
      jnp.asarray(np.full(DRAWS, x, np.float32)), KEY))
  assert set(got) <= {low, high}
  up = got == high
  share = (np.float64(np.float32(x)) - low) / (high - low)
  # Five standard errors; one draw is possible where hardly any is due.
  bound = 5 * np.sqrt(share * (1 - share) / DRAWS) + (share > 0) / DRAWS
  assert abs(up.mean() - share) <= bound
  # Draws are independent: of two, both go up as often as chance has it.
  halves = up.reshape(2, -1)
  both = np.mean(halves[0] & halves[1])
  assert abs(both - share**2) <= 5 * np.sqrt(
      share**2 * (1 - share**2) / (DRAWS / 2)) + 2 / DRAWS
  np.testing.assert_allclose(
      np.var((got - low) / (high - low)), share * (1 - share),
      atol=6 / np.sqrt(DRAWS) * (share > 0))


def test_what_bfloat16_has_stays():
  """All of its numbers, both zeros, infinities; a NaN stays one."""
  x = jnp.asarray(np.arange(2**16, dtype=np.uint16).view(jnp.bfloat16))
  got = np.asarray(jax.jit(stochastic)(x, KEY))
  nan = np.isnan(np.float32(x))
  np.testing.assert_array_equal(np.isnan(np.float32(got)), nan)
  np.testing.assert_array_equal(
      got.view(np.uint16)[~nan], np.asarray(x).view(np.uint16)[~nan])
  quiet = np.uint32([0x7f800001, 0xff800001, 0x7fffffff]).view(np.float32)
  assert np.all(np.isnan(np.float32(stochastic(jnp.asarray(quiet), KEY))))


def test_tiny_updates_move_the_mean_as_float32_would():
  """A thousand of them, each 1/100 of a gap; the nearest moves nothing."""
  n, updates, update = 8192, 1000, 2**-7 / 100
  start = jnp.ones(n, jnp.bfloat16)

  def one(i, x):
    return stochastic(
        x.astype(jnp.float32) + update, jax.random.fold_in(KEY, i))

  end = np.float64(jax.lax.fori_loop(0, updates, one, start))
  moved, gap = updates * update, 2**-7
  # Every update adds a variance of f (1 - f) gaps^2, f = 1/100.
  error = gap * np.sqrt(updates * 0.01 * 0.99 / n)
  assert abs(end.mean() - 1 - moved) <= 5 * error < 0.02 * moved
  np.testing.assert_allclose(
      end.std(), gap * np.sqrt(updates * 0.01 * 0.99), rtol=0.1)
  nearest = jax.lax.fori_loop(
      0, updates, lambda _, x: (x.astype(jnp.float32) + update).astype(x.dtype),
      start)
  assert np.all(nearest == start)


def test_a_mesh_changes_nothing():
  x = jax.random.normal(jax.random.key(0), (16, 24))
  want = jax.jit(stochastic)(x, KEY)
  assert np.any(want != x.astype(jnp.bfloat16))
  mesh = make_mesh(MeshConfig(data=1, fsdp=4, tensor=2))
  place = jax.NamedSharding(mesh, jax.P("fsdp", "tensor"))
  got = jax.jit(stochastic)(jax.device_put(x, place), KEY)
  np.testing.assert_array_equal(got, want)
  assert got.sharding.is_equivalent_to(place, 2)


def test_keys_tell_draws_apart():
  x = jnp.full(64, 1 + 2**-9)
  a, b = (stochastic(x, jax.random.key(i)) for i in range(2))
  assert np.any(a != b)


def test_other_dtypes():
  x = jnp.float32([1 + 2**-20])
  np.testing.assert_array_equal(stochastic(x, KEY, "float32"), x)
  with pytest.raises(ValueError, match="float16"):
    stochastic(x, KEY, "float16")
