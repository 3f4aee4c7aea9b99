"""Sampling against float64 distributions written out by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from r1jax.rollout.sampling import SamplingConfig, sample

F32 = dict(rtol=1e-5, atol=1e-6)
LOGITS = np.array([2.0, -1.0, 0.5, 1.5, -30.0])


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


@pytest.mark.parametrize("bad", [dict(temperature=-0.1), dict(top_p=0.0),
                                 dict(top_p=1.5), dict(max_new_tokens=0)])
def test_bad_config(bad):
  with pytest.raises(ValueError, match=next(iter(bad))):
    SamplingConfig(**bad)
