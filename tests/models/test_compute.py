"""How a model is computed changes what it costs, not what it means."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from r1jax.models.compute import Compute
from r1jax.models.model import build
from tests.models import cases

F32 = dict(rtol=1e-4, atol=1e-5)
PLAIN = Compute()
BATCH = tuple(jnp.asarray(a) for a in (
    cases.TOKENS, cases.POSITIONS, cases.SEGMENTS))
DIRECTION = jnp.float32(
    np.random.default_rng(12).normal(size=(2, 10, cases.MIXTURE.d_model)))


def _inputs(cfg):
  return cases.f32(cases.params(cfg)), cases.f32(cases.bias(cfg))


def _loss(compute, params, bias, replay):
  model = build(cases.MIXTURE, compute)
  out = model.forward(params, bias, *BATCH, experts_BTLA=replay)
  return jnp.sum(out.hidden_BTD * DIRECTION), out


@functools.cache
def _program(compute):
  f = functools.partial(_loss, compute)
  return cases.jit(jax.value_and_grad(f, (0, 1), has_aux=True))


@functools.cache
def _gradients(compute=PLAIN):
  """((value, Output), gradients of parameters and bias)."""
  return _replayed(None, compute)


def _replayed(experts_BTLA, compute=PLAIN):
  return jax.device_get(
      _program(compute)(*_inputs(cases.MIXTURE), experts_BTLA))


def _assert_same(a, b):
  scale = max(np.abs(x).max() for x in jax.tree.leaves(b))
  jax.tree.map(lambda x, y: np.testing.assert_allclose(
      x, y, rtol=1e-4, atol=1e-5 * scale), a, b)


@pytest.mark.parametrize("settings", [
    dict(remat="dots"), dict(remat="full"), dict(unroll=1),
    dict(remat="full", unroll=1)])
def test_remat_and_unroll_keep_the_gradients(settings):
  _assert_same(_gradients(Compute(**settings))[1], _gradients()[1])


@pytest.mark.parametrize("unroll, length, backend, layers_a_turn", [
    (0, 3, "cpu", 3), (0, 3, "tpu", 1), (0, 61, "cpu", 1), (2, 61, "cpu", 2),
    (5, 3, "gpu", 3)])
def test_unrolled_layers(unroll, length, backend, layers_a_turn):
  assert Compute(unroll=unroll).unrolled(length, backend) == layers_a_turn


def test_every_parameter_has_a_gradient_and_the_bias_none():
  gradients, d_bias = _gradients()[1]
  # The head is not part of this loss.
  missing = [k for k, v in gradients.items() if not jax.tree.all(
      jax.tree.map(lambda g: np.asarray(g).any(), v))]
  assert missing == ["w_head"]
  assert not np.asarray(d_bias).any()


@pytest.mark.parametrize("remat, saved", [
    ("none", False), ("dots", True), ("full", True)])
def test_remat_is_in_the_program(remat, saved):
  names = _primitives(_jaxpr(cases.MIXTURE, Compute(remat=remat)))
  assert bool({"remat", "remat2", "checkpoint"} & names) == saved


@pytest.mark.parametrize("form, ragged", [
    ("ragged", True), ("blocks", False), ("dense", False)])
def test_form_of_the_experts_is_in_the_program(form, ragged):
  names = _primitives(_jaxpr(cases.MIXTURE, Compute(experts=form)))
  assert any("ragged_dot" in name for name in names) == ragged


def test_replay_of_recorded_experts_is_the_identity():
  (plain, plain_out), (plain_gradients, _) = _gradients()
  (value, out), (gradients, _) = _replayed(plain_out.experts_BTLA)
  np.testing.assert_allclose(value, plain, **F32)
  np.testing.assert_allclose(out.hidden_BTD, plain_out.hidden_BTD, **F32)
  assert out.experts_BTLA.tolist() == plain_out.experts_BTLA.tolist()
  _assert_same(gradients, plain_gradients)
  router = gradients["mixture_blocks"]["ffn"]["w_router"]
  assert np.abs(router).max() > 1e-2


def test_replay_uses_the_recorded_experts():
  plain = _gradients()[0][1]
  other = (plain.experts_BTLA + 1) % cases.MIXTURE.n_experts
  (_, out), _ = _replayed(other)
  assert np.abs(out.hidden_BTD - plain.hidden_BTD).max() > 1e-2
  # What the router would have chosen is still told, for the flip rate.
  assert (out.experts_BTLA[:, :, 0].tolist()
          == plain.experts_BTLA[:, :, 0].tolist())


def _equations(jaxpr):
  for equation in jaxpr.eqns:
    yield equation
    for value in jax.tree.leaves(
        list(equation.params.values()),
        is_leaf=lambda x: hasattr(x, "eqns") or hasattr(x, "jaxpr")):
      inner = getattr(value, "jaxpr", value)
      if hasattr(inner, "eqns"):
        yield from _equations(inner)


def _primitives(jaxpr):
  return {equation.primitive.name for equation in _equations(jaxpr)}


def _jaxpr(cfg, compute):
  model = build(cfg, compute)
  shapes = jax.eval_shape(model.init, jax.random.key(0))
  return jax.make_jaxpr(model.forward)(
      shapes, model.init_router_bias(), *BATCH).jaxpr


def test_router_is_float32_in_bfloat16():
  cfg = cases.MIXTURE
  compute = Compute(dtype="bfloat16", param_dtype="bfloat16")
  n_tokens = cases.TOKENS.size
  dots = [e for e in _equations(_jaxpr(cfg, compute))
          if e.primitive.name == "dot_general"]
  routers = [e for e in dots
             if e.outvars[0].aval.shape == (n_tokens, cfg.n_experts)]
  assert len(routers) == 1
  avals = [v.aval for v in (*routers[0].invars, *routers[0].outvars)]
  assert [a.dtype for a in avals] == [jnp.float32] * 3
  assert routers[0].params["precision"] == (jax.lax.Precision.HIGHEST,) * 2
  others = [e for e in dots if e is not routers[0]]
  assert others and all(v.aval.dtype == jnp.bfloat16
                        for e in others for v in e.invars[1:])


def test_bfloat16_runs_near_float32():
  cfg = cases.DENSE
  model = build(cfg, Compute(dtype="bfloat16"))
  out = cases.jit(model.forward)(*_inputs(cfg), *BATCH)
  assert out.hidden_BTD.dtype == jnp.bfloat16
  exact = cases.run(cfg).hidden_BTD
  gap = np.abs(np.asarray(out.hidden_BTD, np.float32) - exact)
  assert 1e-4 < gap.mean() < 0.1


def test_bfloat16_mixture_keeps_its_types():
  cfg = cases.V3
  model = build(cfg, Compute(
      dtype="bfloat16", param_dtype="bfloat16"))
  params = jax.eval_shape(model.init, jax.random.key(0))
  types = {jax.tree_util.keystr(path): leaf.dtype for path, leaf
           in jax.tree_util.tree_leaves_with_path(params)}
  wide = {path for path, dtype in types.items() if dtype == jnp.float32}
  assert wide and all("w_router" in path for path in wide)
  out = jax.eval_shape(
      functools.partial(model.forward, balance=True), params,
      model.init_router_bias(), *BATCH)
  assert out.hidden_BTD.dtype == jnp.bfloat16
  assert out.load_LE.dtype == out.balance[0].dtype == jnp.float32
  _, cache, _ = jax.eval_shape(
      model.prefill, params, model.init_router_bias(), BATCH[0],
      jnp.ones(len(BATCH[0]), jnp.int32))
  assert {x.dtype for x in jax.tree.leaves(cache)} == {jnp.dtype(jnp.bfloat16)}


def test_depth_does_not_grow_the_program():
  def size(n_layers):
    cfg = dataclasses.replace(cases.V3, n_layers=n_layers,
                              n_dense_layers=n_layers // 3)
    return sum(1 for _ in _equations(_jaxpr(cfg, Compute())))
  assert size(6) == size(15) > 50


@pytest.mark.parametrize("bad, message", [
    (dict(dtype="float16"), "dtype='float16': choose float32 or bfloat16"),
    (dict(param_dtype="int8"), "param_dtype='int8': choose"),
    (dict(remat="some"), "remat='some': choose one of none, dots, full"),
    (dict(experts="loop"), "experts='loop': choose one of auto, gmm"),
    (dict(attention="flash"),
     "attention='flash': choose one of auto, naive, blocks, splash, cudnn"),
    (dict(unroll=-1), "unroll=-1 must not be negative")])
def test_bad_settings(bad, message):
  with pytest.raises(ValueError, match=message):
    Compute(**bad)
