"""Samples that are cut when their question's seconds are over.

The clock is the test's: it advances by one second with every decoding call, and
by more where the call is compiled.
"""

import contextlib

import jax
import numpy as np
import pytest

from r1jax.models import presets
from r1jax.models.model import build
from r1jax.rollout import engine as engine_lib
from r1jax.rollout.engine import Engine
from r1jax.rollout.sampling import SamplingConfig
from r1jax.rollout.slots import Deadline, Harvest
from r1jax.sharding import mesh as mesh_lib

EOS = frozenset({2, 3, 40})
NEW, SAMPLES, EACH = 20, 8, 4  # EACH: tokens of a decoding call
PROMPTS = [np.arange(5, 5 + n) for n in (3, 7)]


@pytest.fixture(scope="module")
def case():
  model = build(presets.get("tiny-dense"))
  params = model.unstack(jax.jit(model.init)(jax.random.key(0)))
  return model, params, model.init_router_bias()


def drawn(case, mesh=None, ended=None, run=lambda engine: None, **options):
  model, *weights = case
  engine = Engine(model, SamplingConfig(max_new_tokens=NEW), EOS, mesh,
                  **options)
  run(engine.programs)
  with jax.set_mesh(mesh) if mesh else contextlib.nullcontext():
    return engine.generate(*weights, PROMPTS, range(2), SAMPLES,
                           jax.random.key(5), ended=ended)


@pytest.fixture
def late(case, monkeypatch):
  """Draws with a deadline in seconds, of one decoding call each."""
  monkeypatch.setattr(engine_lib, "WATCH", EACH)

  now, take = [100.0], Harvest.take

  def one(*args):
    now[0] += 1
    return take(*args)

  monkeypatch.setattr(Harvest, "take", one)

  def draw(seconds, compiling=0, **options):

    def run(programs):
      decode = programs.decode

      def slow(*args):
        before = decode._cache_size()
        found = decode(*args)
        now[0] += compiling * (decode._cache_size() - before)
        return found

      slow._cache_size = decode._cache_size
      monkeypatch.setattr(programs, "decode", slow)

    return drawn(case, run=run, clock=lambda: now[0],
                 deadline=Deadline(seconds=seconds), **options)

  return draw


def check(got, whole, cut):
  """Samples are `whole` ones up to `cut[q, g]` tokens."""
  for q in range(2):
    for g in range(SAMPLES):
      want = whole.completion(q, g)[:cut[q, g]]
      np.testing.assert_array_equal(got.completion(q, g), want)
      assert got.truncated_QG[q, g] == (
          whole.truncated_QG[q, g] or len(want) < whole.lengths_QG[q, g])
  assert (cut < whole.lengths_QG).any()


@pytest.mark.parametrize("sizes", [None, dict(data=4, fsdp=2)])
def test_unfinished_samples_are_cut(case, late, sizes):
  mesh = sizes and mesh_lib.make_mesh(mesh_lib.MeshConfig(**sizes))
  seen, whole = [], drawn(case)
  got = late(3, mesh=mesh, ended=lambda q, g, ids: seen.append((q, g)))
  check(got, whole, np.full((2, SAMPLES), 3 * EACH))
  assert sorted(seen) == [(q, g) for q in range(2) for g in range(SAMPLES)]
  assert late(0.5).lengths_QG.max() == EACH
  np.testing.assert_array_equal(late(60).tokens_QGT, whole.tokens_QGT)


def test_compiling_takes_no_time(late):
  wanted, found = late(3), late(3, compiling=1000)
  np.testing.assert_array_equal(found.tokens_QGT, wanted.tokens_QGT)
  np.testing.assert_array_equal(found.lengths_QG, wanted.lengths_QG)


def test_samples_that_begin_too_late_have_one_token(case, late):
  """Through one row, so that every sample begins where the last one ended."""
  whole = drawn(case)
  cut = np.ones((2, SAMPLES), int)
  for q in range(2):
    left = 3
    for g in range(SAMPLES):
      cut[q, g] = max(left * EACH, 1)
      left -= -(-min(cut[q, g], whole.lengths_QG[q, g]) // EACH)
  assert (cut == 1).any()
  check(late(3, max_rows=1), whole, cut)


def test_tokens_or_seconds():
  assert Deadline.parse("2000") == Deadline(tokens=2000)
  assert Deadline.parse("2.5s") == Deadline(seconds=2.5)
  assert not any(Deadline.parse("0"))
  for text in ("-1", "30m", "", "s", "1e3s", "30 s", "inf", "nans"):
    with pytest.raises(ValueError, match="tokens .2000., a number of seconds"):
      Deadline.parse(text)
