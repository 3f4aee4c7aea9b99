"""The engine with the cache and kernel of a TPU, interpreted."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from r1jax.models import presets
from r1jax.models.model import build
from r1jax.ops import paged
from r1jax.rollout import prefill as prefill_lib
from r1jax.rollout import prompts as prompts_lib
from r1jax.rollout.engine import Engine
from r1jax.rollout.sampling import SamplingConfig
from tests import interpreted

LOGP = dict(rtol=0, atol=1e-5)  # float32, as between sampler and trainer
F32 = dict(rtol=1e-5, atol=1e-5)
CFG = dataclasses.replace(
    presets.TINY_DENSE, n_layers=2, n_heads=4, head_dim=paged.LANES,
    max_position=512)
NEW = 5
PROMPTS = [np.random.default_rng(n).integers(0, 61, n) for n in (3, 100, 66)]
# The first row is done while the others go on.
LIMITS = np.array([[2], [NEW], [NEW]])


@pytest.fixture(autouse=True)
def on_a_tpu(monkeypatch):
  """Everywhere as on a TPU, but in float32."""
  monkeypatch.setattr(paged, "fits", lambda place, *rest: (
      place.paged and place.layout == "decode"))
  with interpreted.kernels():
    yield


def made(in_pages):
  """(engine, parameters, router bias)."""
  model = dataclasses.replace(build(CFG), paged=in_pages)
  engine = Engine(model, SamplingConfig(max_new_tokens=NEW, temperature=2.0),
                  frozenset())
  return (engine, model.unstack(jax.jit(model.init)(jax.random.key(0))),
          model.init_router_bias())


def generate(in_pages):
  engine, *params = made(in_pages)
  return engine.generate(*params, PROMPTS, range(len(PROMPTS)), 1,
                         jax.random.key(5), limits_QG=LIMITS)


def test_samples_are_those_of_the_form_in_xla(monkeypatch):
  shapes, lengths, decode = set(), [], paged.decode

  def spied(q, joined, lengths_B, *rest):
    shapes.add(joined.shape[1:])
    jax.debug.callback(lengths.append, lengths_B, ordered=True)
    return decode(q, joined, lengths_B, *rest)

  monkeypatch.setattr(paged, "decode", spied)
  got = generate(True)
  # 133 slots are needed, and are rounded up.
  assert shapes == {(256, 2 * CFG.n_kv_heads, paged.LANES)}
  # A row that is done costs the shortest context; the longest lives on.
  assert lengths[-1][0] == 1 and lengths[-1][1] > 100
  monkeypatch.setattr(paged, "decode", None)
  want = generate(False)
  np.testing.assert_array_equal(got.tokens_QGT, want.tokens_QGT)
  np.testing.assert_allclose(got.logprobs_QGT, want.logprobs_QGT, **LOGP)


def test_a_prompt_that_is_read_in_parts_leaves_the_same_cache(monkeypatch):
  engine, *params = made(True)
  args = (*params, jnp.asarray(PROMPTS[1])[None, :64], jnp.array([64]))
  whole, _ = engine.programs.prefill(*args)
  assert whole[0].shape == (1, 64, 2 * CFG.n_kv_heads, paged.LANES)
  monkeypatch.setattr(prefill_lib, "PART", 32)
  engine.programs.prefill.clear_cache()
  parts, _ = engine.programs.prefill(*args)
  # The second layer's keys follow from what the kernel gave in the first.
  for got, want in zip(parts, whole, strict=True):
    np.testing.assert_allclose(got, want, **F32)


def test_prompts_that_rows_share_are_kept_apart(monkeypatch):
  """Keys and values are taken apart; the kernel has no part in decoding."""
  monkeypatch.setattr(prompts_lib, "SHARED", 64)
  monkeypatch.setattr(paged, "decode", None)

  def generate(in_pages):
    engine, *params = made(in_pages)
    return engine.generate(*params, PROMPTS, range(len(PROMPTS)), 2,
                           jax.random.key(5))

  got, want = generate(True), generate(False)
  np.testing.assert_array_equal(got.tokens_QGT, want.tokens_QGT)
  np.testing.assert_allclose(got.logprobs_QGT, want.logprobs_QGT, **LOGP)
