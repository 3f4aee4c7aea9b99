import jax
import jax.numpy as jnp
import numpy as np
import pytest

from r1jax.ops import linear
from tests.reference import experts as reference

F32 = dict(rtol=1e-5, atol=1e-6)
RNG = np.random.default_rng(4)


def test_linear_contracts_several_axes():
  x, w = RNG.normal(size=(2, 3, 4, 5)), RNG.normal(size=(4, 5, 6, 7))
  got = linear.linear(jnp.float32(x), jnp.float32(w), 2)
  np.testing.assert_allclose(got, np.einsum("abij,ijcd->abcd", x, w),
                             rtol=1e-5, atol=1e-5)


def test_linear_casts_the_weight_to_the_activations():
  x = jnp.ones((2, 3), jnp.bfloat16)
  assert linear.linear(x, jnp.ones((3, 4), jnp.float32)).dtype == jnp.bfloat16


def test_swiglu():
  x, w_down = RNG.normal(size=(2, 3, 5)), RNG.normal(size=(4, 5))
  w_gate, w_up = RNG.normal(size=(2, 5, 4)) * 0.4
  got = linear.swiglu(*map(jnp.float32, (x, w_gate, w_up, w_down)))
  np.testing.assert_allclose(
      got, reference.swiglu(x, w_gate, w_up, w_down), **F32)
  swapped = reference.swiglu(x, w_up, w_gate, w_down)
  assert np.abs(swapped - got).max() > 1e-2


def test_gradient_of_gated():
  gate, up, dout = RNG.normal(size=(3, 7, 5)) * 2

  def loss(gate, up):
    return np.sum(gate / (1 + np.exp(-gate)) * up * dout)

  _, vjp = jax.vjp(linear.gated, jnp.float32(gate), jnp.float32(up))
  got = vjp(jnp.float32(dout))
  for which in range(2):
    want = np.zeros_like(gate)
    for at in np.ndindex(*gate.shape):
      plus, minus = ([gate.copy(), up.copy()] for _ in range(2))
      plus[which][at] += 1e-6
      minus[which][at] -= 1e-6
      want[at] = (loss(*plus) - loss(*minus)) / 2e-6
    np.testing.assert_allclose(got[which], want, **F32)
    assert np.abs(got[1 - which] - want).max() > 1e-2


def _adapted(n_in):
  """float64 x, dy and the factors W, A, B of [4, 5, 6, 7]."""
  rng = np.random.default_rng(n_in)
  x = rng.normal(size=(3, 8, *(4, 5)[2 - n_in:]))
  w = rng.normal(size=(4, 5, 6, 7)[2 - n_in:])
  a = rng.normal(size=(*w.shape[:n_in], 2))
  b = rng.normal(size=(2, *w.shape[n_in:]))
  return x, w, a, b, rng.normal(size=(3, 8, *w.shape[n_in:]))


def _loop(x, w, a, b, scale, dy):
  """y, and gradients of its product with dy, one output at a time."""
  flat = [z.reshape(*shape) for z, shape in (
      (x, (24, -1)), (w, (a[..., 0].size, -1)), (a, (-1, 2)), (b, (2, -1)),
      (dy, (24, -1)))]
  x2, w2, a2, b2, dy2 = flat
  y = np.zeros_like(dy2)
  dx, dw, da, db = (np.zeros_like(z) for z in (x2, w2, a2, b2))
  for t in range(24):
    for o in range(w2.shape[1]):
      column = w2[:, o] + scale * sum(a2[:, r] * b2[r, o] for r in range(2))
      y[t, o] = x2[t] @ column
      dx[t] += dy2[t, o] * column
      dw[:, o] += dy2[t, o] * x2[t]
      for r in range(2):
        da[:, r] += scale * dy2[t, o] * b2[r, o] * x2[t]
        db[r, o] += scale * dy2[t, o] * (x2[t] @ a2[:, r])
  return [z.reshape(like.shape) for z, like in (
      (y, dy), (dx, x), (dw, w), (da, a), (db, b))]


@pytest.mark.parametrize("n_in", [1, 2])
def test_adapted(n_in):
  """Values, and gradients of the operand, the base and both factors."""
  x, w, a, b, dy = _adapted(n_in)

  def run(x, w, a, b):
    return linear.linear(x, linear.Adapted(w, a, b, 1.5), n_in)

  y, transpose = jax.vjp(run, *map(jnp.float32, (x, w, a, b)))
  want = _loop(x, w, a, b, 1.5, dy)
  for got, wanted in zip((y, *transpose(jnp.float32(dy))), want, strict=True):
    np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=2e-5)
  other = _loop(x, w, a, b, 1.0, dy)  # teeth: a forgotten scale
  assert all(np.abs(p - q).max() > 0.1 for i, (p, q) in enumerate(
      zip(want, other, strict=True)) if i != 2)


def test_a_young_adapter_is_not_rounded_away():
  """To 1 %, at 1e-6 of a bfloat16 weight, where a sum W + A B would lose it.

  Integers, so that what the base makes of x is 0 without rounding: the result
  is the adapter's share alone.
  """
  rng = np.random.default_rng(0)
  half_x, half_w = rng.integers(-8, 9, (64, 32)), rng.integers(-8, 9, (32, 48))
  x = np.concatenate([half_x, -half_x], 1)
  w = np.concatenate([half_w, half_w])
  a, b = rng.normal(size=(64, 4)), 1e-6 * rng.choice([-1, 1], (4, 48))
  bfloat16 = [jnp.asarray(z, jnp.bfloat16) for z in (x, w)]
  got = linear.linear(bfloat16[0], linear.Adapted(
      bfloat16[1], jnp.float32(a), jnp.float32(b), 1.0))
  want = x @ (a @ b)
  assert got.dtype == jnp.bfloat16
  error = np.linalg.norm(np.float64(got) - want) / np.linalg.norm(want)
  assert error <= 0.01
  merged = (np.float32(w) + np.float32(a @ b)).astype(jnp.bfloat16)
  lost = np.float64(jnp.dot(bfloat16[0], merged)) - want
  assert np.linalg.norm(lost) > 0.9 * np.linalg.norm(want)  # teeth


def test_an_adapted_product_in_bfloat16_goes_back_in_bfloat16():
  """No product with the matrix is float32 for its float32 sum's sake."""
  x, w, a, b, dy = _adapted(1)
  x, w, dy = (jnp.asarray(z, jnp.bfloat16) for z in (x, w, dy))
  a, b = map(jnp.float32, (a, b))

  def run(x, w):
    return jax.vjp(lambda x, w: linear.linear(
        x, linear.Adapted(w, a, b, 1.5)), x, w)[1](dy)

  kinds = [[v.aval.dtype.name for v in eqn.invars]
           for eqn in jax.make_jaxpr(run)(x, w).eqns
           if eqn.primitive.name == "dot_general"]
  assert kinds and all(len(set(kind)) == 1 for kind in kinds)
  dx, dw = run(x, w)
  want = _loop(*(np.float64(z) for z in (x, w, a, b)), 1.5, np.float64(dy))
  for got, wanted in ((dx, want[1]), (dw, want[2])):
    assert np.abs(np.float64(got) - wanted).max() < 0.01 * np.abs(wanted).max()


@pytest.mark.parametrize("rows", [1, 2, 9])
def test_a_cpu_multiplies_bfloat16_without_a_float32_copy(rows):
  x, w = (jnp.asarray(RNG.normal(size=size), jnp.bfloat16)
          for size in ((rows, 64), (64, 4, 128)))
  how = linear.Products(flat=True, widened=True)
  run = jax.jit(lambda x, w: linear.linear(x, w, how=how)).lower(x, w).compile()
  assert run.memory_analysis().temp_size_in_bytes < w.nbytes / 2
  plain = jax.jit(linear.linear).lower(x, w).compile()
  assert plain.memory_analysis().temp_size_in_bytes >= 2 * w.nbytes
  exact = np.einsum("xi,iab->xab", np.float64(x), np.float64(w))
  got = run(x, w)
  assert got.dtype == jnp.bfloat16
  # Rounded once, from float32.
  np.testing.assert_allclose(np.float64(got), exact, rtol=2**-8, atol=1e-4)


def test_gradients_of_a_bfloat16_product_are_those_of_the_plain_one():
  x, w, dy = (jnp.asarray(RNG.normal(size=size), jnp.bfloat16)
              for size in ((9, 64), (64, 128), (9, 128)))
  flat = linear.Products(flat=True, widened=True)
  got, want = (jax.jit(lambda x, w, dy, how=how: jax.vjp(
      lambda x, w: linear.linear(x, w, how=how), x, w)[1](dy))(x, w, dy)
               for how in (flat, linear.PLAIN))
  jax.tree.map(np.testing.assert_array_equal, got, want)
