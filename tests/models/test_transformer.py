"""Whole decoders against the float64 reference."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from r1jax.models.model import build
from tests.models import cases
from tests.reference import balance as balance_reference
from tests.reference import router as router_reference
from tests.reference import transformer as reference

# Float32 through three layers, on hidden states of order one.
DEEP = dict(rtol=1e-4, atol=2e-5)
CONFIGS = {"v3": cases.V3, "v2": cases.V2, "dense": cases.DENSE,
           "qwen3": cases.QWEN3}
REAL = cases.SEGMENTS > 0


@functools.cache
def _expected(name, drop=frozenset()):
  """(hidden [B, T, D], experts [B, T, L, A]) of the reference."""
  cfg = CONFIGS[name]
  rows = [reference.forward(cases.params(cfg), cases.bias(cfg), cfg, *row, drop)
          for row in zip(cases.TOKENS, cases.POSITIONS, cases.SEGMENTS,
                         strict=True)]
  return tuple(np.array(x) for x in zip(*rows, strict=True))


@pytest.mark.parametrize("name", CONFIGS)
def test_forward(name):
  out = cases.run(CONFIGS[name])
  hidden, chosen = _expected(name)
  np.testing.assert_allclose(out.hidden_BTD, hidden, **DEEP)
  if not CONFIGS[name].n_experts:
    assert out.experts_BTLA is None and out.load_LE.shape == (0, 0)
    return
  assert out.experts_BTLA.dtype == jnp.int32
  assert out.experts_BTLA.tolist() == chosen.tolist()


@pytest.mark.parametrize("name, drop", [
    *[("v3", d) for d in (
        "shared", "route_scale", "normalize", "bias", "rope", "yarn", "mscale",
        "norm_1", "norm_2", "norm", "q_norm", "kv_norm")],
    *[("v2", d) for d in ("shared", "route_scale", "rope", "kv_norm")],
    *[("dense", d) for d in ("qkv_bias", "rope", "norm_2")],
    *[("qwen3", d) for d in (
        "q_norm", "k_norm", "o_bias", "yarn", "attention_factor")]])
def test_case_sees_each_term(name, drop):
  hidden, _ = _expected(name)
  broken, _ = _expected(name, frozenset([drop]))
  assert np.abs(broken - hidden)[REAL].max() > 1e-2


def test_load_counts_real_tokens():
  cfg = cases.V3
  out, (_, chosen) = cases.run(cfg), _expected("v3")
  for layer in range(cfg.n_mixture_layers):
    expected = router_reference.load(
        chosen[:, :, layer].reshape(-1, cfg.n_activated), REAL.reshape(-1),
        cfg.n_experts)
    assert out.load_LE[layer].tolist() == expected


def test_balance_sums_layers_and_counts_sequences():
  """With one mixture layer, so that the reference's scores are at hand."""
  cfg = cases.V2
  out, p = cases.run(cfg), cases.params(cfg)
  layer = {k: v[0] for k, v in p["mixture_blocks"]["ffn"].items()
           if k != "shared"}
  scores = np.array([
      _router_inputs(cfg, row) @ layer["w_router"] for row in range(2)])
  scores = [[router_reference.scores(t, "softmax") for t in row]
            for row in scores]
  total, count = balance_reference.balance_loss(
      scores, cases.SEGMENTS, cfg.n_activated)
  np.testing.assert_allclose(out.balance, (total, count), **DEEP)
  assert count == 4


def _router_inputs(cfg, row):
  """What the first mixture layer's router sees, from the reference's parts."""
  p = cases.params(cfg)
  where = cases.POSITIONS[row], cases.SEGMENTS[row]
  x = p["embed"][cases.TOKENS[row]]
  x, _ = reference.block(reference.layer(p["dense_blocks"], 0), x, None, cfg,
                         *where, False)
  block = reference.layer(p["mixture_blocks"], 0)
  h = reference.rms_norm(x, block["norm_1"], cfg.norm_eps)
  x = x + reference.mla_layer(block["attn"], h, cfg, *where, ())
  return reference.rms_norm(x, block["norm_2"], cfg.norm_eps)


NEXT = np.roll(cases.TOKENS, -1, 1)


def _mtp(drop=()):
  cfg, p = cases.V3, cases.params(cases.V3)
  hidden, _ = _expected("v3")
  return np.array([
      reference.mtp(p, cases.bias(cfg)[-1], cfg, hidden[b], NEXT[b],
                    cases.POSITIONS[b], cases.SEGMENTS[b], drop)
      for b in range(2)])


def test_mtp():
  cfg = cases.V3
  model = build(cfg)
  out = cases.jit(model.mtp)(
      cases.f32(cases.params(cfg)), cases.f32(cases.bias(cfg)),
      jnp.float32(_expected("v3")[0]), jnp.asarray(NEXT),
      jnp.asarray(cases.POSITIONS), jnp.asarray(cases.SEGMENTS))
  np.testing.assert_allclose(out.hidden_BTD, _mtp(), **DEEP)
  assert out.experts_BTLA.shape == (*NEXT.shape, 1, cfg.n_activated)
  assert out.load_LE.shape == (1, cfg.n_experts)
  assert out.load_LE.sum() == REAL.sum() * cfg.n_activated


@pytest.mark.parametrize("drop", ["order", "e_norm", "h_norm", "mtp_norm",
                                  "shared", "bias"])
def test_mtp_case_sees_each_term(drop):
  assert np.abs(_mtp({drop}) - _mtp())[REAL].max() > 1e-2


def test_mtp_of_a_model_without_experts():
  cfg = dataclasses.replace(cases.V3, n_experts=0, n_dense_layers=0)
  model = build(cfg)
  params = jax.eval_shape(model.init, jax.random.key(0))
  assert params["mtp"]["block"]["ffn"]["w_up"].shape == (cfg.d_model, cfg.d_ff)
  out = jax.eval_shape(
      model.mtp, params, jax.eval_shape(model.init_router_bias),
      jax.ShapeDtypeStruct((*NEXT.shape, cfg.d_model), jnp.float32), NEXT,
      cases.POSITIONS, cases.SEGMENTS)
  assert out.hidden_BTD.shape == (*NEXT.shape, cfg.d_model)
  assert out.experts_BTLA is None


@pytest.mark.parametrize("cfg", [cases.V3, cases.DENSE],
                         ids=["v3", "dense"])
def test_packed_is_separate(cfg):
  """Each segment alone in a row, then the four of them packed in two."""
  packed = cases.run(cfg)
  first = np.array([[0] * 10, [7] * 10])
  lengths = []
  for row, segment in ((0, 1), (0, 2), (1, 4), (1, 5)):
    where = np.flatnonzero(cases.SEGMENTS[row] == segment)
    alone = first.copy()
    alone[0, :len(where)] = cases.TOKENS[row, where]
    segments = np.zeros((2, 10), int)
    segments[0, :len(where)] = 1
    positions = np.tile(np.arange(10), (2, 1))
    out = cases.run(cfg, alone, positions, segments)
    np.testing.assert_allclose(out.hidden_BTD[0, :len(where)],
                               packed.hidden_BTD[row, where], **DEEP)
    lengths.append((out.load_LE, out.balance[0]))
  if cfg.n_experts:
    load, balance = (sum(x) for x in zip(*lengths, strict=True))
    np.testing.assert_array_equal(load, packed.load_LE)
    np.testing.assert_allclose(balance, packed.balance[0], **DEEP)


@pytest.mark.parametrize("cfg", [cases.V3, cases.DENSE],
                         ids=["v3", "dense"])
def test_the_future_changes_nothing(cfg):
  tokens = cases.TOKENS.copy()
  tokens[1, 4] = (tokens[1, 4] + 1) % 61
  before, after = (np.asarray(cases.run(cfg, t).hidden_BTD)
                   for t in (cases.TOKENS, tokens))
  np.testing.assert_array_equal(before[0], after[0])
  np.testing.assert_allclose(before[1, :4], after[1, :4], **DEEP)
  assert np.abs(before[1, 4:7] - after[1, 4:7]).max(-1).min() > 1e-3
  np.testing.assert_allclose(before[1, 7:], after[1, 7:], **DEEP)
