"""On a mesh every shard reads the blocks that its own rows need, no more.

What it need not read is NaN, which a sum keeps even with a weight of 0.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from r1jax.ops import attention, cached, mla, shared_prompts
from r1jax.ops.cached import Reading
from r1jax.sharding import rules
from r1jax.sharding.mesh import MeshConfig, Place, make_mesh
from tests.reference import attention as reference
from tests.reference import mla as mla_reference

F32 = dict(rtol=1e-5, atol=1e-6)
RNG = np.random.default_rng(17)
SCALE, BLOCK = 0.6, 3
BY_BLOCK = Reading(BLOCK)
SHARDS, B, T, S, P = 4, 8, 2, 11, 7  # rows are split 4 ways, heads 2 ways
LENGTHS = np.array([1, 4, 9, 10, 2, 2, 5, 8])  # slots of a row's first token
N, K, H, W = 4, 2, 6, 5
U, R, C = 6, 4, 9
Q, KEYS, VALUES = (RNG.normal(size=x) for x in (
    (B, T, N, H), (B, S, K, H), (B, S, K, W)))
NOPE, ROPE, LATENT, W_UKV = (RNG.normal(size=x) for x in (
    (B, T, N, U), (B, T, N, R), (B, S, C + R), (C, N, U + W)))
W_UKV *= 0.3
# A prompt for the two rows of each shard.
HELD = np.array([2, 7, 5, 0])
PROMPT_KEYS, PROMPT_VALUES, PROMPT_LATENT = (
    RNG.normal(size=(SHARDS, P, *x)) for x in ((K, H), (K, W), (C + R,)))


def mesh():
  return make_mesh(MeshConfig(data=2, expert=2, tensor=2))


def unread(own, prompts, by="shard"):
  """Both with NaN behind the last block that a shard's rows need.

  `by` "row": that each row needs itself; "all": that any row of all shards
  needs.
  """
  last_B, held_S = LENGTHS + T - 1, HELD
  if by != "row":
    last_B = last_B.reshape(SHARDS, -1).max(1).repeat(B // SHARDS)
  if by == "all":
    last_B, held_S = (np.full_like(x, x.max()) for x in (last_B, HELD))
  own, prompts = own.copy(), prompts.copy()
  for x, last in (own, last_B), (prompts, held_S):
    for row, most in zip(x, last, strict=True):
      row[-(-most // BLOCK) * BLOCK:] = np.nan
  return own, prompts


def joined(own, prompts):
  """[prompt | own] of every row, and which of it each token sees."""
  if prompts is None:
    return own, np.arange(S) < (LENGTHS[:, None] + np.arange(T))[..., None]
  held = np.repeat(HELD, B // SHARDS)
  return np.concatenate([prompts.repeat(B // SHARDS, 0), own], 1), (
      np.concatenate([
          np.broadcast_to((np.arange(P) < held[:, None])[:, None], (B, T, P)),
          joined(own, None)[1]], -1))


def arranged(cache):
  number_B = np.arange(B) // (B // SHARDS)
  return shared_prompts.arranged(
      cache, jnp.zeros(B, jnp.int32), jnp.asarray(HELD[number_B], jnp.int32),
      jnp.ones(B, bool), SHARDS, B // SHARDS)


def run(f, axes, *arrays):
  """f(place, *arrays) on the mesh, and its program's text."""
  with jax.set_mesh(mesh()):
    place = Place.here("decode")
    placed = [jax.device_put(jnp.float32(x), NamedSharding(
        mesh(), rules.spec(names, "decode"))) for x, names in zip(
            arrays, axes, strict=True)]
    lengths = jax.device_put(
        jnp.asarray(LENGTHS, jnp.int32),
        NamedSharding(mesh(), rules.spec(("act_batch",), "decode")))
    compiled = jax.jit(functools.partial(f, place)).lower(
        lengths, *placed).compile()
    return np.asarray(compiled(lengths, *placed)), compiled.as_text()


def gqa(shared, how=BY_BLOCK, **unread_):
  heads = ("act_batch", None, "act_kv_heads", None)
  keys, prompt_keys = unread(KEYS, PROMPT_KEYS, **unread_)
  values, prompt_values = unread(VALUES, PROMPT_VALUES, **unread_)

  def f(place, lengths, q, keys, values, *prompts):
    return attention.gqa_decode(
        q, keys, values, lengths, SCALE, how=how, place=place,
        shared=arranged(prompts) if shared else None)

  turned, same = heads[:1] + ("act_kv_heads", None, None), heads
  prompts = (prompt_keys.transpose(0, 2, 3, 1), prompt_values.swapaxes(1, 2))
  got = run(f, [same, *[turned] * (4 if shared else 2)], Q,
            keys.transpose(0, 2, 3, 1), values.swapaxes(1, 2),
            *prompts[:2 * shared])
  k, seen = joined(KEYS, PROMPT_KEYS if shared else None)
  v, _ = joined(VALUES, PROMPT_VALUES if shared else None)
  return *got, np.array([
      reference.gqa(*row, SCALE) for row in zip(Q, k, v, seen)])


def latent(shared, how=BY_BLOCK, **unread_):
  cache, prompts = unread(LATENT, PROMPT_LATENT, **unread_)

  def f(place, lengths, nope, rope, cache, up, *prompts):
    return mla.absorbed(
        nope, rope, cache, up, lengths, SCALE, how=how, place=place,
        shared=arranged(*prompts) if shared else None)

  heads, whole = ("act_batch", None, "act_heads", None), (
      "act_batch", None, None)
  got = run(f, [heads, heads, whole, (None, "act_heads", None),
                *[whole] * shared], NOPE, ROPE, cache, W_UKV,
            *[prompts] * shared)
  both, seen = joined(LATENT, PROMPT_LATENT if shared else None)
  return *got, np.array([mla_reference.mla(
      NOPE[b], ROPE[b], both[b, :, :C], both[b, :, C:], W_UKV, seen[b], SCALE)
      for b in range(B)])


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("form", [gqa, latent])
def test_a_shard_reads_what_its_own_rows_need(form, shared):
  got, text, want = form(shared)
  np.testing.assert_allclose(got, want, **F32)
  travels_not(text)


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("form", [gqa, latent])
def test_row_by_row_each_reads_what_it_needs_itself(form, shared):
  how = Reading(BLOCK, row_block=BLOCK)
  got, text, want = form(shared, how, by="row")
  np.testing.assert_allclose(got, want, **F32)
  travels_not(text)
  assert np.isnan(form(shared, by="row")[0]).any()  # read by shards


def travels_not(text):
  """Heads are split as well as rows."""
  for kind in ("all-reduce", "all-gather", "all-to-all", "collective-permute"):
    assert kind not in text


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("form", [gqa, latent])
def test_case_sees_what_other_shards_need(form, shared, monkeypatch):
  """Shards that went as far as the longest row of all would read NaN."""
  monkeypatch.setattr(cached, "by_shard", lambda place, f, *rows: f(*rows))
  assert np.isnan(form(shared)[0]).any()
  got, _, want = form(shared, by="all")
  np.testing.assert_allclose(got, want, **F32)


@pytest.mark.parametrize("rows,shards", [(8, 4), (6, 2), (3, 1)])
def test_rows_are_split_over_the_axes_that_divide_them(rows, shards):
  """The loop of a shard has its own number of turns."""
  def turns(x):
    most = jnp.max(x)
    return jnp.full_like(x, jax.lax.while_loop(
        lambda i: i < most, lambda i: i + 1, 0))

  x = np.array([3, 1, 4, 1, 5, 9, 2, 6][:rows], np.int32)
  with jax.set_mesh(mesh()):
    place = Place.here("decode")
    got = jax.jit(lambda x: cached.by_shard(place, turns, x))(
        jax.device_put(x, NamedSharding(mesh(), PartitionSpec())))
  want = x.reshape(shards, -1).max(1).repeat(rows // shards)
  np.testing.assert_array_equal(got, want)
