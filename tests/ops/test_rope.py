import jax.numpy as jnp
import numpy as np
import pytest

from r1jax.models import presets
from r1jax.ops import rope
from tests.reference import rope as reference

F64 = dict(rtol=1e-12, atol=0)
F32 = dict(rtol=1e-5, atol=1e-5)
YARN_671B = (10000.0, 40.0, 4096, 32.0, 1.0)
RNG = np.random.default_rng(1)
POSITIONS = np.array([[0, 1, 2, 3, 4], [0, 1, 0, 7, 61]])
X = RNG.normal(size=(2, 5, 3, 6))
FREQS = reference.frequencies(6, 10000.0)


def test_frequencies():
  np.testing.assert_allclose(
      rope.frequencies(6, 10000.0), FREQS, **F64)
  assert rope.frequencies(64, 10000.0)[0] == 1.0


def test_yarn_of_671b():
  assert reference.yarn_bounds(64, 10000.0, 4096, 32.0, 1.0) == (10, 23)
  plain = rope.frequencies(64, 10000.0)
  got = rope.yarn(plain, *YARN_671B)
  np.testing.assert_allclose(got, reference.yarn(64, *YARN_671B), **F64)
  np.testing.assert_allclose(got[:11], plain[:11], **F64)
  np.testing.assert_allclose(got[23:], plain[23:] / 40, **F64)
  assert np.all((got[11:23] < plain[11:23]) & (got[11:23] > plain[11:23] / 40))


@pytest.mark.parametrize("broken", [
    dict(beta_fast=16.0), dict(beta_slow=2.0), dict(factor=41.0),
    dict(original=8192)])
def test_yarn_case_sees_each_setting(broken):
  names = ("theta", "factor", "original", "beta_fast", "beta_slow")
  settings = dict(zip(names, YARN_671B, strict=True))
  a = reference.yarn(64, **settings)
  b = reference.yarn(64, **settings | broken)
  assert np.abs(a / b - 1).max() > 1e-2


def test_softmax_scale_of_the_published_models():
  assert rope.yarn_mscale(40.0, 1.0) == pytest.approx(1.36889, abs=5e-6)
  assert rope.yarn_mscale(1.0, 1.0) == 1.0
  scale = {name: presets.get(name).softmax_scale
           for name in ("r1-671b", "v2-236b", "v2-lite-16b")}
  assert scale["r1-671b"] == pytest.approx(0.135234, abs=5e-7)
  assert scale["v2-236b"] == scale["r1-671b"]
  assert scale["v2-lite-16b"] == pytest.approx(0.114721, abs=5e-7)


def test_llama3():
  settings = (8.0, 8192, 1.0, 4.0)
  plain = rope.frequencies(128, 500000.0)
  got = rope.llama3(plain, *settings)
  np.testing.assert_allclose(
      got, reference.llama3(128, 500000.0, *settings), **F64)
  ratio = got / plain
  assert np.isclose(ratio, 1).any() and np.isclose(ratio, 1 / 8).any()
  assert np.any((ratio > 0.13) & (ratio < 0.99))


@pytest.mark.parametrize("rotate, turn, other", [
    (rope.rotate_pairs, reference.turn_pairs, reference.turn_halves),
    (rope.rotate_halves, reference.turn_halves, reference.turn_pairs)])
def test_rotation_is_complex_multiplication(rotate, turn, other):
  cos, sin = rope.angles(jnp.asarray(POSITIONS), FREQS)
  assert cos.shape == sin.shape == (2, 5, 3) and cos.dtype == jnp.float32
  got = rotate(jnp.float32(X), cos, sin)
  np.testing.assert_allclose(got, _each(turn), **F32)
  assert np.abs(_each(other) - _each(turn)).max() > 0.1
  assert rotate(jnp.asarray(X, jnp.bfloat16), cos, sin).dtype == jnp.bfloat16


def _each(turn):
  return np.array([[[turn(v, p, FREQS) for v in heads]
                    for heads, p in zip(row, positions, strict=True)]
                   for row, positions in zip(X, POSITIONS, strict=True)])


def test_scores_depend_on_distance_alone():
  q, k = RNG.normal(size=(2, 1, 1, 6))
  def score(p_q, p_k):
    turned = []
    for v, p in ((q, p_q), (k, p_k)):
      cos, sin = rope.angles(jnp.array([p]), FREQS)
      turned.append(rope.rotate_pairs(jnp.float32(v), cos, sin))
    return float(jnp.sum(turned[0] * turned[1]))
  assert score(9, 4) == pytest.approx(score(25, 20), abs=1e-5)
  assert abs(score(9, 4) - score(9, 5)) > 1e-2
