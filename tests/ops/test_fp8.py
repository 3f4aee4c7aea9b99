import ml_dtypes
import numpy as np
import pytest

from r1jax.ops import fp8
from tests.reference import fp8 as reference

# Two blocks and a part of one, both ways.
SHAPE = (131, 259)
SCALES = 1e-7  # relative: one float32 rounding
VALUES = 2e-7  # relative: two


def matrix(seed=0, shape=SHAPE):
  """float32 with columns of very different size, so that blocks matter."""
  rng = np.random.default_rng(seed)
  sizes = np.exp(rng.normal(size=shape[1]))
  sizes[128:] *= 40
  return (rng.normal(size=shape) * sizes * 0.02).astype(np.float32)


@pytest.fixture(scope="module")
def quantised():
  return fp8.quantise(matrix())


@pytest.fixture(scope="module")
def expected():
  return reference.quantise(matrix().astype(np.float64))


def test_every_code_is_the_number_it_stands_for():
  codes = np.arange(256, dtype=np.uint8).view(fp8.E4M3)
  np.testing.assert_array_equal(codes.astype(np.float64), reference.VALUES)
  assert np.nanmax(reference.VALUES) == fp8.LARGEST


def test_quantise(quantised, expected):
  codes, scales = quantised
  assert codes.shape == SHAPE and scales.shape == (2, 3)
  assert (codes.dtype, scales.dtype) == (fp8.E4M3, np.float32)
  np.testing.assert_allclose(scales, expected[1], rtol=SCALES)
  differ = codes.view(np.uint8) != expected[0]
  # A float32 rounding of the scale decides between neighbours at a tie.
  assert differ.mean() < 1e-4
  with_ties = np.abs(codes.view(np.uint8).astype(int) - expected[0])
  assert with_ties.max() <= 1


def test_quantise_sees_each_term(expected):
  """Another block, or no scale, gives other codes."""
  wide = matrix().astype(np.float64)
  unscaled = [reference.encode(v) for v in wide[:2].ravel()]
  assert (np.array(unscaled) != expected[0][:2].ravel()).mean() > 0.5
  of_all = np.abs(wide).max() / 448
  assert np.all(np.abs(expected[1] / of_all - 1)[:, 0] > 0.5)


def test_dequantise(quantised):
  codes, scales = quantised
  found = fp8.dequantise(codes, scales)
  assert found.dtype == np.float32
  exact = reference.dequantise(codes.view(np.uint8), scales.astype(np.float64))
  np.testing.assert_allclose(found, exact, rtol=VALUES)
  shifted = reference.dequantise(
      codes.view(np.uint8), scales[:, ::-1].astype(np.float64))
  assert np.abs(found - shifted).max() > 0.1  # scales of other blocks miss


@pytest.mark.parametrize("rows", [(0, 131), (3, 60), (100, 130), (128, 131)])
@pytest.mark.parametrize("columns", [(0, 259), (120, 140), (127, 257)])
def test_a_rectangle_is_dequantised_as_in_the_whole(quantised, rows, columns):
  codes, scales = quantised
  at = slice(*rows), slice(*columns)
  found = fp8.dequantise(codes[at], scales, (rows[0], columns[0]))
  np.testing.assert_array_equal(found, fp8.dequantise(codes, scales)[at])


def test_error_is_at_most_half_a_step(quantised):
  """Of e4m3: 2^-4 relative, or 2^-10 of a block's scale below its range."""
  values, scales = matrix(), quantised[1]
  spread = np.repeat(np.repeat(scales, 128, 0), 128, 1)[:131, :259]
  error = np.abs(fp8.dequantise(*quantised) - values)
  bound = np.maximum(np.abs(values) * 2.0 ** -4, spread * 2.0 ** -10)
  assert np.all(error <= bound * (1 + 1e-5))


def requantised(codes, scales):
  """Codes as numbers in order, before and after a pass through bfloat16."""
  values = fp8.dequantise(codes, scales).astype(ml_dtypes.bfloat16)
  again, new = fp8.quantise(values)
  def order(c):
    bits = c.view(np.uint8).astype(int)
    return np.where(bits & 0x80, -(bits & 0x7f), bits)
  return order(codes), order(again), new


def test_back_and_forth_is_exact_where_scales_are_powers_of_two(quantised):
  codes, _ = quantised
  scales = np.array([[2.0 ** -9, 2.0 ** -3, 0.5], [2.0 ** -20, 1.0, 4.0]],
                    np.float32)
  before, after, new = requantised(codes, scales)
  np.testing.assert_array_equal(before, after)
  np.testing.assert_array_equal(scales, new)


def test_back_and_forth_is_within_one_step_elsewhere(quantised):
  before, after, new = requantised(*quantised)
  assert np.abs(before - after).max() <= 1
  np.testing.assert_allclose(new, quantised[1], rtol=2.0 ** -8)


def test_blocks_of_zeros_and_of_tiny_values():
  codes, scales = fp8.quantise(np.zeros((3, 200), np.float32))
  assert np.all(codes.view(np.uint8) == 0) and np.all(scales == 1)
  tiny = np.full((2, 2), 1e-43, np.float32)  # subnormal, as is its scale
  codes, scales = fp8.quantise(tiny)
  assert np.all(np.isfinite(codes.astype(np.float32)))
  assert np.all(np.isfinite(scales)) and np.all(scales > 0)
