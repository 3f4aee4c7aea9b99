"""What goes into a softmax is float32, in every form of attention."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from r1jax.ops import attention, cached, flash, flash_splash, mla
from r1jax.ops.attention import Segments
from r1jax.ops.cached import Reading
from tests.reference import mla as reference

# Root mean square error over that of the values. What is left is the rounding
# of probabilities and of results to bfloat16, 2**-9 each, and for latent
# attention that of the queries and of the mixed latents.
BOUND = 2.5e-3
LATENT_BOUND = 4.5e-3
B, N, K, T, H, W = 2, 4, 2, 48, 64, 32
FORMS = Reading(), Reading(16), Reading(0, 16)  # of decoding
SCALE = 0.11  # no power of two: scaled queries would be rounded


def bfloat16(rng, *shape, std=1.0):
  """Values that bfloat16 has, as float64."""
  return np.float64(np.float32(jnp.asarray(
      std * rng.normal(size=shape), jnp.bfloat16)))


@functools.cache
def case():
  """Scores of about 8, whose rounding to bfloat16 changes exp by 3 %."""
  rng = np.random.default_rng(2)
  return (bfloat16(rng, B, N, T, H, std=3), bfloat16(rng, B, K, T, H, std=3),
          bfloat16(rng, B, K, T, W))


def expected(scale, fault=""):
  """float64 [B, N, T, W], causal, one query at a time."""
  q, k, v = case()
  out = np.zeros((B, N, T, W))
  for b, n, t in np.ndindex(B, N, T):
    query, keys = q[b, n, t] * scale, k[b, n // (N // K), :t + 1]
    if fault == "queries":
      query = np.float64(np.float32(jnp.asarray(query, jnp.bfloat16)))
    scores = keys @ query
    if fault == "scores":
      scores = np.float64(np.float32(jnp.asarray(scores, jnp.bfloat16)))
    probs = np.exp(scores - scores.max())
    out[b, n, t] = probs @ v[b, n // (N // K), :t + 1] / probs.sum()
  return out


def error(got, want):
  return np.sqrt(np.mean((np.float64(got) - want)**2) / np.mean(want**2))


def whole(form, scale):
  q, k, v = (jnp.asarray(x, jnp.bfloat16) for x in case())
  ones = Segments.whole(jnp.ones((B, T), jnp.int32))
  if form == "splash":
    return flash_splash.attend(
        q, k, v, ones, scale, 128, interpret=True)
  return flash.attend(form, q, k, v, ones, scale, block=16)


@pytest.mark.parametrize("form,scale", [
    ("naive", SCALE), ("blocks", SCALE), ("splash", 0.125)])
def test_whole_rows(form, scale):
  """The kernels take no scale, and are given one that rounds nothing."""
  got = whole(form, scale)
  assert got.dtype == jnp.bfloat16
  assert error(got, expected(scale)) <= BOUND


def test_gqa_decode():
  q, k, v = (jnp.asarray(x, jnp.bfloat16) for x in case())
  want = expected(SCALE)
  for t in (T // 2, T - 1):
    for how in FORMS:
      got = attention.gqa_decode(
          q[:, :, t][:, None], k.swapaxes(2, 3), v, jnp.full(B, t + 1), SCALE,
          how=how)[:, 0]
      assert got.dtype == jnp.bfloat16
      assert error(got, want[:, :, t]) <= BOUND


@pytest.mark.parametrize("fault", ["queries", "scores"])
def test_the_bound_sees_either_rounding(fault):
  assert error(expected(SCALE, fault), expected(SCALE)) > 1.4 * BOUND


def test_latent_decode():
  """Scores of latent attention, absorbed; rounded they double its error."""
  rng = np.random.default_rng(0)
  rows, n, u, r, c, w, s = 16, 8, 32, 16, 64, 32, 64
  scale = (u + r)**-0.5
  q_nope, q_rope = bfloat16(rng, rows, n, u), bfloat16(rng, rows, n, r)
  cache = bfloat16(rng, rows, s, c + r, std=4)
  w_ukv = bfloat16(rng, c, n, u + w, std=c**-0.5)
  want = np.array([reference.mla(
      q_nope[b, None], q_rope[b, None], cache[b, :, :c], cache[b, :, c:],
      w_ukv, np.ones((1, s), bool), scale)[0] for b in range(rows)])

  def run(scores):
    with pytest.MonkeyPatch.context() as patch:
      over = cached.over_slots
      patch.setattr(cached, "over_slots", lambda heads, *rest: over(
          heads._replace(score=lambda *given: scores(heads.score(*given))),
          *rest))
      return mla.absorbed(*(jnp.asarray(x, jnp.bfloat16) for x in (
          q_nope[:, None], q_rope[:, None], cache, w_ukv)),
          jnp.full(rows, s), scale)[:, 0]

  def exact(x):
    assert x.dtype == jnp.float32
    return x

  assert error(run(exact), want) <= LATENT_BOUND
  rounded = run(lambda x: x.astype(jnp.bfloat16).astype(jnp.float32))
  assert error(rounded, want) > 1.4 * LATENT_BOUND


@pytest.mark.parametrize(
    "form", ["naive", "blocks", "splash", "decode", "decode by blocks",
             "decode by rows, by blocks"])
def test_no_score_is_bfloat16(form):
  """In the program itself: no array of the scores' shape before exp."""
  if form.startswith("decode"):
    q, k, v = (jnp.asarray(x, jnp.bfloat16) for x in case())
    program = jax.make_jaxpr(lambda q, k, v: attention.gqa_decode(
        q[:, :, :1].swapaxes(1, 2), k.swapaxes(2, 3), v, jnp.full(B, T), SCALE,
        how=FORMS[form.count("by")]))(q, k, v)
  else:
    program = jax.make_jaxpr(lambda: whole(form, SCALE))()
  kinds = []
  for eqn in flat(program.jaxpr):
    if eqn.primitive.name == "dot_general":
      kinds.append(eqn.outvars[0].aval.dtype)
    elif eqn.primitive.name == "exp":
      kinds.append("exp")
      assert eqn.invars[0].aval.dtype == jnp.float32
  # The product before the first exp makes the scores.
  assert kinds[kinds.index("exp") - 1] == jnp.float32


def flat(jaxpr):
  for eqn in jaxpr.eqns:
    yield eqn
    for value in jax.tree.leaves(
        eqn.params, is_leaf=lambda x: hasattr(x, "eqns")):
      inner = getattr(value, "jaxpr", value)
      if hasattr(inner, "eqns"):
        yield from flat(inner)
