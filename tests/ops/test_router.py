import jax
import jax.numpy as jnp
import numpy as np
import pytest

from r1jax.ops import router
from tests.reference import balance as balance_reference
from tests.reference import router as reference

F32 = dict(rtol=1e-5, atol=1e-6)
select = jax.jit(router.select, static_argnums=(2, 3, 4))
balance_loss = jax.jit(router.balance_loss, static_argnums=2)
RNG = np.random.default_rng(5)
X, E, A, M, KEPT = 40, 12, 3, 4, 2
LOGITS = RNG.normal(size=(X, E)) * 2
SCORES = {kind: np.array([reference.scores(row, kind) for row in LOGITS])
          for kind in ("sigmoid", "softmax")}
BIAS = RNG.normal(size=E) * 0.3
# Pushes every biased score below zero.
LOW_BIAS = BIAS - 3.0


def _select(s, bias, **broken):
  return np.array([reference.select(row, bias, A, M, KEPT, **broken)
                   for row in s])


@pytest.mark.parametrize("kind", ["sigmoid", "softmax"])
def test_scores(kind):
  got = router.scores(jnp.float32(LOGITS), kind)
  np.testing.assert_allclose(got, SCORES[kind], **F32)
  assert router.scores(jnp.bfloat16(LOGITS), kind).dtype == jnp.float32


def test_unknown_score():
  with pytest.raises(ValueError, match="'tanh': choose sigmoid or softmax"):
    router.scores(jnp.zeros((1, 2)), "tanh")


@pytest.mark.parametrize("kind, bias", [
    ("sigmoid", BIAS), ("sigmoid", LOW_BIAS), ("sigmoid", np.zeros(E)),
    ("softmax", None)])
def test_select(kind, bias):
  s = SCORES[kind]
  got = select(jnp.float32(s), None if bias is None else jnp.float32(bias), A,
               M, KEPT)
  assert got.dtype == jnp.int32
  assert got.tolist() == _select(s, bias).tolist()


def test_select_without_groups():
  s = SCORES["sigmoid"]
  got = select(jnp.float32(s), jnp.float32(BIAS), A)
  assert got.tolist() == [reference.select(row, BIAS, A) for row in s]


@pytest.mark.parametrize("kind, bias, broken", [
    ("sigmoid", BIAS, dict(best_of_group=1)),
    ("softmax", None, dict(best_of_group=2)),
    ("sigmoid", LOW_BIAS, dict(fill=0.0))])
def test_select_cases_see_group_scores_and_mask(kind, bias, broken):
  s = SCORES[kind]
  assert np.any(_select(s, bias, **broken) != _select(s, bias))


def test_select_cases_see_bias_and_groups():
  s, chosen = SCORES["sigmoid"], _select(SCORES["sigmoid"], BIAS)
  assert np.any(_select(s, np.zeros(E)) != chosen)
  assert np.any([reference.select(r, BIAS, A) for r in s] != chosen)


def test_negative_kept_scores_never_leave_their_groups():
  got = select(jnp.float32(SCORES["sigmoid"]), jnp.float32(LOW_BIAS), A, M,
               KEPT)
  groups = np.asarray(got) // (E // M)
  assert max(len(set(row)) for row in groups.tolist()) <= KEPT


@pytest.mark.parametrize("normalize", [True, False])
def test_weights(normalize):
  s, chosen = SCORES["sigmoid"], _select(SCORES["sigmoid"], BIAS)
  got = router.weights(jnp.float32(s), jnp.asarray(chosen), normalize, 2.5)
  expected = [reference.weights(row, c, normalize, 2.5)
              for row, c in zip(s, chosen, strict=True)]
  np.testing.assert_allclose(got, expected, **F32)
  if normalize:
    np.testing.assert_allclose(got.sum(-1), np.full(X, 2.5), **F32)
  # The bias chooses, but does not weigh.
  biased = [reference.weights(row + BIAS, c, normalize, 2.5)
            for row, c in zip(s, chosen, strict=True)]
  assert np.abs(np.array(biased) - expected).max() > 1e-2


def test_bias_carries_no_gradient_and_scores_do():
  def total(logits, bias):
    s = router.scores(logits, "sigmoid")
    gates = router.weights(s, router.select(s, bias, A, M, KEPT), True, 2.5)
    return jnp.sum(gates * jnp.arange(1.0, A + 1)[None])
  d_logits, d_bias = jax.jit(jax.grad(total, (0, 1)))(
      jnp.float32(LOGITS), jnp.float32(BIAS))
  assert not d_bias.any()
  assert np.abs(d_logits).max() > 1e-2


def test_load_leaves_out_padding():
  chosen = _select(SCORES["sigmoid"], BIAS)
  keep = RNG.random(X) < 0.6
  got = jax.jit(router.load, static_argnums=2)(
      jnp.asarray(chosen), jnp.asarray(keep), E)
  assert got.dtype == jnp.float32
  assert got.tolist() == reference.load(chosen, keep, E)
  assert got.sum() == keep.sum() * A < X * A


SEGMENTS = np.array([[1, 1, 1, 2, 2, 0], [3, 3, 1, 1, 1, 1]])
SEQUENCES = 1 / (1 + np.exp(-RNG.normal(size=(2, 6, E)) * 2))


def test_balance_loss_of_packed_rows():
  total, count = balance_loss(
      jnp.float32(SEQUENCES), jnp.asarray(SEGMENTS), A)
  expected, n = balance_reference.balance_loss(SEQUENCES, SEGMENTS, A)
  assert (float(count), n) == (4.0, 4)
  np.testing.assert_allclose(total, expected, **F32)
  # Rows taken as one sequence each, padding included, would differ.
  whole, _ = balance_reference.balance_loss(SEQUENCES, np.ones((2, 6), int), A)
  assert abs(whole / 2 - expected / 4) > 1e-2


def test_balance_loss_is_one_when_even_and_rises_with_imbalance():
  even = np.tile(np.eye(4) + 0.01, (1, 2, 1))
  one_sided = np.tile(np.eye(4)[:1] + 0.01, (1, 8, 1))
  segments = jnp.ones((1, 8), jnp.int32)
  np.testing.assert_allclose(
      balance_loss(jnp.float32(even), segments, 1)[0], 1.0, **F32)
  assert balance_loss(jnp.float32(one_sided), segments, 1)[0] > 3.0


def test_balance_loss_pushes_the_overloaded_expert_down():
  one_sided = jnp.float32(np.tile(np.eye(4)[:1] + 0.01, (1, 8, 1)))
  segments = jnp.ones((1, 8), jnp.int32)
  grad = jax.jit(jax.grad(
      lambda s: balance_loss(s, segments, 1)[0]))(one_sided)
  assert grad[0, :, 0].min() > 0 > grad[0, :, 1:].max()
