"""GKD's divergences against float64 loops."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from r1jax.ops.logprobs import chunked_divergence
from r1jax.sharding.mesh import MeshConfig, Place, make_mesh
from tests.reference import distill as reference

F32 = dict(rtol=1e-5, atol=1e-6)
# Central differences at 1e-5 leave about 1e-10 in float64.
B, T, D, E, V = 2, 3, 5, 4, 7
BETAS = [0.0, 0.3, 0.5, 1.0]


def case(b=B, t=T, v=V):
  rng = np.random.default_rng(0)
  return [np.float32(rng.normal(size=shape)) for shape in (
      (b, t, D), (D, v), (b, t, E), (E, v), (b, t))]


def run(hidden, w, teacher, teacher_w, cotangent, **how):
  """Divergences, gradients of all four arrays."""
  def value(*args):
    found_BT = chunked_divergence(*args, axes=Place.here().axes, **how)
    return jnp.sum(cotangent * found_BT), found_BT

  (_, found), slopes = jax.jit(jax.value_and_grad(
      value, (0, 1, 2, 3), has_aux=True))(hidden, w, teacher, teacher_w)
  return found, slopes


@pytest.mark.parametrize("beta", BETAS)
@pytest.mark.parametrize("chunk,temperature", [(1, 1.0), (4, 0.7)])
def test_reference(beta, chunk, temperature):
  arrays = case()
  hidden, w, teacher, teacher_w, _ = arrays
  found, (slope, w_slope, *others) = run(
      *arrays, beta=beta, chunk=chunk, temperature=temperature)
  want = [[reference.divergence(hidden[b, t], w, teacher[b, t], teacher_w, beta,
                                temperature) for t in range(T)]
          for b in range(B)]
  np.testing.assert_allclose(found, want, **F32)
  for got, expected in zip((slope, w_slope), reference.slopes(
      *arrays, beta, temperature)):
    np.testing.assert_allclose(got, expected, **F32)
  assert not any(np.any(x) for x in others)


def test_teeth():
  """Each beta, the roles and the temperature are seen."""
  hidden, w, teacher, teacher_w, cotangent = case()
  found = {beta: np.asarray(run(hidden, w, teacher, teacher_w, cotangent,
                                beta=beta)[0]) for beta in BETAS}
  for one in BETAS:
    for other in BETAS:
      assert one == other or np.abs(found[one] - found[other]).max() > 1e-2
  swapped = reference.divergence(
      teacher[0, 0], teacher_w, hidden[0, 0], w, 0.3)
  assert abs(found[0.3][0, 0] - swapped) > 1e-3
  warm = reference.divergence(
      hidden[0, 0], w, teacher[0, 0], teacher_w, 0.3, 0.7)
  assert abs(found[0.3][0, 0] - warm) > 1e-2


@pytest.mark.parametrize("beta", BETAS)
def test_of_itself_it_is_nothing(beta):
  hidden, w, _, _, cotangent = case()
  found, (slope, *_) = run(hidden, w, hidden, w, cotangent, beta=beta)
  np.testing.assert_allclose(found, 0, atol=1e-6)
  np.testing.assert_allclose(slope, 0, atol=1e-6)


@pytest.mark.parametrize("beta", BETAS)
def test_large_logits_stay_finite(beta):
  hidden, w, teacher, teacher_w, cotangent = case()
  found, slopes = run(300 * hidden, w, -300 * teacher, teacher_w, cotangent,
                      beta=beta)
  assert np.all(np.isfinite(found)) and all(
      np.all(np.isfinite(x)) for x in slopes)


@pytest.mark.parametrize("beta", [0.0, 0.3])
def test_a_mesh_changes_nothing(beta):
  """Rows, positions, width and vocabulary are split."""
  arrays = case(b=4, t=4, v=8)
  arrays[0], arrays[1] = (np.concatenate([x, x[..., :3] if i == 0 else x[:3]],
                                         -1 if i == 0 else 0)
                          for i, x in enumerate(arrays[:2]))
  want, slopes = run(*arrays, beta=beta, chunk=4)
  mesh = make_mesh(MeshConfig(data=1, fsdp=2, expert=1, sequence=2, tensor=2))
  with jax.set_mesh(mesh):
    found, got = run(*arrays, beta=beta, chunk=4)
  np.testing.assert_allclose(found, want, **F32)
  for a, b in zip(got, slopes):
    np.testing.assert_allclose(a, b, **F32)


def test_beta_is_a_share():
  with pytest.raises(ValueError, match="beta=1.5 is not in 0..1"):
    run(*case(), beta=1.5)
