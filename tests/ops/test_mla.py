import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from r1jax.accounting import hlo
from r1jax.ops import attention, mla
from r1jax.ops.cached import Reading
from r1jax.ops.linear import Adapted
from tests.reference import mla as reference

F32 = dict(rtol=1e-5, atol=1e-6)
RNG = np.random.default_rng(3)
B, T, S, N, U, R, C, W = 2, 3, 5, 4, 6, 8, 9, 7
Q_NOPE = RNG.normal(size=(B, T, N, U))
Q_ROPE = RNG.normal(size=(B, T, N, R))
LATENT = RNG.normal(size=(B, S, C))
K_ROPE = RNG.normal(size=(B, S, R))
W_UKV = RNG.normal(size=(C, N, U + W)) * 0.3
ALLOWED = RNG.random(size=(B, T, S)) < 0.5
ALLOWED[:, :, 1] = True
SCALE = 0.3
LENGTHS = np.array([[1, 4, 5], [3, 2, 4]])  # slots that a decode step reads
SEEN = np.arange(S) < LENGTHS[..., None]


def _expected(scale=SCALE, drop=(), w_ukv=W_UKV, allowed=ALLOWED):
  return np.array([
      reference.mla(Q_NOPE[b], Q_ROPE[b], LATENT[b], K_ROPE[b], w_ukv,
                    allowed[b], scale, drop) for b in range(B)])


def _f32(*arrays):
  return tuple(jnp.float32(a) for a in arrays)


def test_naive():
  def attend(q, k, v):
    return attention.attend(q, k, v, jnp.asarray(ALLOWED), SCALE)

  naive = jax.jit(mla.naive, static_argnums=5)
  got = naive(*_f32(Q_NOPE, Q_ROPE, LATENT, K_ROPE, W_UKV), attend)
  np.testing.assert_allclose(got, _expected(), **F32)


# By blocks of 2 the last of 5 slots reaches back into the block before.
@pytest.mark.parametrize("how", [
    Reading(), *(Reading(*x) for n in (1, 2, 3) for x in ((n, 0), (0, n)))])
def test_absorbed_is_naive(how):
  absorbed = jax.jit(functools.partial(
      mla.absorbed, how=how), static_argnums=5)
  cache = np.concatenate([LATENT, K_ROPE], -1)
  for t in range(T):
    got = absorbed(*_f32(Q_NOPE[:, t:t + 1], Q_ROPE[:, t:t + 1], cache, W_UKV),
                   jnp.asarray(LENGTHS[:, t]), SCALE)[:, 0]
    np.testing.assert_allclose(
        got, _expected(allowed=SEEN)[:, t], **F32)


@pytest.mark.parametrize("how", [Reading(), Reading(2), Reading(0, 2)])
def test_absorbed_takes_a_few_tokens(how):
  """Each sees one slot more than the one before."""
  first = np.array([1, 3])
  got = jax.jit(functools.partial(
      mla.absorbed, how=how), static_argnums=5)(
      *_f32(Q_NOPE, Q_ROPE, np.concatenate([LATENT, K_ROPE], -1), W_UKV),
      jnp.asarray(first), SCALE)
  lengths = first[:, None, None] + np.arange(T)[:, None]
  want = _expected(allowed=np.arange(S) < lengths)
  np.testing.assert_allclose(got, want, **F32)
  all_alike = _expected(allowed=np.broadcast_to(
      np.arange(S) < first[:, None, None], SEEN.shape[:2] + (S,)))
  assert np.abs(want - all_alike)[:, 1:].max() > 1e-2


def test_halves_of_the_up_projection_are_read_where_they_lie():
  """Of the whole each product would copy its half."""
  shape = functools.partial(jax.ShapeDtypeStruct, dtype=jnp.float32)
  whole, tokens = shape((128, 8, 128)), shape((2, 1, 8, 64))

  def touched(up):
    return hlo.costs(jax.jit(mla.absorbed, static_argnums=5).lower(
        tokens, tokens, shape((2, 4, 192)), up,
        jax.ShapeDtypeStruct((2,), jnp.int32), SCALE
        ).compile().as_text()).touched

  halves = jax.eval_shape(functools.partial(mla.Halves.of, u=64), whole)
  size = 4 * whole.size
  assert size < touched(halves) < 1.5 * size
  assert touched(whole) > 2.5 * size


def test_heads_of_several_tokens_stay_on_their_devices():
  """Queries of a draft are not gathered to be merged with the others."""
  mesh = jax.sharding.Mesh(jax.devices()[:2], ("heads",))

  def shape(dims, *names, dtype=jnp.float32):
    return jax.ShapeDtypeStruct(
        dims, dtype, sharding=NamedSharding(mesh, PartitionSpec(*names)))

  text = jax.jit(mla.absorbed, static_argnums=5).lower(
      *(shape((2, 3, 8, size), None, None, "heads") for size in (16, 8)),
      shape((2, 4, 40)), mla.Halves(
          *(shape(dims, "heads") for dims in ((8, 32, 16), (8, 16, 32)))),
      shape((2,), dtype=jnp.int32), SCALE).compile().as_text()
  assert not hlo.costs(text).collectives


def test_an_adapted_up_projection_goes_by_its_factors():
  """In both: what the sum of base and adapter would give, never formed."""
  rng = np.random.default_rng(5)
  a, b = rng.normal(size=(C, 2)) * 0.3, rng.normal(size=(2, N, U + W))
  summed = W_UKV + 1.5 * np.einsum("cr,rnx->cnx", a, b)
  want = _expected(w_ukv=summed)
  assert np.abs(want - _expected()).max() > 0.1
  w = Adapted(*_f32(W_UKV, a, b), 1.5)

  def attend(q, k, v):
    return attention.attend(q, k, v, jnp.asarray(ALLOWED), SCALE)

  got = jax.jit(mla.naive, static_argnums=5)(
      *_f32(Q_NOPE, Q_ROPE, LATENT, K_ROPE), w, attend)
  np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)
  absorbed = jax.jit(mla.absorbed, static_argnums=5)
  cache = np.concatenate([LATENT, K_ROPE], -1)
  for t in range(T):
    got = absorbed(*_f32(Q_NOPE[:, t:t + 1], Q_ROPE[:, t:t + 1], cache), w,
                   jnp.asarray(LENGTHS[:, t]), SCALE)[:, 0]
    np.testing.assert_allclose(
        got, _expected(w_ukv=summed, allowed=SEEN)[:, t], rtol=1e-5, atol=1e-5)


def test_case_sees_each_term():
  values_first = np.concatenate([W_UKV[..., W:], W_UKV[..., :W]], -1)
  for broken in (dict(scale=1.0), dict(drop={"rope"}),
                 dict(w_ukv=values_first),
                 dict(allowed=np.ones_like(ALLOWED)), dict(allowed=SEEN)):
    assert np.abs(_expected(**broken) - _expected()).max() > 1e-2
