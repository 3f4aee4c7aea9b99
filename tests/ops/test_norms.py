import jax.numpy as jnp
import numpy as np

from r1jax.ops import norms
from tests.reference import norms as reference

F32 = dict(rtol=1e-5, atol=1e-6)
RNG = np.random.default_rng(0)
X = RNG.normal(size=(2, 3, 5)) * 0.01
SCALE = RNG.normal(size=5)
EPS = 1e-4
EXPECTED = reference.rms_norm(X, SCALE, EPS)


def test_rms_norm():
  got = norms.rms_norm(jnp.float32(X), jnp.float32(SCALE), EPS)
  np.testing.assert_allclose(got, EXPECTED, **F32)


def test_case_sees_scale_and_eps():
  for broken in (reference.rms_norm(X, np.ones(5), EPS),
                 reference.rms_norm(X, SCALE, 0.0)):
    assert np.abs(broken - EXPECTED).max() > 1e-2


def test_bfloat16_keeps_its_dtype_and_computes_in_float32():
  x = jnp.asarray(X, jnp.bfloat16)
  got = norms.rms_norm(x, jnp.float32(SCALE), EPS)
  assert got.dtype == jnp.bfloat16
  exact = reference.rms_norm(np.asarray(x, np.float64), SCALE, EPS)
  # One rounding of the result: half a unit in the last of 8 bits.
  np.testing.assert_allclose(np.asarray(got, np.float64), exact, rtol=2**-8)
