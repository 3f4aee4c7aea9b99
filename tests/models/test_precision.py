"""Every product of float32 arrays has the precision that the settings name."""

import functools

import jax
import jax.extend
import jax.numpy as jnp
import pytest

from r1jax.losses.policy import PolicyConfig
from r1jax.models import presets
from r1jax.models.compute import Compute
from r1jax.models.model import build
from r1jax.rollout.engine import Engine
from r1jax.rollout.sampling import SamplingConfig
from r1jax.sharding.mesh import MeshConfig, make_mesh
from r1jax.training import logprobs, lora, objectives
from r1jax.training.lora import LoraConfig
from tests.training import cases

HIGHEST, HIGH, DEFAULT = (
    jax.lax.Precision.HIGHEST, jax.lax.Precision.HIGH,
    jax.lax.Precision.DEFAULT)
PRODUCTS = ("dot_general", "ragged_dot", "ragged_dot_general")
EXPERTS = presets.TINY.n_experts


def jaxprs(value):
  """Those among an equation's parameters."""
  if isinstance(value, jax.extend.core.ClosedJaxpr):
    yield value.jaxpr
  elif isinstance(value, jax.extend.core.Jaxpr):
    yield value
  elif isinstance(value, tuple | list):
    for one in value:
      yield from jaxprs(one)


def walk(jaxpr, inside=""):
  """(equation, enclosing primitives) of a jaxpr and of all within it."""
  for eqn in jaxpr.eqns:
    yield eqn, inside
    for value in eqn.params.values():
      for inner in jaxprs(value):
        yield from walk(inner, f"{inside}/{eqn.primitive.name}")


def products(f, *args):
  """(precision, shape of the result, where) of every float32 product."""
  found = []
  f = f if hasattr(f, "trace") else jax.jit(f)
  for eqn, inside in walk(f.trace(*args).jaxpr.jaxpr):
    if eqn.primitive.name in PRODUCTS and any(
        v.aval.dtype == jnp.float32 for v in eqn.invars[:2]):
      precision = eqn.params["precision"]
      if isinstance(precision, tuple):
        assert precision[0] == precision[1]
        precision = precision[0]
      found.append((precision, eqn.outvars[0].aval.shape, inside))
  return found


def programs(name, compute, adapter=None):
  """Name -> the float32 products of it, of all programs of a run."""
  model = build(presets.get(name), compute)
  params, bias_LE = jax.tree.map(jnp.asarray, cases.parameters(name))
  (batch,) = cases.batch()
  mixture = name == "tiny"
  grpo = objectives.grpo_objective(model, PolicyConfig(), balance=0.1 * mixture)
  lm = objectives.lm_objective(model, objectives.LmConfig(mtp=0.3 * mixture))
  join = lambda tree: tree
  trained = params
  if adapter:
    trained = lora.init(jax.random.key(0), params, model.param_axes(), adapter)
    join = functools.partial(lora.join, params, scale=adapter.scale)

  def loss(objective, tree):
    return sum(term for term, _ in objective.evaluate(
        join(tree), bias_LE, batch).terms.values())

  engine = Engine(model, SamplingConfig(max_new_tokens=4), frozenset())
  run, asked = engine.programs, (jnp.ones((2, 8), jnp.int32), jnp.full(2, 8))
  prompts, _ = jax.eval_shape(run.prefill, params, bias_LE, *asked)
  rows = jax.eval_shape(functools.partial(run.empty, rows=4, slots=12),
                        prompts, jax.random.key(0))
  return {
      "grpo": products(jax.grad(functools.partial(loss, grpo)), trained),
      "lm": products(jax.grad(functools.partial(loss, lm)), trained),
      "logprobs": products(
          logprobs.make_logprobs(model), join(trained), bias_LE, batch),
      "prefill": products(run.prefill, join(trained), bias_LE, *asked),
      "decode": products(
          run.decode, join(trained), bias_LE, rows, 4, 0, jnp.zeros(1, int))}


@pytest.mark.parametrize("name,settings", [
    ("tiny-dense", dict(attention="naive", remat="full")),
    ("tiny-dense", dict(attention="blocks")),
    ("tiny-dense", dict(attention="splash")),
    ("tiny", dict(experts="dense", remat="dots")),
    ("tiny", dict(experts="blocks")),
    ("tiny", dict(experts="ragged")),
    ("tiny", dict(experts="gmm", attention="splash"))], ids=str)
def test_float32_is_float32(name, settings):
  """Forward and backward passes, prefill and decoding, inside kernels too."""
  found = programs(name, Compute(**settings))
  for program, every in found.items():
    # Projections, scores, mixed values, feed-forward, head: at the least.
    assert len(every) >= (6 if program == "logprobs" else 8), program
    assert {precision for precision, *_ in every} == {HIGHEST}, (program, every)
  kernels = [where for every in found.values() for *_, where in every
             if "pallas_call" in where]
  assert bool(kernels) == (
      "splash" in settings.values() or "gmm" in settings.values())


@pytest.mark.parametrize("name", ["tiny", "tiny-dense"])
def test_an_adapters_products_too(name):
  """Whatever the others': they are what keeps it from being rounded away."""
  adapter = LoraConfig(rank=37, experts=True)
  for program, every in programs(name, Compute(dtype="bfloat16"),
                                 adapter).items():
    factors = [precision for precision, shape, _ in every if 37 in shape]
    assert len(factors) >= 7, program
    assert set(factors) == {HIGHEST}


@pytest.mark.parametrize("name", ["tiny", "tiny-dense"])
def test_queries_are_rounded_once(name):
  """In bfloat16 no array is multiplied with a number: not by the scale."""
  model = build(presets.get(name), Compute(dtype="bfloat16", experts="ragged",
                                           attention="splash"))
  params, bias_LE = jax.tree.map(jnp.asarray, cases.parameters(name))
  ids = jnp.ones((2, 8), jnp.int32)
  program = jax.make_jaxpr(lambda *a: model.forward(*a).hidden_BTD)(
      params, bias_LE, ids, ids, ids)
  kinds = [(eqn.outvars[0].aval.dtype, eqn.outvars[0].aval.shape)
           for eqn, _ in walk(program.jaxpr) if eqn.primitive.name == "mul"
           and any(v.aval.shape == () for v in eqn.invars)]
  assert kinds and not [kind for kind in kinds if kind[0] == jnp.bfloat16]


@pytest.mark.parametrize("exchange", ["gather", "ragged"])
def test_on_a_mesh(exchange):
  compute = Compute(exchange=exchange, experts="ragged")
  with jax.set_mesh(make_mesh(MeshConfig(data=1, fsdp=2, expert=2, tensor=2))):
    found = programs("tiny", compute)
  for program, every in found.items():
    assert {precision for precision, *_ in every} == {HIGHEST}, program
    assert any("shard_map" in where for *_, where in every)


@pytest.mark.parametrize("name", ["tiny", "tiny-dense"])
def test_the_setting_reaches_every_product(name):
  """All but the router's, which are float32 whatever the rest is."""
  for every in programs(name, Compute(precision="high")).values():
    kinds = {precision for precision, *_ in every}
    assert kinds <= {HIGH, HIGHEST} and HIGH in kinds
    others = [shape for precision, shape, _ in every if precision == HIGHEST]
    assert bool(others) == (name == "tiny")
    assert all(EXPERTS in shape or shape[-1] == presets.TINY.d_model
               for shape in others)
    if name == "tiny":
      assert sum(p == HIGHEST for p, *_ in every) < len(every) / 4


def test_what_auto_means():
  assert Compute().products == HIGHEST
  assert Compute(dtype="bfloat16").products == DEFAULT
  assert Compute(precision="default").products == DEFAULT
  assert Compute(dtype="bfloat16", precision="highest").products == HIGHEST
  with pytest.raises(ValueError, match="precision='full': choose one of auto,"):
    Compute(precision="full")
