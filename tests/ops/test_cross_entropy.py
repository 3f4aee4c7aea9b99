"""The draft's soft cross-entropy against float64 loops."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from r1jax.ops.logprobs import chunked_cross_entropy
from r1jax.sharding.mesh import MeshConfig, Place, make_mesh
from tests.reference import draft as reference

F32 = dict(rtol=1e-5, atol=1e-6)
BF16 = dict(rtol=2e-2, atol=2e-2)
B, T, D, V = 3, 7, 5, 11


def case(b=B, t=T, d=D, v=V):
  rng = np.random.default_rng(0)
  draws = [np.float32(rng.normal(size=shape)) for shape in (
      (b, t, d), (b, t, d), (d, v), (b, t))]
  draws[0][0] = draws[1][0]  # a row where both agree
  return draws


def run(hidden, teacher, w, cotangent, **how):
  """(cross-entropies, agreement), gradients of all three."""
  def value(*args):
    cross_BT, agree_BT = chunked_cross_entropy(
        *args, axes=Place.here().axes, **how)
    return jnp.sum(cotangent * cross_BT), (cross_BT, agree_BT)

  (_, found), slopes = jax.jit(jax.value_and_grad(
      value, (0, 1, 2), has_aux=True))(hidden, teacher, w)
  return found, slopes


def expected(hidden, teacher, w, temperature):
  found = [[reference.cross_entropy(hidden[b, t], teacher[b, t], w, temperature)
            for t in range(hidden.shape[1])] for b in range(len(hidden))]
  return [np.array([[x[i] for x in row] for row in found]) for i in (0, 1)]


@pytest.mark.parametrize("chunk", [1, 4, 7, 1024])
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_reference(chunk, temperature):
  hidden, teacher, w, cotangent = case()
  (cross, agree), (slope, *others) = run(
      hidden, teacher, w, cotangent, temperature=temperature, chunk=chunk)
  want, alike = expected(hidden, teacher, w, temperature)
  np.testing.assert_allclose(cross, want, **F32)
  np.testing.assert_array_equal(agree, alike)
  assert agree.dtype == bool and 0 < alike.mean() < 1
  np.testing.assert_allclose(slope, reference.gradient(
      hidden, teacher, w, cotangent, temperature), **F32)
  assert not any(np.any(x) for x in others)


def test_teeth():
  hidden, teacher, w, cotangent = case()
  (cross, _), (slope, *_) = run(hidden, teacher, w, cotangent)
  for args in ((teacher, hidden, w, 1.0), (hidden, teacher, w, 0.7)):
    assert np.max(np.abs(cross - expected(*args)[0])) > 1e-2
    assert np.max(np.abs(slope - reference.gradient(
        *args[:3], cotangent, args[3]))) > 1e-2


def test_large_logits_stay_finite():
  hidden, teacher, w, cotangent = case()
  (cross, _), (slope, *_) = run(300 * hidden, -300 * teacher, w, cotangent)
  assert np.all(np.isfinite(cross)) and np.all(np.isfinite(slope))


def test_bfloat16_adds_up_in_float32():
  hidden, teacher, w, cotangent = case()
  half = [jnp.asarray(x, jnp.bfloat16) for x in (hidden, teacher, w)]
  (cross, _), (slope, *_) = run(*half[:2], w, cotangent)
  assert (cross.dtype, slope.dtype) == (jnp.float32, jnp.bfloat16)
  want, _ = expected(*(np.float32(x) for x in half), 1.0)
  np.testing.assert_allclose(cross, want, **F32)
  np.testing.assert_allclose(np.float32(slope), reference.gradient(
      *(np.float32(x) for x in half), cotangent), **BF16)


def test_logits_never_exist():
  b, t, d, v = 16, 128, 8, 512
  states, w = (jax.ShapeDtypeStruct(shape, jnp.float32)
               for shape in ((b, t, d), (d, v)))

  def temporary(chunk):
    grad = jax.grad(lambda *args: jnp.sum(
        chunked_cross_entropy(*args, chunk=chunk)[0]))
    compiled = jax.jit(grad).lower(states, states, w).compile()
    return compiled.memory_analysis().temp_size_in_bytes

  logits = b * t * v * 4
  assert temporary(128) < logits / 2
  assert temporary(b * t) > logits


@pytest.mark.parametrize("shape", [
    dict(data=2, fsdp=2, tensor=2), dict(data=1, expert=2, tensor=4)], ids=str)
def test_on_a_mesh(shape):
  """Vocabulary over `tensor`, width over `fsdp`, tokens over the rest."""
  hidden, teacher, w, cotangent = (0.3 * x for x in case(8, 6, 16, 40))
  mesh = make_mesh(MeshConfig(**shape))
  place = jax.NamedSharding(mesh, jax.P("fsdp", "tensor"))
  with jax.set_mesh(mesh):
    (cross, agree), (slope, *_) = run(
        hidden, teacher, jax.device_put(w, place), cotangent,
        temperature=0.7, chunk=5)
  want, alike = expected(hidden, teacher, w, 0.7)
  np.testing.assert_allclose(cross, want, **F32)
  np.testing.assert_array_equal(agree, alike)
  np.testing.assert_allclose(slope, reference.gradient(
      hidden, teacher, w, cotangent, 0.7), **F32)


@pytest.mark.parametrize("bad", [dict(temperature=0.0), dict(chunk=0)])
def test_bad_arguments(bad):
  hidden, teacher, w, _ = case()
  with pytest.raises(ValueError, match=next(iter(bad))):
    chunked_cross_entropy(hidden, teacher, w, **bad)
