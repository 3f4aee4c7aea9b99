import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from r1jax.ops import flash, flash_blocks, flash_splash
from r1jax.ops.attention import Segments
from tests.reference import attention as reference

F32 = dict(rtol=1e-5, atol=1e-5)
# Two units in the last place of the largest value; one is what was found.
BFLOAT16 = 2 ** -6
SCALE = 0.7
B, N, K, H, W = 2, 6, 3, 5, 7


def _segments(*rows):
  """Rows of (segment, length) pairs -> int32 [B, S]."""
  return np.array([np.repeat(*zip(*row, strict=True)) for row in rows],
                  np.int32)


# Segments and the queries (first, end) of them. A segment that comes back, a
# row that is all padding, and lengths that no block divides.
CASES = {
    "whole": (_segments([(1, 3), (2, 9), (1, 4), (3, 5), (0, 2)],
                        [(0, 23)]), (0, 23)),
    "part": (_segments([(1, 4), (2, 13), (0, 2)],
                       [(7, 1), (5, 15), (0, 3)]), (6, 17)),
    "long": (_segments([(1, 40), (2, 90), (3, 140), (0, 11)],
                       [(4, 270), (0, 11)]), (0, 281)),
    "part of long": (_segments([(1, 40), (2, 100), (3, 140), (0, 20)],
                               [(4, 140), (5, 160)]), (129, 300)),
}
# Blocks shorter than the row, several of them, some without anything to see.
FORMS = {
    "naive": functools.partial(flash.attend, "naive"),
    "blocks of 4": functools.partial(flash.attend, "blocks", block=4),
    "blocks of 64": functools.partial(flash.attend, "blocks", block=64),
    "one block": functools.partial(flash.attend, "blocks"),
    "splash": functools.partial(
        flash_splash.attend, block=128, interpret=True)}


@functools.cache
def _arrays(name, kv_heads=K):
  """float64 q [B, T, N, H], k [B, S, K, H], v [B, S, K, W], dout."""
  segments, (first, end) = CASES[name]
  rng = np.random.default_rng(5)
  s, t = segments.shape[1], end - first
  shapes = ((t, N, H), (s, kv_heads, H), (s, kv_heads, W), (t, N, W))
  return tuple(rng.normal(size=(B, *shape)) for shape in shapes)


def _allowed(name, row, causal=True, packed=True):
  segments, (first, end) = CASES[name]
  kept = segments[row] if packed else np.ones_like(segments[row])
  found = np.zeros((end - first, len(kept)), bool)
  for t in range(first, end):
    seen = reference.visible(kept, t) if causal else kept == kept[t]
    found[t - first, seen] = True
  return found


def _reference(name, arrays, scale=SCALE, **rule):
  """(out [B, T, N, W], gradients in q, k and v)."""
  q, k, v, dout = arrays
  out, gradients = [], []
  for row in range(B):
    allowed = _allowed(name, row, **rule)
    out.append(reference.gqa(q[row], k[row], v[row], allowed, scale))
    gradients.append(reference.gqa_gradients(
        q[row], k[row], v[row], allowed, scale, dout[row]))
  return np.array(out), *(np.array(g) for g in zip(*gradients, strict=True))


@functools.cache
def _expected(name, kv_heads=K):
  return _reference(name, _arrays(name, kv_heads))


def _got(form, name, arrays, dtype=jnp.float32):
  """(out, gradients) of a form, laid out as the reference's."""
  segments, (first, end) = CASES[name]

  @jax.jit
  def program(q, k, v, dout):
    def value(*qkv):
      return form(*qkv, Segments(
          jnp.asarray(segments[:, first:end]), jnp.asarray(segments),
          jnp.arange(first, end)), SCALE)
    out, pull = jax.vjp(value, q, k, v)
    return out, *pull(dout)

  results = program(*(
      jnp.asarray(a.swapaxes(1, 2), dtype) for a in arrays))
  assert all(r.dtype == dtype for r in results)
  return [np.asarray(r, np.float64).swapaxes(1, 2) for r in results]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", CASES)
def test_values_and_gradients(form, name):
  for got, want in zip(_got(FORMS[form], name, _arrays(name)), _expected(name),
                       strict=True):
    np.testing.assert_allclose(got, want, **F32)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kv_heads", [1, N])
def test_one_key_head_and_one_for_each_query_head(form, kv_heads):
  arrays = _arrays("part", kv_heads)
  for got, want in zip(_got(FORMS[form], "part", arrays),
                       _expected("part", kv_heads), strict=True):
    np.testing.assert_allclose(got, want, **F32)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("broken", [
    dict(packed=False), dict(causal=False), dict(scale=1.0)])
def test_cases_see_segments_causality_and_scale(name, broken):
  for whole, part in zip(
      _expected(name), _reference(name, _arrays(name), **broken), strict=True):
    assert np.abs(whole - part).max() > 1e-2


@pytest.mark.parametrize("name", CASES)
def test_cases_see_the_index_of_the_queries(name):
  """Queries that are taken for the ones after them see one key more."""
  def late(q, k, v, segments, scale):
    later = segments._replace(index_T=segments.index_T + 1)
    return flash.attend("naive", q, k, v, later, scale)

  for got, want in zip(_got(late, name, _arrays(name)), _expected(name),
                       strict=True):
    assert np.abs(got - want).max() > 1e-2


@functools.cache
def _rounded():
  """(arrays that are bfloat16 numbers, what the reference makes of them)."""
  arrays = [np.asarray(jnp.bfloat16(a), np.float64) for a in _arrays("long")]
  return arrays, _reference("long", arrays)


@pytest.mark.parametrize("form", FORMS)
def test_bfloat16(form):
  arrays, expected = _rounded()
  for got, want in zip(_got(FORMS[form], "long", arrays, jnp.bfloat16),
                       expected, strict=True):
    assert np.abs(got - want).max() < BFLOAT16 * np.abs(want).max()


@pytest.mark.parametrize("form", FORMS)
def test_padding_is_finite_and_adds_nothing_where_its_gradient_is_zero(form):
  name = "long"
  q, k, v, dout = _arrays(name)
  real = (CASES[name][0] > 0)[:, :, None, None]
  got = _got(FORMS[form], name, (q, k * 30, v, dout * real))
  assert all(np.isfinite(x).all() for x in got)
  assert all(np.abs(x * real).max() > 1 for x in got[1:])
  assert all(not np.any(x * ~real) for x in got[1:])


@pytest.mark.parametrize("block, size, multiple, expected", [
    (512, 600, 1, 300), (512, 513, 1, 257), (512, 512, 1, 512),
    (512, 32768, 1, 512), (512, 7, 1, 7), (512, 600, 128, 384),
    (512, 513, 128, 384), (512, 7, 128, 128), (128, 300, 128, 128),
    (1024, 32768, 128, 1024)])
def test_blocks_are_even(block, size, multiple, expected):
  assert flash_blocks.even(block, size, multiple) == expected


def test_live_blocks_hold_every_pair_that_may_meet():
  segments, (first, end) = CASES["long"]
  live = np.asarray(flash_blocks.live_blocks(
      Segments.whole(jnp.asarray(segments[:, :280])), 20, 40))
  for row in range(B):
    allowed = _allowed("long", row)[:280, :280]
    needed = allowed.reshape(14, 20, 7, 40).any((1, 3))
    assert not np.any(needed & ~live[row])
  # Counted by hand; with causality alone it would be 56 in both.
  assert live.sum((1, 2)).tolist() == [33, 56]


ONE_EACH = _segments([(1, 17), (0, 6)], [(3, 23)])


@pytest.mark.parametrize("widths", [(H, W), (W, H), (8, 16)])
def test_cudnn_pads_heads_to_one_width(widths):
  """Its shapes and its mask; the kernel itself needs a GPU."""
  h, w = widths
  rng = np.random.default_rng(6)
  q, k, v, dout = (rng.normal(size=(B, heads, 23, x)) for heads, x in (
      (N, h), (K, h), (K, w), (N, w)))
  real = (ONE_EACH > 0)[:, None, :, None]

  @jax.jit
  def program(q, k, v, dout):
    out, pull = jax.vjp(
        lambda *qkv: flash._cudnn(*qkv, jnp.asarray(ONE_EACH), SCALE, False,
                                  implementation="xla"), q, k, v)
    return out, *pull(dout)

  got = program(*map(jnp.float32, (q, k, v, dout * real)))
  by_row = []
  for row in range(B):
    allowed = [[s in reference.visible(ONE_EACH[row], t) for s in range(23)]
               for t in range(23)]
    arrays = [x[row].swapaxes(0, 1) for x in (q, k, v)]
    by_row.append((
        reference.gqa(*arrays, allowed, SCALE), *reference.gqa_gradients(
            *arrays, allowed, SCALE, (dout * real)[row].swapaxes(0, 1))))
  out, *gradients = (np.swapaxes(x, 1, 2) for x in got)
  expected, *expected_gradients = (np.array(x) for x in zip(*by_row))
  kept = ONE_EACH > 0
  np.testing.assert_allclose(out[kept], expected[kept], **F32)
  assert np.isfinite(out).all()
  for x, y in zip(gradients, expected_gradients, strict=True):
    np.testing.assert_allclose(x, y, **F32)


def test_cudnn_marks_rows_that_break_the_promise():
  rows = _segments([(1, 4), (0, 2)], [(1, 3), (2, 3)], [(0, 2), (1, 4)],
                   [(1, 2), (0, 1), (1, 3)], [(0, 6)])
  q, k, v = (jnp.ones((5, heads, 6, x)) for heads, x in (
      (N, H), (K, H), (K, W)))
  out = flash._cudnn(q, k, v, jnp.asarray(rows), SCALE, False, "xla")
  assert np.isnan(out).all((1, 2, 3)).tolist() == [
      False, True, True, True, False]
  assert np.isnan(out).any((1, 2, 3)).tolist() == [
      False, True, True, True, False]


def test_cudnn_is_lowered_without_scores_or_bias(monkeypatch):
  """The program for a GPU, on a machine that has none: JAX asks the driver."""
  from jax._src.cudnn import fused_attention_stablehlo as fused
  monkeypatch.setattr(fused, "check_cudnn_version", lambda: 91000)
  monkeypatch.setattr(fused, "check_compute_capability", lambda _: True)
  monkeypatch.setattr(
      fused, "is_cuda_compute_capability_equal", lambda _: False)
  t = 32768

  def program(q, k, v, segments, dout):
    def value(*qkv):
      return flash.attend("cudnn", *qkv, Segments.whole(segments), SCALE,
                          packed=False)
    out, pull = jax.vjp(value, q, k, v)
    return out, pull(dout)

  q, k, v, dout = (jax.ShapeDtypeStruct((1, 8, t, x), jnp.bfloat16)
                   for x in (192, 192, 128, 128))
  segments = jax.ShapeDtypeStruct((1, t), jnp.int32)
  text = jax.jit(program).trace(q, k, v, segments, dout).lower(
      lowering_platforms=("cuda",)).as_text()
  assert "__cudnn$fmhaSoftmaxBackward" in text
  assert f"{t}x{t}" not in text


@pytest.mark.parametrize("form, change, message", [
    ("flash", {}, "'flash': choose one of naive, blocks, splash, cudnn"),
    ("splash", dict(block=200), "block=200: splash takes multiples of 128"),
    ("cudnn", {}, "with packed=True: .* choose blocks"),
    ("cudnn", dict(packed=False), "in float32: .* dtype=bfloat16"),
    ("cudnn", dict(packed=False, part=3), "with 3 queries and 6 keys")])
def test_what_a_form_cannot_take(form, change, message):
  change = dict(change)
  t = change.pop("part", 6)
  q, k, v = (jnp.ones((1, *shape)) for shape in ((N, t, H), (K, 6, H),
                                                  (K, 6, W)))
  segments = jnp.ones((1, 6), jnp.int32)
  with pytest.raises(ValueError, match=message):
    flash.attend(form, q, k, v, Segments(
        segments[:, :t], segments, jnp.arange(t)), SCALE, **change)


@pytest.mark.parametrize("backend, length, dtype, width, packed, form", [
    ("cpu", 512, "float32", 64, True, "naive"),
    ("cpu", 513, "float32", 64, True, "blocks"),
    ("cpu", 4096, "bfloat16", 64, False, "blocks"),
    ("tpu", 127, "bfloat16", 192, True, "naive"),
    ("tpu", 128, "bfloat16", 192, True, "splash"),
    ("tpu", 32768, "float32", 64, True, "splash"),
    ("gpu", 32768, "bfloat16", 128, True, "blocks"),
    ("gpu", 32768, "bfloat16", 128, False, "cudnn"),
    ("gpu", 32768, "bfloat16", 192, False, "blocks"),
    ("gpu", 256, "float32", 128, False, "naive")])
def test_choice(backend, length, dtype, width, packed, form):
  assert flash.choose(
      backend, length, jnp.dtype(dtype), width, packed) == form
