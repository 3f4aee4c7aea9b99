"""Losses of reward models against float64 loops."""

import jax
import numpy as np
import pytest

from r1jax.losses import preference
from tests.reference import preference as reference

F32 = dict(rtol=2e-6, atol=1e-6)
SEEN = 1e-2  # what a dropped term changes at least


def numbers(count=40):
  """Two scores, margins, mask and weights; not finite where masked."""
  rng = np.random.default_rng(0)
  found = [rng.normal(0, 3, count), rng.normal(0, 3, count),
           rng.uniform(0, 2, count), (rng.random(count) < 0.7) * 1.0,
           rng.uniform(0.5, 2, count)]
  found = [x.astype(np.float32) for x in found]
  for x in (*found[:3], found[4]):
    x[found[3] == 0] = np.nan
  found[0][np.flatnonzero(found[3])[:2]] = 90, -90  # far out in the tails
  return found


def test_pairwise():
  chosen, rejected, margin, mask, weights = numbers()
  got = preference.pairwise(chosen, rejected, margin, mask, weights)
  want = reference.pairwise(chosen, rejected, margin, mask, weights)
  np.testing.assert_allclose(got, want, **F32)
  np.testing.assert_allclose(
      preference.weight(mask, weights), want[1], **F32)
  for other in ((rejected, chosen, margin, mask, weights),
                (chosen, rejected, 0 * margin, mask, weights),
                (chosen, rejected, -margin, mask, weights),
                (chosen, rejected, margin, mask, np.ones(40))):
    assert abs(reference.pairwise(*other)[0] - want[0]) > SEEN


def test_centring():
  chosen, rejected, _, mask, weights = numbers()
  got = preference.centring(chosen, rejected, mask, weights)
  want = reference.centring(chosen, rejected, mask, weights)
  np.testing.assert_allclose(got, want, **F32)
  assert abs(reference.centring(chosen, -rejected, mask, weights)[0]
             - want[0]) > SEEN


def test_pointwise():
  scores, _, labels, mask, weights = numbers()
  labels = labels / 2  # probabilities, 0 and 1 among them
  labels[np.flatnonzero(mask)[2:4]] = 0, 1
  got = preference.pointwise(scores, labels, mask, weights)
  want = reference.pointwise(scores, labels, mask, weights)
  np.testing.assert_allclose(got, want, **F32)
  for other in ((-scores, labels, mask, weights),
                (scores, 0 * labels, mask, weights),
                (scores, labels, mask, np.ones(40))):
    assert abs(reference.pointwise(*other)[0] - want[0]) > SEEN


@pytest.mark.parametrize("loss", ["pairwise", "centring", "pointwise"])
def test_what_is_masked_has_no_gradient(loss):
  first, second, third, mask, weights = numbers()
  rest = {"pairwise": (second, third), "centring": (second,),
          "pointwise": (third,)}[loss]
  gradient = jax.grad(lambda x: getattr(preference, loss)(
      x, *rest, mask, weights)[0])(first)
  np.testing.assert_array_equal(np.isfinite(gradient), True)
  np.testing.assert_array_equal(gradient[mask == 0], 0)
  assert np.all(gradient[mask != 0][2:] != 0)


def test_gradients_of_a_pair_are_those_of_the_formula():
  """d/dc -log sigmoid(c - r - m) = -sigmoid(r + m - c)."""
  c, r, m = np.float32([0.3]), np.float32([1.1]), np.float32([0.5])
  one = np.ones(1, np.float32)
  got = jax.grad(lambda c, r: preference.pairwise(c, r, m, one, one)[0],
                 (0, 1))(c, r)
  want = 1 / (1 + np.exp(-(1.1 + 0.5 - 0.3)))
  np.testing.assert_allclose(got, [[-want], [want]], rtol=1e-6)
