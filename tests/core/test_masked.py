"""Masked reductions against numpy.ma, and their gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from r1jax.core import masked

F32 = dict(rtol=1e-6, atol=1e-6)
X_BT = np.random.default_rng(0).normal(size=(3, 5)).astype(np.float32)
MASK_BT = np.array(
    [[1, 1, 0, 0, 0], [0, 1, 1, 0, 1], [0, 0, 0, 0, 0]], np.float32)
X_BT[2, 2] = 9.0  # masked, and the largest
KEPT = np.ma.array(X_BT.astype(np.float64), mask=MASK_BT == 0)


@pytest.mark.parametrize("dtype", [np.float32, np.int32, np.bool_])
def test_reductions_are_those_of_numpy_ma(dtype):
  mask_BT = MASK_BT.astype(dtype)
  total, weight = masked.total(X_BT, mask_BT)
  np.testing.assert_allclose(total, KEPT.sum(), **F32)
  assert weight == KEPT.count()
  np.testing.assert_allclose(masked.mean((total, weight)), KEPT.mean(), **F32)
  np.testing.assert_allclose(masked.maximum(X_BT, mask_BT), KEPT.max(), **F32)
  filled_BT = masked.fill(jnp.asarray(X_BT), mask_BT, -2.0)
  np.testing.assert_allclose(filled_BT, KEPT.filled(-2.0), **F32)


def test_teeth_the_case_sees_the_mask():
  for got, want in [
      (X_BT.sum(), KEPT.sum()), (X_BT.mean(), KEPT.mean()),
      (X_BT.max(), KEPT.max()), (KEPT.sum() / X_BT.size, KEPT.mean())]:
    assert abs(got - want) > 1e-2


def test_maximum_of_negative_entries_is_negative():
  got = masked.maximum(jnp.asarray([-3.0, -2.0, 5.0]), jnp.asarray([1, 1, 0]))
  assert got == -2.0


def test_nothing_kept_is_zero():
  none_BT = np.zeros_like(MASK_BT)
  assert masked.total(X_BT, none_BT) == (0.0, 0.0)
  assert masked.mean(masked.total(X_BT, none_BT)) == 0.0
  assert masked.maximum(X_BT, none_BT) == 0.0


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_masked_reaches_no_value(bad):
  x_BT = np.where(MASK_BT != 0, X_BT, bad)
  total, _ = masked.total(x_BT, MASK_BT)
  np.testing.assert_allclose(total, KEPT.sum(), **F32)
  np.testing.assert_allclose(masked.maximum(x_BT, MASK_BT), KEPT.max(), **F32)


def test_sums_are_float32():
  ones_T = jnp.ones(1000, jnp.bfloat16)
  total, weight = masked.total(ones_T, ones_T)
  assert total.dtype == weight.dtype == jnp.float32
  assert total == weight == 1000.0
  assert masked.fill(ones_T, ones_T).dtype == jnp.bfloat16


def test_gradient_is_finite_where_the_masked_value_overflows():
  x_T = jnp.asarray([0.5, 1000.0])
  mask_T = jnp.asarray([1.0, 0.0])

  def safe(x_T):
    return masked.mean(
        masked.total(jnp.exp(masked.fill(x_T, mask_T)), mask_T))

  def unsafe(x_T):  # masked afterwards only
    return masked.mean(masked.total(jnp.exp(x_T), mask_T))

  np.testing.assert_allclose(
      jax.grad(safe)(x_T), [np.exp(np.float32(0.5)), 0.0], **F32)
  assert np.isnan(jax.grad(unsafe)(x_T)[1])


def test_gradient_of_an_empty_mean_is_zero():
  grad_T = jax.grad(lambda x: masked.mean(masked.total(x, jnp.zeros(3))))(
      jnp.ones(3))
  assert grad_T.tolist() == [0.0, 0.0, 0.0]
