import jax
import jax.numpy as jnp
import numpy as np

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
