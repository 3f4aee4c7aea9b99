import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from r1jax.ops import attention
from r1jax.ops.attention import Segments
from r1jax.ops.cached import Reading
from tests.reference import attention as reference

F32 = dict(rtol=1e-5, atol=1e-6)
GRADIENT = dict(rtol=1e-5, atol=1e-5)
# What central differences in float64 are good to.
DIFFERENCES = dict(rtol=1e-7, atol=1e-8)
RNG = np.random.default_rng(2)
B, T, N, K, H = 2, 5, 6, 3, 4
Q = RNG.normal(size=(B, T, N, H))
KEYS, VALUES = RNG.normal(size=(2, B, T, K, H))
SEGMENTS = np.array([[1, 1, 2, 2, 2], [1, 1, 1, 0, 0]])
SCALE = 0.7


def _expected(q=Q, segments=SEGMENTS, scale=SCALE):
  return np.array([
      reference.gqa(q[b], KEYS[b], VALUES[b], _allowed(segments[b]), scale)
      for b in range(B)])


def _allowed(segments):
  return [[s in reference.visible(segments, t) for s in range(T)]
          for t in range(T)]


def _mask(segments):
  return attention.causal_mask(Segments.whole(jnp.asarray(segments)))


def test_causal_mask():
  got = np.asarray(_mask(SEGMENTS))
  assert got.tolist() == [_allowed(row) for row in SEGMENTS]
  assert got[0].astype(int).tolist() == [
      [1, 0, 0, 0, 0], [1, 1, 0, 0, 0], [0, 0, 1, 0, 0], [0, 0, 1, 1, 0],
      [0, 0, 1, 1, 1]]


def test_causal_mask_of_a_part_of_the_queries():
  whole = np.asarray(_mask(SEGMENTS))
  part = attention.causal_mask(Segments(
      jnp.asarray(SEGMENTS[:, 2:4]), jnp.asarray(SEGMENTS), jnp.arange(2, 4)))
  np.testing.assert_array_equal(part, whole[:, 2:4])


def test_causal_mask_of_a_part_of_the_keys():
  whole = np.asarray(_mask(SEGMENTS))
  part = attention.causal_mask(Segments(
      jnp.asarray(SEGMENTS), jnp.asarray(SEGMENTS[:, 1:4]), jnp.arange(T)), 1)
  np.testing.assert_array_equal(part, whole[:, :, 1:4])


def _f32(*arrays):
  return tuple(jnp.float32(a) for a in arrays)


def _by_head(*arrays):
  """[B, T, N, X] -> [B, N, T, X], float32."""
  return _f32(*(a.swapaxes(1, 2) for a in arrays))


def test_attend():
  got = jax.jit(attention.attend, static_argnums=4)(
      *_by_head(Q, KEYS, VALUES), _mask(SEGMENTS), SCALE)
  np.testing.assert_allclose(np.swapaxes(got, 1, 2), _expected(), **F32)


@pytest.mark.parametrize("broken", [
    dict(scale=1.0), dict(segments=np.ones_like(SEGMENTS)),
    # Query heads dealt round to key heads instead of in runs.
    dict(q=Q.reshape(B, T, K, N // K, H).swapaxes(2, 3).reshape(Q.shape))])
def test_case_sees_scale_segments_and_head_order(broken):
  assert np.abs(_expected(**broken) - _expected()).max() > 1e-2


def _decode(lengths, **options):
  return jax.jit(functools.partial(attention.gqa_decode, **options),
                 static_argnums=4)(
      *_f32(Q[:, :1], KEYS.transpose(0, 2, 3, 1), VALUES.swapaxes(1, 2)),
      jnp.asarray(lengths), SCALE)[:, 0]


def _reads(lengths):
  """float64: row b reads the first lengths[b] slots."""
  return np.array([reference.gqa(
      Q[b, :1], KEYS[b], VALUES[b], np.arange(T)[None] < lengths[b],
      SCALE)[0] for b in range(B)])


# By blocks of 2 the last of 5 slots reaches back into the block before.
@pytest.mark.parametrize("how", [
    Reading(), *(Reading(*x) for n in (1, 2, 3, 5, 7)
                 for x in ((n, 0), (0, n)))])
@pytest.mark.parametrize("lengths", [(1, T), (3, 2), (4, 4)])
def test_gqa_decode_is_the_last_row_of_attend(how, lengths):
  got = _decode(lengths, how=how)
  np.testing.assert_allclose(got, _reads(lengths), **F32)
  # The lengths matter.
  assert np.abs(_reads(lengths) - _reads((2, 3))).max() > 1e-2


@pytest.mark.parametrize("how", [Reading(), Reading(2), Reading(0, 2)])
def test_each_token_of_a_few_reads_one_slot_more(how):
  lengths, tokens = (1, T - 2), 3
  got = jax.jit(functools.partial(
      attention.gqa_decode, how=how),
                static_argnums=4)(
      *_f32(Q[:, :tokens], KEYS.transpose(0, 2, 3, 1), VALUES.swapaxes(1, 2)),
      jnp.asarray(lengths), SCALE)
  assert got.shape == (B, tokens, N, VALUES.shape[-1])
  for t in range(tokens):
    want = np.array([reference.gqa(
        Q[b, t:t + 1], KEYS[b], VALUES[b],
        np.arange(T)[None] < lengths[b] + t, SCALE)[0] for b in range(B)])
    np.testing.assert_allclose(got[:, t], want, **F32)
    if t:  # one slot fewer is seen
      assert np.abs(want - np.array([reference.gqa(
          Q[b, t:t + 1], KEYS[b], VALUES[b],
          np.arange(T)[None] < lengths[b] + t - 1, SCALE)[0]
          for b in range(B)])).max() > 1e-2


def test_the_softmax_runs_along_without_overflow():
  """Scores that grow from block to block by more than exp can hold."""
  grow = 300.0 * np.arange(T)[None, :, None, None]
  keys, queries = np.ones_like(KEYS) * grow, np.ones_like(Q)
  got = attention.gqa_decode(
      *_f32(queries[:, :1], keys.transpose(0, 2, 3, 1), VALUES.swapaxes(1, 2)),
      jnp.full(B, T), 1.0, how=Reading(1))[:, 0]
  want = np.repeat(VALUES[:, -1], N // K, axis=1)
  np.testing.assert_allclose(got, want, **F32)


def test_gradients_are_those_of_the_reference():
  """The backward pass is written by hand; values are wider than keys here."""
  values = RNG.normal(size=(B, T, K, H + 1))
  direction = RNG.normal(size=(B, T, N, H + 1))

  def value(q, k, v):
    out = attention.attend(q, k, v, _mask(SEGMENTS), SCALE)
    return jnp.sum(out * jnp.float32(direction.swapaxes(1, 2)))

  def reference_value(q, k, v):
    return sum(
        np.sum(reference.gqa(q[b], k[b], v[b], _allowed(SEGMENTS[b]), SCALE)
               * direction[b]) for b in range(B))

  got = jax.jit(jax.grad(value, (0, 1, 2)))(*_by_head(Q, KEYS, values))
  by_row = [reference.gqa_gradients(
      Q[b], KEYS[b], values[b], _allowed(SEGMENTS[b]), SCALE, direction[b])
            for b in range(B)]
  arrays = [Q.copy(), KEYS.copy(), values]
  for gradient, array, *rows in zip(got, arrays, *by_row, strict=True):
    expected = np.array(rows)
    np.testing.assert_allclose(
        np.swapaxes(gradient, 1, 2), expected, **GRADIENT)
    # The reference's own gradients are held to its values.
    for flat in RNG.choice(array.size, 30, replace=False):
      index = np.unravel_index(flat, array.shape)
      kept, ends = array[index], []
      for step in (1e-5, -1e-5):
        array[index] = kept + step
        ends.append(reference_value(*arrays))
      array[index] = kept
      np.testing.assert_allclose(
          expected[index], (ends[0] - ends[1]) / 2e-5, **DIFFERENCES)
