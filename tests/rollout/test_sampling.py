"""Sampling against float64 distributions written out by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from r1jax.rollout.sampling import (
    BLOCK,
    SamplingConfig,
    invert,
    nucleus,
    sample,
)

F32 = dict(rtol=1e-5, atol=1e-6)
LOGITS = np.array([2.0, -1.0, 0.5, 1.5, -30.0])
VOCABULARY = 151_936  # Qwen2.5's
# Share of the whole that sums of float32 in blocks may err by: eight steps of
# `jax.random.uniform`.
ROUNDING = 1e-6


def distribution(logits, temperature, top_p):
  """float64: softmax of logits / T, nucleus kept greedily, renormalised."""
  scaled = np.asarray(logits, np.float64) / temperature
  p = np.exp(scaled - scaled.max())
  p /= p.sum()
  kept, total = [], 0.0
  for i in sorted(range(len(p)), key=lambda i: -p[i]):
    if total >= top_p:
      break
    kept.append(i)
    total += p[i]
  out = np.zeros_like(p)
  out[kept] = p[kept] / p[kept].sum()
  return out


def draw(n, temperature, top_p, seed=0):
  logits = jnp.broadcast_to(jnp.asarray(LOGITS, jnp.float32), (n, len(LOGITS)))
  keys = jax.random.split(jax.random.key(seed), n)
  tokens, logprobs = sample(logits, keys, temperature, top_p)
  return np.asarray(tokens), np.asarray(logprobs)


@pytest.mark.parametrize("temperature,top_p", [(1.0, 1.0), (0.6, 1.0),
                                               (1.7, 1.0), (1.0, 0.8),
                                               (0.7, 0.5)])
def test_frequencies_and_logprobs(temperature, top_p):
  want = distribution(LOGITS, temperature, top_p)
  n = 20000
  tokens, logprobs = draw(n, temperature, top_p)
  share = np.bincount(tokens, minlength=len(LOGITS)) / n
  # Five standard errors of a share: fails by chance once in a million runs.
  assert np.all(np.abs(share - want) <= 5 * np.sqrt(want * (1 - want) / n))
  np.testing.assert_allclose(logprobs, np.log(want[tokens]), **F32)


def test_each_knob_moves_the_distribution():
  plain = distribution(LOGITS, 1.0, 1.0)
  for knobs in ((0.6, 1.0), (1.0, 0.8)):
    assert np.abs(distribution(LOGITS, *knobs) - plain).max() > 0.05


def test_greedy_takes_the_best_and_reports_its_untempered_logprob():
  tokens, logprobs = draw(3, 0, 1.0)
  assert (tokens == 0).all()
  want = np.log(distribution(LOGITS, 1.0, 1.0)[0])
  np.testing.assert_allclose(logprobs, want, **F32)


def test_a_row_depends_on_its_key_alone():
  logits = jax.random.normal(jax.random.key(1), (6, 11))
  keys = jax.random.split(jax.random.key(2), 6)
  whole, _ = sample(logits, keys, 1.0, 0.9)
  order = np.array([4, 2, 5])
  part, _ = sample(logits[order], keys[order], 1.0, 0.9)
  np.testing.assert_array_equal(part, np.asarray(whole)[order])


def test_a_token_without_probability_is_never_drawn():
  logits = jnp.full((5000, 7), -jnp.inf).at[:, 3].set(0.0).at[:, 5].set(0.0)
  tokens, _ = sample(logits, jax.random.split(jax.random.key(0), 5000), 1.0,
                     1.0)
  assert set(np.asarray(tokens).tolist()) == {3, 5}


@pytest.mark.parametrize("temperature, top_p", [(1.0, 1.0), (0.7, 0.9), (0, 1)])
def test_what_lies_beyond_a_tokenizer_is_never_drawn(temperature, top_p):
  """And what is drawn has the probabilities of a model without it."""
  logits = jax.random.normal(jax.random.key(1), (3000, 9)).at[:, 6:].add(9.0)
  keys = jax.random.split(jax.random.key(2), 3000)
  tokens, logprobs = sample(logits, keys, temperature, top_p, 6)
  assert tokens.max() == 5
  want = sample(logits[:, :6], keys, temperature, top_p)
  np.testing.assert_array_equal(tokens, want[0])
  np.testing.assert_allclose(logprobs, want[1], **F32)
  for vocab in (0, 9, 12):  # nothing is padded
    assert sample(logits, keys, temperature, top_p, vocab)[0].max() > 5


def in_blocks(weights_BV):
  """[B, V] -> [B, K, BLOCK], padded with zeros."""
  return jnp.pad(weights_BV, ((0, 0), (0, -weights_BV.shape[1] % BLOCK))
                 ).reshape(len(weights_BV), -1, BLOCK)


def cut(weights_BV, top_p):
  """The weights with 0 outside the nucleus."""
  least_B = nucleus(in_blocks(weights_BV), top_p)
  return jnp.where(weights_BV >= least_B[:, None], weights_BV, 0.0)


def inverted(weights_BV, u_B):
  """Tokens drawn by the weights."""
  return invert(in_blocks(weights_BV), u_B, lambda weights: weights)[0]


def flat():
  """Weights of a whole vocabulary without any likely token, [1, V]."""
  logits = np.random.default_rng(100).gumbel(size=(1, VOCABULARY))
  return jnp.asarray(logits - logits.max(), jnp.float32)


def before(weights):
  """float64 share of all tokens that are likelier, by sorting."""
  p = np.float64(weights) / np.float64(weights).sum()
  order = np.argsort(-p, kind="stable")
  sums, out = np.cumsum(p[order]) - p[order], np.empty_like(p)
  out[order] = sums
  return out, p


# Keys whose uniform number falls, by a running sum of float32 that is not
# monotone, on a token that was not kept.
@pytest.mark.parametrize("number", [28200, 72350, 74176])
def test_never_a_token_that_was_not_kept(number):
  key = jax.random.fold_in(jax.random.key(0), number)[None]
  logits_BV = flat()
  (token,), (logprob,) = sample(logits_BV, key, 1.0, 0.95)
  likelier, p = before(jnp.exp(logits_BV)[0])
  assert likelier[token] < 0.95 + ROUNDING
  kept = p[likelier < 0.95].sum()
  np.testing.assert_allclose(logprob, np.log(p[token] / kept), **F32)


def edges(weights):
  """Numbers in [0, 1) at which the draw changes hands between blocks."""
  sums = np.cumsum(np.float64(weights))[BLOCK - 1::BLOCK] / np.sum(
      np.float64(weights))
  near = np.float32(sums)
  found = np.concatenate([
      near, np.nextafter(near, np.float32(0)), np.nextafter(near, np.float32(2))
  ])
  last = np.float32([0, 2**-149, 2**-24, 1 - 2**-23, 1 - 2**-24])
  return np.concatenate([found[found < 1], last])


@pytest.mark.parametrize("top_p", [1.0, 0.95, 0.3])
def test_the_inversion_of_a_whole_vocabulary(top_p):
  """Against float64, at random numbers and the worst ones."""
  weights_BV = jnp.exp(flat())
  if top_p < 1:
    weights_BV = cut(weights_BV, top_p)
  weights = np.float64(weights_BV[0])
  u = np.concatenate([
      np.random.default_rng(0).integers(2**23, size=5000) * np.float32(2**-23),
      edges(weights)])
  tokens = np.asarray(jax.jit(jax.vmap(
      lambda u: inverted(weights_BV, u[None])[0]))(u))
  assert np.all(weights[tokens] > 0)
  upto = np.cumsum(weights) / weights.sum()
  low = upto[tokens] - weights[tokens] / weights.sum()
  assert np.all((low <= u + ROUNDING) & (u < upto[tokens] + ROUNDING))
  # Where no rounding decides it is the plain inversion, token for token.
  plain = np.searchsorted(upto, u, side="right").clip(max=len(upto) - 1)
  gap = np.minimum(np.abs(u - upto[plain]), np.abs(u - upto[plain - 1]))
  clear = gap > ROUNDING
  assert clear.mean() > 0.5
  np.testing.assert_array_equal(tokens[clear], plain[clear])


@pytest.mark.parametrize("top_p", [0.95, 0.3, 1e-6, 1 - 1e-7])
def test_the_nucleus_of_a_whole_vocabulary(top_p):
  weights_BV = jnp.exp(flat())
  kept = np.asarray(cut(weights_BV, top_p)[0] > 0)
  likelier, p = before(weights_BV[0])
  assert kept[np.argmax(p)]
  assert np.all(likelier[kept] < top_p + ROUNDING)
  assert np.all(likelier[~kept] >= top_p - ROUNDING)
  np.testing.assert_array_equal(
      cut(weights_BV, top_p)[0], np.where(kept, weights_BV[0], 0))


def test_tokens_alike_are_kept_together():
  """And a token likelier than the last one needed is kept without doubt."""
  alike = jnp.exp(jnp.zeros((1, 300)))
  assert np.all(cut(alike, 0.01) == alike)
  weights_BV = jnp.asarray([[0.25, 1.0, 0.25, 0.125, 0.25, 0.125]])  # sum 2
  for top_p, least in ((0.5, 1.0), (0.51, 0.25), (0.87, 0.25), (0.88, 0.125)):
    np.testing.assert_array_equal(
        cut(weights_BV, top_p)[0] > 0, weights_BV[0] >= least)


def test_blocks_without_weight_are_passed_over():
  """Also by the largest number, and where the last block is not full."""
  size = 5 * BLOCK + 3
  weights = np.zeros((1, size), np.float32)
  weights[0, [BLOCK + 7, 3 * BLOCK - 1, 3 * BLOCK]] = [1, 2**-30, 3]
  for u, want in ((0.0, BLOCK + 7), (0.2499, BLOCK + 7), (0.26, 3 * BLOCK),
                  (1 - 2**-24, 3 * BLOCK)):
    assert int(inverted(jnp.asarray(weights), jnp.float32([u]))[0]) == want
  last = np.zeros((1, size), np.float32)
  last[0, -1] = 2**-100
  for u in (0.0, 0.5, 1 - 2**-24):
    assert int(inverted(jnp.asarray(last), jnp.float32([u]))[0]) == size - 1


@pytest.mark.parametrize("temperature", [1e-6, 1e-37, 1e6])
def test_extreme_temperatures_stay_finite(temperature):
  logits = jnp.float32([[90.0, -500.0, 89.0, 3.0]])
  (token,), (logprob,) = sample(
      logits, jax.random.key(0)[None], temperature, 0.9)
  assert np.isfinite(logprob)
  if temperature < 1:
    assert (int(token), float(logprob)) == (0, 0.0)


@pytest.mark.parametrize("bad", [dict(temperature=-0.1), dict(top_p=0.0),
                                 dict(top_p=1.5), dict(max_new_tokens=0)])
def test_bad_config(bad):
  with pytest.raises(ValueError, match=next(iter(bad))):
    SamplingConfig(**bad)


def test_no_array_of_the_size_of_the_logits():
  """Neither their exponentials nor a copy; a nucleus stores them."""
  rows = 64
  logits = jax.ShapeDtypeStruct((rows, VOCABULARY), jnp.float32)
  keys = jax.eval_shape(lambda: jax.random.split(jax.random.key(0), rows))

  def temporaries(top_p):
    """In units of the logits."""
    draw = jax.jit(lambda logits, keys: sample(logits, keys, 0.7, top_p))
    analysis = draw.lower(logits, keys).compile().memory_analysis()
    return analysis.temp_size_in_bytes / (rows * VOCABULARY * 4)

  assert temporaries(1.0) < 0.1
  assert temporaries(0.9) > 0.9  # so the measure would see one
