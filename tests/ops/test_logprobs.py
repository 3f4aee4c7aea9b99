import jax
import jax.numpy as jnp
import numpy as np
import pytest

from r1jax.accounting import hlo
from r1jax.ops.logprobs import chunked_logprobs
from r1jax.sharding.mesh import MeshConfig, Place, make_mesh
from tests.reference import logprobs as reference

F32 = dict(rtol=1e-5, atol=1e-6)
BF16 = dict(rtol=2e-2, atol=2e-2)
B, T, D, V = 3, 7, 5, 11


def case(seed=0, scale=1.0):
  rng = np.random.default_rng(seed)
  return (scale * rng.normal(size=(B, T, D)).astype(np.float32),
          rng.normal(size=(D, V)).astype(np.float32),
          rng.integers(V, size=(B, T)).astype(np.int32),
          rng.normal(size=(B, T)).astype(np.float32))


def gradients(hidden, w, targets, cotangent, **kwargs):
  def loss(hidden, w):
    logprobs, _ = chunked_logprobs(hidden, w, targets, **kwargs)
    return jnp.sum(cotangent * logprobs)
  return jax.grad(loss, (0, 1))(hidden, w)


# 4 pads, 7 divides, 21 is all, 1 is one token at a time.
@pytest.mark.parametrize("chunk", [1, 4, 7, 21, 1024])
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_reference(chunk, temperature):
  hidden, w, targets, cotangent = case()
  how = dict(temperature=temperature, chunk=chunk)
  got = jax.jit(lambda *a: chunked_logprobs(*a, **how))(hidden, w, targets)
  want = reference.logprobs(hidden, w, targets, temperature)
  for g, r in zip(got, want):
    assert g.shape == (B, T) and g.dtype == jnp.float32
    np.testing.assert_allclose(g, r, **F32)
  want = reference.gradients(hidden, w, targets, cotangent, temperature)
  for g, r in zip(gradients(hidden, w, targets, cotangent, **how), want):
    np.testing.assert_allclose(g, r, **F32)


def test_teeth():
  hidden, w, targets, cotangent = case()
  got = chunked_logprobs(hidden, w, targets, temperature=0.7)
  for g, r in zip(got, reference.logprobs(hidden, w, targets)):
    assert np.max(np.abs(g - r)) > 1e-2
  other = (targets + 1) % V
  got = gradients(hidden, w, targets, cotangent)
  for g, r in zip(got, reference.gradients(hidden, w, other, cotangent)):
    assert np.max(np.abs(g - r)) > 1e-2


def test_large_logits_stay_finite():
  hidden, w, targets, cotangent = case(scale=300.0)
  got = chunked_logprobs(hidden, w, targets, chunk=4)
  assert all(np.all(np.isfinite(x)) for x in got)
  assert all(np.all(np.isfinite(x))
             for x in gradients(hidden, w, targets, cotangent, chunk=4))


def test_bfloat16_adds_up_in_float32():
  hidden, w, targets, cotangent = case(scale=1.0)
  hidden = jnp.asarray(hidden, jnp.bfloat16)
  w16 = jnp.asarray(w, jnp.bfloat16)
  got, _ = chunked_logprobs(hidden, w, targets)
  want, _ = reference.logprobs(hidden, w16, targets)
  assert got.dtype == jnp.float32
  np.testing.assert_allclose(got, want, **F32)
  d_hidden, d_w = gradients(hidden, w, targets, cotangent)
  assert (d_hidden.dtype, d_w.dtype) == (jnp.bfloat16, jnp.float32)
  want = reference.gradients(hidden, w16, targets, cotangent)
  np.testing.assert_allclose(np.float32(d_hidden), want[0], **BF16)
  np.testing.assert_allclose(d_w, want[1], **BF16)


def test_entropy_is_a_metric():
  hidden, w, targets, _ = case()
  slope = jax.grad(
      lambda h: jnp.sum(chunked_logprobs(h, w, targets)[1]))(hidden)
  assert not np.any(slope)
  assert chunked_logprobs(hidden, w, targets, entropy=False)[1] is None


@pytest.mark.parametrize("bad", [dict(temperature=0.0), dict(chunk=0)])
def test_bad_arguments(bad):
  hidden, w, targets, _ = case()
  with pytest.raises(ValueError, match=next(iter(bad))):
    chunked_logprobs(hidden, w, targets, **bad)


def test_logits_never_exist():
  b, t, d, v = 16, 128, 8, 512
  shapes = (jax.ShapeDtypeStruct((b, t, d), jnp.float32),
            jax.ShapeDtypeStruct((d, v), jnp.float32))
  targets = jnp.zeros((b, t), jnp.int32)

  def chunked(hidden, w):
    return jnp.sum(chunked_logprobs(hidden, w, targets, chunk=128)[0])

  def naive(hidden, w):
    logits = jax.nn.log_softmax(hidden @ w)
    return jnp.sum(jnp.take_along_axis(logits, targets[..., None], -1))

  def temporary(loss):
    compiled = jax.jit(jax.grad(loss, (0, 1))).lower(*shapes).compile()
    return compiled.memory_analysis().temp_size_in_bytes

  logits = b * t * v * 4
  assert temporary(chunked) < logits / 4
  assert temporary(naive) > logits


@pytest.mark.parametrize("shape", [
    dict(data=2, fsdp=2, tensor=2), dict(data=1, fsdp=2, sequence=4),
    dict(data=1, expert=2, tensor=4)], ids=str)
def test_on_a_mesh(shape):
  """Vocabulary over `tensor`, width over `fsdp`, tokens over the rest."""
  rng = np.random.default_rng(1)
  hidden, w, cotangent = (
      np.float32(0.3 * rng.normal(size=s))
      for s in ((8, 12, 16), (16, 40), (8, 12)))
  targets = rng.integers(40, size=(8, 12)).astype(np.int32)

  def value(hidden, w):
    logprobs, entropy = chunked_logprobs(
        hidden, w, targets, temperature=0.7, chunk=5,
        axes=Place.here().axes)
    return jnp.sum(logprobs * cotangent), (logprobs, entropy)

  mesh = make_mesh(MeshConfig(**shape))
  place = jax.NamedSharding(mesh, jax.P("fsdp", "tensor"))
  with jax.set_mesh(mesh):
    (_, got), slopes = jax.jit(
        jax.value_and_grad(value, (0, 1), has_aux=True))(
            hidden, jax.device_put(w, place))
  for g, r in zip(got, reference.logprobs(hidden, w, targets, 0.7)):
    np.testing.assert_allclose(g, r, **F32)
  want = reference.gradients(hidden, w, targets, cotangent, 0.7)
  for g, r in zip(slopes, want):
    np.testing.assert_allclose(g, r, **F32)


def test_on_a_mesh_the_gradient_is_added_up_once():
  """Whatever the number of chunks: one reduction of the unembedding's size."""
  mesh = make_mesh(MeshConfig(data=2, fsdp=4))
  shapes = [jax.ShapeDtypeStruct(s, t, sharding=jax.NamedSharding(mesh, p))
            for s, t, p in (
                ((8, 64, 16), jnp.float32, jax.P(("data", "fsdp"))),
                ((16, 40), jnp.float32, jax.P("fsdp")),
                ((8, 64), jnp.int32, jax.P(("data", "fsdp"))))]

  def loss(hidden, w, targets):
    return jnp.sum(chunked_logprobs(
        hidden, w, targets, chunk=4, axes=Place.here().axes)[0])

  with jax.set_mesh(mesh):
    text = jax.jit(jax.grad(loss, (0, 1))).lower(*shapes).compile().as_text()
  found = hlo.costs(text).collectives
  gradient = 16 * 40 * 4
  assert found["reduce-scatter"][1] <= gradient
  assert found["all-reduce"][1] <= 2 * gradient
