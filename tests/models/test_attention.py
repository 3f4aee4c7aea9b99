"""Every form of attention gives the model the same numbers."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from r1jax.models.compute import Compute
from r1jax.models.model import build
from r1jax.ops import flash_splash
from tests.models import cases

# Float32 through two layers; the gradients relative to the largest.
DEEP = dict(rtol=1e-4, atol=2e-5)
GRADIENT = 1e-5
CONFIGS = {"mla": cases.MIXTURE, "gqa": cases.QWEN3}
# Longer than one block, and than what the CPU takes at once.
LENGTH = 600


def _batch():
  """Tokens, positions and segments of two packed rows of LENGTH tokens."""
  lengths = [[150, 30, 410, 10], [512, 60, 20, 8]]
  positions = [np.concatenate([np.arange(n) for n in row]) for row in lengths]
  segments = [np.repeat([1, 2, 3, 0], row) for row in lengths]
  tokens = np.random.default_rng(3).integers(0, 61, (2, LENGTH))
  return tuple(np.array(x, np.int32) for x in (tokens, positions, segments))


BATCH = _batch()
REAL = BATCH[2] > 0


def _loss(cfg, form, params, bias):
  model = build(cfg, Compute(attention=form))
  out = model.forward(params, bias, *map(jnp.asarray, BATCH))
  direction = jax.random.normal(jax.random.key(1), out.hidden_BTD.shape)
  # What padding comes to is of no interest.
  kept = out.hidden_BTD * direction * jnp.asarray(REAL)[..., None]
  return jnp.sum(kept) / LENGTH, out.hidden_BTD


@functools.cache
def _results(name, form):
  cfg = CONFIGS[name]
  program = cases.jit(jax.value_and_grad(
      functools.partial(_loss, cfg, form), has_aux=True))
  return jax.device_get(program(
      cases.f32(cases.params(cfg)), cases.f32(cases.bias(cfg))))


def _jaxpr(name, form):
  cfg = CONFIGS[name]
  shapes = jax.eval_shape(build(cfg).init, jax.random.key(0))
  return str(jax.make_jaxpr(jax.grad(
      functools.partial(_loss, cfg, form), has_aux=True))(
          shapes, build(cfg).init_router_bias()))


@pytest.mark.parametrize("form", [
    "blocks", pytest.param("splash", marks=pytest.mark.slow), "auto"])
@pytest.mark.parametrize("name", CONFIGS)
def test_forms_agree_in_values_and_gradients(name, form, monkeypatch):
  monkeypatch.setattr(flash_splash, "attend", functools.partial(
      flash_splash.attend, interpret=True))
  (_, hidden), gradients = _results(name, form)
  (_, expected), expected_gradients = _results(name, "naive")
  np.testing.assert_allclose(hidden[REAL], expected[REAL], **DEEP)
  scale = max(np.abs(x).max() for x in jax.tree.leaves(expected_gradients))
  jax.tree.map(lambda a, b: np.testing.assert_allclose(
      a, b, rtol=1e-4, atol=GRADIENT * scale), gradients, expected_gradients)


@pytest.mark.parametrize("name", CONFIGS)
def test_nothing_of_length_squared_in_the_model(name):
  """The mask would be [2, 600, 600], the scores [2, N, 600, 600]."""
  square = f"{LENGTH},{LENGTH}]"
  assert square in _jaxpr(name, "naive")
  for form in ("blocks", "splash", "auto"):
    assert square not in _jaxpr(name, form)


def test_short_rows_are_naive_here():
  def jaxpr(form):
    model = build(cases.DENSE, Compute(attention=form))
    shapes = jax.eval_shape(model.init, jax.random.key(0))
    return str(jax.make_jaxpr(model.forward)(
        shapes, model.init_router_bias(), *(jnp.asarray(x) for x in (
            cases.TOKENS, cases.POSITIONS, cases.SEGMENTS))))
  assert jax.default_backend() == "cpu"
  assert jaxpr("auto") == jaxpr("naive") != jaxpr("blocks")


@pytest.mark.parametrize("compute, message", [
    (dict(), "with packed=True"),
    (dict(packed=False), "in float32: .* dtype=bfloat16")])
def test_cudnn_says_what_it_needs(compute, message):
  model = build(
      cases.DENSE, Compute(attention="cudnn", **compute))
  shapes = jax.eval_shape(build(cases.DENSE).init, jax.random.key(0))
  with pytest.raises(ValueError, match=message):
    jax.eval_shape(model.forward, shapes, model.init_router_bias(),
                   *map(jnp.asarray, BATCH))
