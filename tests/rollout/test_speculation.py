"""With drafts the samples are those without: tokens, logprobs, experts."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from r1jax.core import keys
from r1jax.models import presets
from r1jax.models.model import build
from r1jax.rollout import drafts
from r1jax.rollout import engine as engine_lib
from r1jax.rollout import prompts as prompts_lib
from r1jax.rollout.engine import Engine
from r1jax.rollout.sampling import SamplingConfig, sample

LOGP = dict(rtol=0, atol=1e-5)  # float32, as between sampler and trainer
EOS = frozenset({2, 3, 40})
NEW, SAMPLES = 20, 8
PROMPTS = [np.arange(5, 5 + n) for n in (3, 7, 17, 1, 9)]


@pytest.fixture(scope="module")
def case():
  model = build(presets.get("tiny"))
  params = jax.jit(model.init)(jax.random.key(0))
  bias = 0.1 * jax.random.normal(
      jax.random.key(9), model.init_router_bias().shape)
  return model, model.unstack(params), bias


def drawn(case, *, speculate, max_rows=0, limits=None, **sampling):
  model, params, bias = case
  engine = Engine(model, SamplingConfig(max_new_tokens=NEW, **sampling), EOS,
                  max_rows=max_rows, speculate=speculate)
  rollout = engine.generate(
      params, bias, PROMPTS, range(5), SAMPLES, jax.random.key(5),
      limits_QG=limits)
  return rollout, engine.speed


def same(found, wanted):
  np.testing.assert_array_equal(found.tokens_QGT, wanted.tokens_QGT)
  np.testing.assert_array_equal(found.lengths_QG, wanted.lengths_QG)
  np.testing.assert_array_equal(found.truncated_QG, wanted.truncated_QG)
  np.testing.assert_allclose(found.logprobs_QGT, wanted.logprobs_QGT, **LOGP)
  if wanted.experts_QGSLA is not None:
    np.testing.assert_array_equal(found.experts_QGSLA, wanted.experts_QGSLA)


@pytest.mark.parametrize("how", [
    {}, dict(max_rows=7, temperature=0.6, top_p=0.9)])
def test_samples_are_those_without_drafts(case, how):
  how = how | dict(record_experts=True)
  wanted, plain = drawn(case, speculate=False, **how)
  found, speed = drawn(case, speculate=True, **how)
  same(found, wanted)
  assert plain["rounds"] == plain["tokens"] == speed["tokens"]
  # Random logits are near each other, so that drafts by the same key are right
  # now and then.
  assert speed["tokens"] / 2 <= speed["rounds"] < speed["tokens"]


def test_drafts_are_those_of_the_whole_sequence(case):
  """Rounds as counted from full passes: the module behind the hidden states.

  A draft is drawn by the key of its token from what `Model.mtp` says in a pass
  over the whole text; it saves a round if it is that token.
  """
  model, params, bias = case
  rollout, speed = drawn(case, speculate=True)
  rounds = taken = 0
  for q, prompt in enumerate(PROMPTS):
    for g in range(SAMPLES):
      length = rollout.lengths_QG[q, g]
      tokens = rollout.tokens_QGT[q, g, :length]
      text = np.zeros((1, 40), np.int32)
      text[0, :len(prompt)] = prompt
      text[0, len(prompt):len(prompt) + length] = tokens
      draft = drafted(model, params, bias, text)
      s = rounds_of = 1  # the first token has no draft
      while s < length:
        at = len(prompt) + s - 2
        key = jax.random.fold_in(
            keys.fold(jax.random.key(5), q, g), s)
        guess, _ = sample(draft[0, at][None], key[None], 1.0, 1.0)
        right = int(guess[0]) == tokens[s] and s + 1 < length
        s += 1 + right
        rounds_of += 1
        taken += right
      rounds += rounds_of
  assert speed["rounds"] == rounds and taken > 5


@functools.partial(jax.jit, static_argnums=0)
def drafted(model, params, bias, tokens_BT):
  """Logits of the module, in a full pass."""
  params = model.stack(params)
  positions = jnp.broadcast_to(
      jnp.arange(tokens_BT.shape[1])[None], tokens_BT.shape)
  segments = jnp.ones_like(positions)
  hidden = model.forward(
      params, bias, tokens_BT, positions, segments).hidden_BTD
  found = model.mtp(params, bias, hidden, jnp.roll(tokens_BT, -1, 1), positions,
                    segments)
  return found.hidden_BTD @ model.head(params)


def test_a_limit_ends_a_row_within_two_tokens(case):
  limits = 1 + np.arange(5 * SAMPLES).reshape(5, SAMPLES) % 4
  wanted, _ = drawn(case, speculate=False, limits=limits)
  found, _ = drawn(case, speculate=True, limits=limits)
  same(found, wanted)
  assert found.lengths_QG.max() <= 4


def test_without_a_module_it_is_refused():
  model = build(presets.get("tiny-dense"))
  with pytest.raises(ValueError, match="multi-token prediction"):
    Engine(model, SamplingConfig(), EOS, speculate=True)


def test_a_cache_that_grows_and_halves(case, monkeypatch):
  monkeypatch.setattr(engine_lib, "FIRST_SLOTS", 16)
  monkeypatch.setattr(engine_lib, "SMALLEST_BATCH", 4)
  monkeypatch.setattr(prompts_lib, "PROMPT_BUCKET", 16)
  wanted, _ = drawn(case, speculate=False)
  found, _ = drawn(case, speculate=True)
  same(found, wanted)


def test_how_often_two_draws_agree():
  """The closed forms of the benchmark, against draws by the same noise."""
  rng = np.random.default_rng(0)
  p, q = rng.dirichlet(np.ones(7), 2), rng.dirichlet(np.ones(7), 2)
  found = drafts.couplings(p, q)
  u = rng.random((40_000, 1))
  noise = rng.gumbel(size=(40_000, 7))
  inverted = [np.mean((np.cumsum(a) <= u).sum(1) == (np.cumsum(b) <= u).sum(1))
              for a, b in zip(p, q)]
  raced = [np.mean((np.log(a) + noise).argmax(1) == (np.log(b) + noise
                                                     ).argmax(1))
           for a, b in zip(p, q)]
  assert abs(found["inversion"] - np.mean(inverted)) < 0.01
  assert abs(found["gumbel"] - np.mean(raced)) < 0.01
  assert max(found["inversion"], found["gumbel"]) <= found["most"]
