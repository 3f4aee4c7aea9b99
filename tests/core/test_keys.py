"""Randomness is addressed."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from r1jax.core import keys

KEY = jax.random.key(5)


def bits(*address):
  return int(jax.random.bits(keys.fold(KEY, *address)))


def test_every_address_has_its_own_key():
  addresses = list(itertools.product(range(3), range(4), range(5)))
  addresses += [(), (0,), (1,), (0, 0), (2**32 - 1,)]
  assert len({bits(*a) for a in addresses}) == len(addresses)


def test_parts_fold_one_after_another():
  outer = keys.fold(KEY, 3)
  assert bits(3, 7) == int(jax.random.bits(keys.fold(outer, 7)))
  assert bits(3, 7) != bits(7, 3)
  assert bits() == int(jax.random.bits(KEY))


def test_same_key_whatever_the_batch():
  ids_B = jnp.asarray([9, 2, 6], jnp.int32)
  draw = jax.jit(jax.vmap(
      lambda i: jax.random.bits(keys.fold(KEY, i, 4)), in_axes=0))
  together_B = np.asarray(draw(ids_B))
  assert together_B.tolist() == [bits(i, 4) for i in (9, 2, 6)]
  assert np.asarray(draw(ids_B[::-1])).tolist() == together_B[::-1].tolist()


def test_an_address_too_large_raises():
  with pytest.raises(OverflowError):
    keys.fold(KEY, 2**32)
