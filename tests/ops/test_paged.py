"""The kernel that decodes on a TPU, interpreted, against the form in XLA."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from r1jax.ops import attention, paged
from r1jax.sharding import mesh as mesh_lib
from r1jax.sharding.mesh import MeshConfig, Place
from tests import interpreted

F32 = dict(rtol=1e-5, atol=1e-5)
# Two units in the last place of the largest value, as for whole rows.
BFLOAT16 = 2 ** -6
SCALE, SLOTS, H = 0.1, 192, 128
TPU = Place("tpu", layout="decode")


@pytest.fixture(autouse=True)
def interpret(monkeypatch):
  """Blocks of two pages of 64 slots; a row's second block is half a one."""
  monkeypatch.setattr(paged, "BLOCK", 128)
  monkeypatch.setattr(paged, "QUERIES", 31)
  monkeypatch.setattr(paged, "INDICES", 2 * paged.LANES)
  assert paged.pages(SLOTS) == (64, 2)
  with interpreted.kernels():
    yield


def arrays(rows, tokens, k_heads, share, dtype=jnp.float32):
  """q_BTNH, k_BSKH, v_BSKH."""
  rng = np.random.default_rng(3)
  return (jnp.asarray(rng.normal(size=shape), dtype) for shape in (
      (rows, tokens, k_heads * share, H), *2 * ((rows, SLOTS, k_heads, H),)))


def naive(q, k, v, lengths):
  return attention.gqa_decode(
      q, k.transpose(0, 2, 3, 1), v.swapaxes(1, 2), lengths, SCALE)


def decode(q, k, v, lengths):
  return jax.jit(lambda *args: paged.decode(*args, SCALE, None, TPU))(
      q, paged.join(k, v), lengths)


@pytest.mark.parametrize("k_heads,share,tokens", [
    (2, 3, 3), (2, 2, 9)])
def test_each_row_attends_to_its_own_slots(k_heads, share, tokens):
  """To one slot, to a page's last, to a block's first, to all.

  9 tokens are more than a block of queries; the rows are read two by two.
  """
  assert paged.queries(9, 4) == 4
  q, k, v = arrays(4, tokens, k_heads, share)
  lengths = jnp.array([1, 64, min(129, SLOTS + 1 - tokens), SLOTS + 1 - tokens])
  want = naive(q, k, v, lengths)
  np.testing.assert_allclose(decode(q, k, v, lengths), want, **F32)
  # One slot more or less would be seen, and so would other rows' slots.
  for other in (naive(q, k, v, lengths + 1), naive(
      q, *(jnp.roll(x, 1, 0) for x in (k, v)), lengths)):
    assert jnp.abs(other - want).max((1, 2, 3))[:3].min() > 1e-3


def test_joined_and_apart():
  _, k, v = arrays(2, 1, 3, 1)
  keys, values = paged.apart(paged.join(k, v))
  np.testing.assert_array_equal(keys, k.transpose(0, 2, 3, 1))
  np.testing.assert_array_equal(values, v.swapaxes(1, 2))


def test_bfloat16():
  q, k, v = arrays(2, 1, 2, 7, jnp.bfloat16)
  lengths = jnp.array([3, 150])
  got = decode(q, k, v, lengths)
  assert got.dtype == jnp.bfloat16
  want = naive(*(x.astype(jnp.float32) for x in (q, k, v)), lengths)
  assert jnp.abs(got - want).max() < BFLOAT16 * jnp.abs(want).max()


def test_devices_have_rows_and_heads_of_their_own():
  q, k, v = arrays(4, 1, 2, 3)
  lengths = jnp.array([5, 80, 140, 192])
  mesh = mesh_lib.make_mesh(MeshConfig(data=4, tensor=2))
  split = NamedSharding(mesh, PartitionSpec("data", None, "tensor"))
  whole = NamedSharding(mesh, PartitionSpec())
  args = jax.device_put(
      (q, paged.join(k, v), lengths), (split, split, whole))
  with jax.set_mesh(mesh):
    place = Place.here("decode")
    compiled = jax.jit(
        lambda *args: paged.decode(*args, SCALE, None, place),
        out_shardings=split).lower(*args).compile()
    got = compiled(*args)
  np.testing.assert_allclose(got, naive(q, k, v, lengths), **F32)
  assert "all-gather" not in compiled.as_text()


@pytest.mark.parametrize("change,fits", [
    ({}, True), (dict(k_heads=8), True), (dict(k_heads=16), True),
    (dict(k_heads=6), False), (dict(width=64), False),
    (dict(width=256), False), (dict(dtype=jnp.float32), False),
    (dict(place=TPU._replace(backend="cpu")), False),
    (dict(place=TPU._replace(layout="train")), False),
    (dict(place=TPU._replace(paged=False)), False),
    (dict(place=TPU._replace(sizes=(("tensor", 2), ("data", 2)))), True),
    # A device would have a key without its value.
    (dict(place=TPU._replace(sizes=(("tensor", 8),))), False),
    # Three heads each.
    (dict(place=TPU._replace(sizes=(("tensor", 2),)), k_heads=6), False)])
def test_what_fits_the_kernel(change, fits):
  given = dict(place=TPU, dtype=jnp.bfloat16, k_heads=4, width=128) | change
  assert paged.fits(**given) is fits
