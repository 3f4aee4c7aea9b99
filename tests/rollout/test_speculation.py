"""With drafts the samples are those without: tokens, logprobs, experts."""

import contextlib
import dataclasses
import functools
import json
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from r1jax.core import keys
from r1jax.models import presets
from r1jax.models.model import build
from r1jax.rollout import drafts
from r1jax.rollout import engine as engine_lib
from r1jax.rollout import programs as programs_lib
from r1jax.rollout import prompts as prompts_lib
from r1jax.rollout.engine import Engine
from r1jax.rollout.sampling import SamplingConfig, sample
from r1jax.sharding import mesh as mesh_lib

LOGP = dict(rtol=0, atol=1e-5)  # float32, as between sampler and trainer
EOS = frozenset({2, 3, 40})
NEW, SAMPLES = 20, 8
DEPTHS = (1, 2, 3)
# Distributions so near each other that whole rounds of drafts are right.
FLAT = dict(temperature=3.0)
PROMPTS = [np.arange(5, 5 + n) for n in (3, 7, 17, 1, 9)]


@pytest.fixture(scope="module")
def case():
  model = build(presets.get("tiny"))
  params = jax.jit(model.init)(jax.random.key(0))
  bias = 0.1 * jax.random.normal(
      jax.random.key(9), model.init_router_bias().shape)
  return model, model.unstack(params), bias


def drawn(case, *, speculate=0, max_rows=0, limits=None, mesh=None,
          prompts=PROMPTS, **sampling):
  model, params, bias = case
  engine = Engine(model, SamplingConfig(max_new_tokens=NEW, **sampling), EOS,
                  mesh, max_rows=max_rows, speculate=speculate)
  with jax.set_mesh(mesh) if mesh else contextlib.nullcontext():
    rollout = engine.generate(
        params, bias, prompts, range(len(prompts)), SAMPLES,
        jax.random.key(5), limits_QG=limits)
  return rollout, engine.speed


@pytest.fixture(scope="module")
def plain(case):
  """Draws the samples without drafts, with their experts."""
  return functools.cache(
      lambda **sampling: drawn(case, record_experts=True, **sampling))


def same(found, wanted):
  np.testing.assert_array_equal(found.tokens_QGT, wanted.tokens_QGT)
  np.testing.assert_array_equal(found.lengths_QG, wanted.lengths_QG)
  np.testing.assert_array_equal(found.truncated_QG, wanted.truncated_QG)
  np.testing.assert_allclose(found.logprobs_QGT, wanted.logprobs_QGT, **LOGP)
  if wanted.experts_QGSLA is not None:
    np.testing.assert_array_equal(found.experts_QGSLA, wanted.experts_QGSLA)


@pytest.mark.parametrize("speculate", DEPTHS)
@pytest.mark.parametrize("how", [
    FLAT, dict(temperature=0.6, top_p=0.9)])
def test_samples_are_those_without_drafts(case, plain, speculate, how):
  wanted, speed = plain(**how)
  assert speed["rounds"] == speed["tokens"]
  found, speed = drawn(
      case, speculate=speculate, max_rows=7, record_experts=True, **how)
  same(found, wanted)
  # Random logits are near each other, so that drafts by the same key are right
  # now and then.
  counts = [speed["rounds"], *accepted(speed, speculate)]
  assert counts == sorted(counts, reverse=True) and counts[1]
  assert sum(counts) == speed["tokens"] == wanted.lengths_QG.sum()


def accepted(speed, speculate):
  """How often so many drafts or more were accepted, from one on."""
  return [speed[f"accepted_{n}"] for n in range(1, speculate + 1)]


@pytest.mark.parametrize("speculate", DEPTHS)
def test_drafts_are_those_of_the_whole_sequence(case, speculate):
  """Rounds as counted from full passes: the module behind the hidden states.

  A draft is drawn by the key of its token from what `Model.mtp` says in a pass
  over the whole text, in which the module's own states and drafts are in the
  places of what is not known yet. It saves a round if it and those before it
  are the text's tokens.
  """
  model, params, bias = case
  rollout, speed = drawn(case, speculate=speculate, **FLAT)
  counts = np.zeros(speculate + 1, int)
  for q, prompt in enumerate(PROMPTS):
    for g in range(SAMPLES):
      end = len(prompt) + rollout.lengths_QG[q, g]
      text = np.zeros((1, 40), np.int32)
      text[0, :len(prompt)] = prompt
      text[0, len(prompt):end] = rollout.completion(q, g)
      at, hidden = len(prompt), states(model, params, bias, text)
      counts[0] += 1  # the first token has no draft
      while at + 1 < end:
        right = guessed(case, hidden, text, at, end, q, g, speculate)
        counts[:right + 1] += 1
        at += right + 1
  assert [speed["rounds"], *accepted(speed, speculate)] == counts.tolist()
  assert counts[-1] > 5


def guessed(case, hidden, text, at, end, q, g, speculate):
  """How many drafts are right, of those that follow the token at `at`."""
  model, params, bias = case
  prompt, following = len(PROMPTS[q]), np.roll(text, -1, 1)
  for number in range(1, speculate + 1):
    state, logits = modules(model, params, bias, hidden, following)
    read = at + number - 2
    key = jax.random.fold_in(
        keys.fold(jax.random.key(5), q, g), at + number - prompt)
    guess, _ = sample(logits[0, read][None], key[None], **FLAT, top_p=1.0)
    if at + number + 1 >= end or guess[0] != text[0, at + number]:
      return number - 1
    hidden = hidden.at[0, read + 1].set(state[0, read])
    following[0, read + 1] = guess[0]
  return speculate


def places(tokens_BT):
  """(positions, segments) of one text."""
  positions = jnp.arange(tokens_BT.shape[1])[None]
  return positions, jnp.ones_like(positions)


@functools.partial(jax.jit, static_argnums=0)
def states(model, params, bias, tokens_BT):
  """The model's hidden states, in a full pass."""
  return model.forward(
      model.stack(params), bias, tokens_BT, *places(tokens_BT)).hidden_BTD


@functools.partial(jax.jit, static_argnums=0)
def modules(model, params, bias, hidden_BTD, following_BT):
  """(states, logits) of the module, in a full pass."""
  params = model.stack(params)
  found = model.mtp(params, bias, hidden_BTD, following_BT,
                    *places(following_BT)).hidden_BTD
  return found, found @ model.head(params)


@pytest.mark.parametrize("speculate", [1, 3])
def test_a_limit_ends_a_row_within_a_round(case, speculate):
  limits = 1 + np.arange(5 * SAMPLES).reshape(5, SAMPLES) % 6
  wanted, _ = drawn(case, limits=limits, **FLAT)
  found, _ = drawn(case, speculate=speculate, limits=limits, **FLAT)
  same(found, wanted)
  assert found.lengths_QG.max() == 6


@pytest.mark.parametrize("speculate", [1, 3])
def test_a_call_ends_within_a_round(case, plain, speculate, monkeypatch):
  """Calls of so few tokens that rows exceed them by a round's drafts."""
  for module in (programs_lib, engine_lib):
    monkeypatch.setattr(module, "CHUNK", speculate + 2)
  found, _ = drawn(case, speculate=speculate, record_experts=True, **FLAT)
  same(found, plain(**FLAT)[0])


@pytest.mark.parametrize("sizes", [
    dict(data=8), dict(data=2, expert=2, tensor=2)])
def test_on_a_mesh_the_same_samples(case, plain, sizes):
  mesh = mesh_lib.make_mesh(mesh_lib.MeshConfig(**sizes))
  found, speed = drawn(
      case, speculate=2, mesh=mesh, max_rows=8, record_experts=True, **FLAT)
  same(found, plain(**FLAT)[0])
  assert speed["accepted_2"]


def test_without_a_module_it_is_refused():
  model = build(presets.get("tiny-dense"))
  with pytest.raises(ValueError, match="multi-token prediction"):
    Engine(model, SamplingConfig(), EOS, speculate=1)
  with pytest.raises(ValueError, match="speculate=8 .* 0 to 7"):
    Engine(model, SamplingConfig(), EOS, speculate=8)


def test_a_cache_that_grows_and_halves(case, plain, monkeypatch):
  monkeypatch.setattr(engine_lib, "FIRST_SLOTS", 16)
  monkeypatch.setattr(engine_lib, "SMALLEST_BATCH", 4)
  monkeypatch.setattr(prompts_lib, "PROMPT_BUCKET", 16)
  found, _ = drawn(case, speculate=2, **FLAT)
  same(found, dataclasses.replace(plain(**FLAT)[0], experts_QGSLA=None))


def test_the_modules_cache_is_that_of_depth_one(case):
  """Up to the latest token; in a cache that has no slot too many."""
  (deep, ends), (shallow, others) = (
      decoded(case, depth, steps) for depth, steps in ((3, 6), (1, 9)))
  # One token, then four from each round whose drafts are all right.
  assert ends.max() == 16 + 6 - 1 + 3
  for row, end in enumerate(np.minimum(ends, others)):
    assert end > 16
    np.testing.assert_allclose(deep[row, :end], shallow[row, :end], **LOGP)


def decoded(case, depth, steps):
  """(the module's cache of eight rows after a decoding call, their ends)."""
  model, params, bias = case
  engine = Engine(model, SamplingConfig(temperature=30.0), frozenset(),
                  speculate=depth)
  run, ones = engine.programs, np.ones(8, np.int32)
  prompts, _ = run.prefill(
      params, bias, np.arange(5, 21)[None], np.array([16], np.int32))
  rows = run.insert(
      run.empty(prompts, jax.random.key(0), rows=8,
                slots=16 + steps + engine.ahead - 1),
      prompts, jax.random.key(5), programs_lib.Fill(
          ones > 0, 0 * ones, 16 * ones, 20 * ones, 99 * ones,
          np.zeros(8, np.uint32), np.arange(8, dtype=np.uint32)))
  rows, _ = run.decode(params, bias, rows, np.int32(steps), np.int32(0),
                       np.array([-1], np.int32))
  return np.asarray(rows.cache[-1]), np.asarray(rows.positions_B)


def test_rows_that_fill_their_cache(case, monkeypatch):
  """No slot is left for what follows the longest sample but the drafts."""
  how = dict(prompts=[np.arange(5, 21), np.arange(6, 22)], **FLAT)
  wanted, _ = drawn(case, **how)
  _, counts = drawn(case, speculate=3, **how)
  monkeypatch.setattr(engine_lib, "FIRST_SLOTS", 16)
  monkeypatch.setattr(prompts_lib, "PROMPT_BUCKET", 16)
  found, speed = drawn(case, speculate=3, **how)
  same(found, wanted)
  assert speed == counts and found.lengths_QG.max() == NEW


@pytest.mark.slow
def test_in_bfloat16_few_samples_change():
  """On a CPU one token of a row and two are rounded at the same places.

  What is left are sums in another order, of which few are rounded otherwise.

  With XLA as users have it: these tests' settings fuse other operations.
  """
  environment = {name: value for name, value in os.environ.items()
                 if name != "XLA_FLAGS"}
  found = subprocess.run(
      [sys.executable, "-m", "experiments.benchmarks.drafts",
       "--init=base:world", "--compute.dtype=bfloat16", "--data=world-sums",
       "--template=r1-zero", "--depth=1", "--reps=1", "--json"],
      env=environment, check=True, capture_output=True, text=True)
  measures = json.loads(found.stdout.splitlines()[-1])
  assert measures["accepted_1"] > 0.5 and measures["tokens"] > 4000
  assert measures["same_samples_1"] > 0.99


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
