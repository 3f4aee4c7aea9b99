"""The engine with the cache and kernel of a TPU, interpreted."""

import contextlib
import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from r1jax.models import presets
from r1jax.models.model import build
from r1jax.ops import paged
from r1jax.rollout import programs as programs_lib
from r1jax.rollout.engine import Engine
from r1jax.rollout.sampling import SamplingConfig
from r1jax.sharding.mesh import MeshConfig, make_mesh
from tests import interpreted

LOGP = dict(rtol=0, atol=1e-5)  # float32, as between sampler and trainer
CFG = dataclasses.replace(
    presets.TINY_DENSE, n_layers=1, n_heads=4, head_dim=paged.LANES,
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


def generate(in_pages, mesh=None, prompts=PROMPTS, limits=LIMITS):
  model = dataclasses.replace(build(CFG), paged=in_pages)
  params = model.unstack(jax.jit(model.init)(jax.random.key(0)))
  engine = Engine(model, SamplingConfig(max_new_tokens=NEW, temperature=2.0),
                  frozenset(), mesh)
  with jax.set_mesh(mesh) if mesh else contextlib.nullcontext():
    return engine.generate(
        params, model.init_router_bias(), prompts, range(len(prompts)), 1,
        jax.random.key(5), limits_QG=limits)


def same(got, want):
  np.testing.assert_array_equal(got.tokens_QGT, want.tokens_QGT)
  np.testing.assert_allclose(got.logprobs_QGT, want.logprobs_QGT, **LOGP)


def test_samples_are_those_of_the_form_in_xla(monkeypatch):
  """With prompts that are read in parts, of 64 tokens."""
  monkeypatch.setattr(programs_lib, "PART", 192)
  calls, lengths = [], []

  def spied(q, joined, lengths_B, *rest):
    calls.append(joined.shape[1:])
    jax.debug.callback(lengths.append, lengths_B, ordered=True)
    return decode(q, joined, lengths_B, *rest)

  decode = paged.decode
  monkeypatch.setattr(paged, "decode", spied)
  got = generate(True)
  assert set(calls) == {
      (slots, 2 * CFG.n_kv_heads, paged.LANES) for slots in (128, 256)}
  # A row that is done costs the shortest context; the longest lives on.
  assert lengths[-1][0] == 1 and lengths[-1][1] > 100
  monkeypatch.setattr(paged, "decode", None)
  same(got, generate(False))


def test_on_a_mesh():
  """Two shards of rows, heads on two devices, prompts read as a whole."""
  args = dict(prompts=PROMPTS[:2], limits=LIMITS[:2])
  mesh = make_mesh(MeshConfig(data=2, tensor=2), jax.devices()[:4])
  same(generate(True, mesh=mesh, **args), generate(False, **args))


def test_rows_grow_by_whole_pages():
  model = dataclasses.replace(build(CFG), layout="decode")
  _, cache, _ = jax.eval_shape(
      model.prefill, jax.eval_shape(model.init, jax.random.key(0)),
      jax.eval_shape(model.init_router_bias),
      *(jax.ShapeDtypeStruct(shape, jnp.int32) for shape in ((2, 64), (2,))))
  assert cache[0].shape == (2, 64, 2 * CFG.n_kv_heads, paged.LANES)
  grown = jax.eval_shape(lambda c: model.grow(c, 130), cache)
  assert grown[0].shape[1] == 256
