"""Bits are moved as they are, of every dtype in a tree."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from r1jax.ops import moving


# On a CPU NaNs keep their payloads too, which a conversion would lose.
@pytest.mark.parametrize("backend,first", [
    ("cpu", [0x7FC1, 0xFF81]), ("tpu", [0x7F80, 0xFF80])])
def test_every_bit_arrives(backend, first):
  bits = np.array([*first, 0x8000, 0x0001, 0x3F80], np.uint16)
  halves = jax.lax.bitcast_convert_type(jnp.asarray(bits), jnp.bfloat16)
  to = {"a": jnp.zeros(7, jnp.bfloat16), "b": jnp.zeros(7, jnp.float32)}
  new = {"a": halves, "b": jnp.arange(5.0)}

  def move(to, new):
    return jax.tree.map(
        lambda x, y: jax.lax.dynamic_update_slice(x, y, (1,)), to, new)

  got = moving.moved(backend, move, to, new)
  assert {name: x.dtype for name, x in got.items()} == {
      name: x.dtype for name, x in to.items()}
  np.testing.assert_array_equal(
      jax.lax.bitcast_convert_type(got["a"], jnp.uint16)[1:6], bits)
  np.testing.assert_array_equal(got["b"], [0, 0, 1, 2, 3, 4, 0])


def test_bits_and_back():
  tree = {"a": jnp.array([1.5, -0.25], jnp.bfloat16), "b": jnp.ones(2)}
  bits = moving.bits("cpu", tree)
  assert (bits["a"].dtype, bits["b"].dtype) == (jnp.uint16, jnp.float32)
  assert moving.bits("tpu", tree) is tree
  back = moving.values(bits)
  assert back["a"].dtype == jnp.bfloat16
  np.testing.assert_array_equal(back["a"], tree["a"])


@pytest.mark.parametrize("backend", ["cpu", "tpu"])
def test_rows_that_come_twice_and_in_any_order(backend):
  x, index = jnp.arange(24).reshape(4, 3, 2), jnp.array([3, 0, 3])
  np.testing.assert_array_equal(moving.rows(backend, x, index), [
      np.arange(24).reshape(4, 3, 2)[i] for i in (3, 0, 3)])
