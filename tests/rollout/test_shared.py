"""Prompts that are kept once for their samples: the same samples."""

import contextlib

import jax
import numpy as np
import pytest

from r1jax.models import presets
from r1jax.models.model import build
from r1jax.ops import cached
from r1jax.rollout import engine as engine_lib
from r1jax.rollout import prompts as prompts_lib
from r1jax.rollout.engine import Engine
from r1jax.rollout.sampling import SamplingConfig
from r1jax.sharding import mesh as mesh_lib

LOGP = dict(rtol=0, atol=1e-5)  # float32, as between sampler and trainer
EOS = frozenset({2, 3, 40})
NEW, SAMPLES = 20, 4
# None begins like another: a row that read another one's would be seen.
PROMPTS = [np.random.default_rng(n).integers(4, 40, n)
           for n in (3, 7, 17, 1, 9, 11, 2, 5)]


@pytest.fixture(scope="module", params=["tiny", "tiny-dense"])
def case(request):
  """(model, parameters, bias, drafts, samples with copied prompts, counts)."""
  model = build(presets.get(request.param))
  params = model.unstack(jax.jit(model.init)(jax.random.key(0)))
  weights = params, 0.1 * jax.random.normal(
      jax.random.key(9), model.init_router_bias().shape)
  depth = 2 * model.cfg.n_mtp
  engine = made(model, speculate=depth)
  return model, *weights, depth, generate(engine, weights), engine.speed


def made(model, mesh=None, **options):
  return Engine(model, SamplingConfig(
      max_new_tokens=NEW, temperature=3.0,
      record_experts=model.cfg.n_experts > 0), EOS, mesh, **options)


def generate(engine, weights, prompts=PROMPTS):
  mesh = engine.mesh
  with jax.set_mesh(mesh) if mesh else contextlib.nullcontext():
    return engine.generate(*weights, prompts, range(len(prompts)), SAMPLES,
                           jax.random.key(5))


def same(found, wanted):
  np.testing.assert_array_equal(found.tokens_QGT, wanted.tokens_QGT)
  np.testing.assert_array_equal(found.lengths_QG, wanted.lengths_QG)
  np.testing.assert_allclose(found.logprobs_QGT, wanted.logprobs_QGT, **LOGP)
  if wanted.experts_QGSLA is not None:
    slots = wanted.experts_QGSLA.shape[2] - NEW
    for q, ids in enumerate(wanted.prompt_tokens):
      for g, length in enumerate(wanted.lengths_QG[q]):
        before = found.experts_QGSLA.shape[2] - NEW
        np.testing.assert_array_equal(
            found.experts_QGSLA[q, g, :len(ids)],
            wanted.experts_QGSLA[q, g, :len(ids)])
        np.testing.assert_array_equal(
            found.experts_QGSLA[q, g, before:][:length - 1],
            wanted.experts_QGSLA[q, g, slots:][:length - 1])


@pytest.fixture
def short(monkeypatch):
  """Prompts of any length are shared, caches grow and batches halve."""
  for module, name, value in (
      (prompts_lib, "SHARED", 1), (engine_lib, "FIRST_SLOTS", 8),
      (engine_lib, "SMALLEST_BATCH", 2), (prompts_lib, "PROMPT_BUCKET", 8),
      (prompts_lib, "ROW", 24)):
    monkeypatch.setattr(module, name, value)


def watched(engine, monkeypatch):
  """[(rows, slots, prompts kept, the most rows of one)] of decoding calls."""
  seen, decode = [], engine.programs.decode

  def run(*args):
    rows, kept, samples = args[2], args[7], args[8]
    seen.append((len(rows.done_B), engine_lib._slots(rows.cache),
                 len(jax.tree.leaves(kept)[0]), samples))
    return decode(*args)

  run._cache_size = decode._cache_size
  monkeypatch.setattr(engine.programs, "decode", run)
  return seen


def test_samples_are_those_of_copied_prompts(case, short, monkeypatch):
  """Few rows, which are refilled, and two prompts of a prefill.

  Caches are read by blocks, with drafts row by row.
  """
  model, *weights, depth, wanted, speed = case
  how = cached.Reading(row_block=8) if depth else cached.Reading(8)
  monkeypatch.setattr(cached, "reading", lambda *args, **more: how)
  monkeypatch.setattr(engine_lib, "PREFILL", 48)
  engine = made(model, max_rows=6, speculate=depth)
  seen = watched(engine, monkeypatch)
  same(generate(engine, weights), wanted)
  assert engine.speed == speed  # as many drafts are right
  rows, slots, kept, samples = zip(*seen)
  assert rows[0] == 6 and rows[-1] < 6  # a batch halves
  assert slots[0] < slots[-1] <= 1 + NEW + engine.ahead  # without prompts
  assert kept[0] == 4  # two that six rows read, and two prefilled
  assert kept[-1] == 8 or not depth  # later some are of one row
  assert set(samples) == {SAMPLES}
  assert engine.programs.unpack._cache_size()  # two prompts in a row
  # Once per set of shapes, of which there are few.
  compiled = engine.compilations()
  assert engine.programs.decode._cache_size() == len(set(seen)) <= 6
  same(generate(engine, weights), wanted)
  assert engine.compilations() == compiled


@pytest.mark.parametrize("case", ["tiny-dense"], indirect=True)
def test_on_a_mesh(case, monkeypatch):
  """Every lane keeps its own prompts; heads are split too."""
  model, *weights, _, wanted, _ = case
  monkeypatch.setattr(prompts_lib, "SHARED", 1)
  mesh = mesh_lib.make_mesh(mesh_lib.MeshConfig(data=4, tensor=2))
  same(generate(made(model, mesh, max_rows=8), weights), wanted)


def test_long_prompts_of_several_samples_are_shared():
  found = {(length, samples) for length in (64, 1, prompts_lib.SHARED - 64,
                                            prompts_lib.SHARED, 8192)
           for samples in (1, 2, 16) if prompts_lib.shares(length, samples)}
  assert found == {(length, samples) for length in (prompts_lib.SHARED, 8192)
                   for samples in (2, 16)}
