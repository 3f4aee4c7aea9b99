"""Rows that share prompts: as if each had its prompt in its own cache."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from r1jax.ops import attention, mla, shared_prompts
from r1jax.ops.cached import Reading
from tests.reference import attention as reference
from tests.reference import mla as mla_reference

F32 = dict(rtol=1e-5, atol=1e-6)
RNG = np.random.default_rng(7)
LANES, ROWS, PROMPTS, P, S, T = 2, 5, 4, 7, 6, 2
B = LANES * ROWS
# Three rows at most read a prompt; one of lane 0 is of no row, and one only of
# a row that has ended; a prompt of lane 1 holds no position.
WHICH = np.array([2, 0, 2, 1, 0, 3, 3, 0, 3, 1])
LIVE = np.array([1, 1, 1, 0, 1, 1, 1, 1, 1, 1], bool)
HELD = np.array([[3, 4, 7, 5], [6, 0, 2, 5]])  # positions of every prompt
OWN = np.array([1, 5, 2, 4, 3, 4, 1, 2, 3, 5])  # slots, those of token 0
SCALE = 0.6
N, K, H = 6, 2, 8
U, R, C, W = 6, 4, 9, 7
Q, KEYS, VALUES = (RNG.normal(size=(B, *x)) for x in (
    (T, N, H), (S, K, H), (S, K, H)))
PROMPT_KEYS, PROMPT_VALUES = RNG.normal(size=(2, LANES * PROMPTS, P, K, H))
NOPE, ROPE, LATENT, PROMPT_LATENT, W_UKV = (RNG.normal(size=x) for x in (
    (B, T, N, U), (B, T, N, R), (B, S, C + R), (LANES * PROMPTS, P, C + R),
    (C, N, U + W)))


def joined(prompts, own, *, turned=0, fewer=0, less=()):
  """[prompt | own] of every row, and which of it each token sees.

  `turned` gives rows another prompt, `fewer` leaves out positions of prompts,
  `less` a part.
  """
  lane = np.repeat(np.arange(LANES), ROWS)
  which = (WHICH + turned) % PROMPTS
  held = HELD[lane, which] - fewer
  seen = np.concatenate([
      np.broadcast_to((np.arange(P) < held[:, None])[:, None], (B, T, P))
      & ("prompt" not in less),
      (np.arange(S) < (OWN[:, None] + np.arange(T))[..., None])
      & ("own" not in less)], -1)
  return np.concatenate([prompts[lane * PROMPTS + which], own], 1), seen


def gqa_wanted(**broken):
  keys, seen = joined(PROMPT_KEYS, KEYS, **broken)
  values, _ = joined(PROMPT_VALUES, VALUES, **broken)
  return np.array([reference.gqa(*row, SCALE)
                   for row in zip(Q, keys, values, seen)])


def mla_wanted(**broken):
  cache, seen = joined(PROMPT_LATENT, LATENT, **broken)
  return np.array([mla_reference.mla(
      NOPE[b], ROPE[b], cache[b, :, :C], cache[b, :, C:], W_UKV, seen[b],
      SCALE) for b in range(B)])


def arranged(cache, order=slice(None), lanes=LANES):
  lane = np.repeat(np.arange(LANES), ROWS)
  prompts = WHICH if lanes == LANES else lane * PROMPTS + WHICH
  return shared_prompts.arranged(
      jax.tree.map(jnp.float32, cache), *(
          jnp.asarray(x)[order] for x in (prompts, HELD[lane, WHICH], LIVE)),
      lanes, 3)


@functools.partial(jax.jit, static_argnames=("how", "lanes"))
def gqa(order, how, lanes):
  q, keys, values = (jnp.float32(x)[order] for x in (
      Q, KEYS.transpose(0, 2, 3, 1), VALUES.swapaxes(1, 2)))
  return attention.gqa_decode(
      q, keys, values, jnp.asarray(OWN)[order], SCALE, how=how,
      shared=arranged((PROMPT_KEYS.transpose(0, 2, 3, 1),
                       PROMPT_VALUES.swapaxes(1, 2)), order, lanes))


@functools.partial(jax.jit, static_argnames=("how", "lanes"))
def latent(order, how, lanes):
  nope, rope, cache = (jnp.float32(x)[order] for x in (NOPE, ROPE, LATENT))
  return mla.absorbed(
      nope, rope, cache, jnp.float32(W_UKV), jnp.asarray(OWN)[order], SCALE,
      how=how, shared=arranged(PROMPT_LATENT, order, lanes))


# By blocks of 3 the last of 7 slots reach back into the block before.
@pytest.mark.parametrize("how", [
    Reading(), Reading(3), Reading(3, 2), Reading(0, 4)])
@pytest.mark.parametrize("lanes", [1, 2])
@pytest.mark.parametrize("run,wanted", [
    (gqa, gqa_wanted), (latent, mla_wanted)])
def test_a_row_sees_its_prompt_and_its_own_slots(run, wanted, lanes, how):
  turned = np.concatenate([RNG.permutation(ROWS), 5 + RNG.permutation(ROWS)])
  for order in (np.arange(B), turned):
    got = run(order, how, lanes)
    np.testing.assert_allclose(
        got[LIVE[order]], wanted()[order][LIVE[order]], **F32)
    assert np.isfinite(got).all()


@pytest.mark.parametrize("wanted", [gqa_wanted, mla_wanted])
@pytest.mark.parametrize("broken", [
    dict(turned=1), dict(fewer=1), dict(less="prompt")])
def test_case_sees_each_part(wanted, broken):
  whole, cut = wanted(), wanted(**broken)
  changed = np.abs(whole - cut).max((1, 2, 3)) > 1e-2
  held = HELD[np.repeat(np.arange(LANES), ROWS), WHICH] > 0
  assert changed[held].all()


def test_a_pass_reads_the_prompts_of_live_rows():
  """Prompt 3 of lane 0 is no row's, prompt 1 that of an ended row."""
  got = arranged(np.zeros((LANES * PROMPTS, P)))
  assert got.turns_S.tolist() == [2, 3] and got.rows == 3
  assert got.prompts_SK[0, :2].tolist() == [0, 2]
  assert got.first_SK[0].tolist() == [0, 2, ROWS, ROWS]
  assert got.prompts_SK[1, :3].tolist() == [0, 1, 3]
  assert got.lengths_SK[1, :3].tolist() == [6, 0, 5]
