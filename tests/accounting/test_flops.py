import dataclasses
import math

import jax
import jax.numpy as jnp
import pytest

from r1jax.accounting import flops
from r1jax.models import presets
from r1jax.models.compute import Compute
from r1jax.models.model import build

# Five figures of the released models (both embedding and head counted).
PUBLISHED = {
    "r1-671b": (671.03e9, 37.55e9),
    "v2-236b": (235.74e9, 21.38e9),
    "v2-lite-16b": (15.71e9, 2.66e9),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_counts(name):
  total, active = PUBLISHED[name]
  count = flops.parameters(presets.PRESETS[name])
  assert abs(count.total - total) < 0.005e9
  assert abs(count.active - active) < 0.005e9


def test_671b_exactly():
  count = flops.parameters(presets.PRESETS["r1-671b"])
  assert count.total == 671_026_419_200
  assert round(count.mtp / 1e9, 2) == 11.61


def size(tree):
  return sum(math.prod(x.shape) for x in jax.tree.leaves(tree))


@pytest.mark.parametrize("name", sorted(presets.PRESETS))
def test_counts_are_those_of_the_model(name):
  cfg = presets.PRESETS[name]
  params = jax.eval_shape(build(cfg).init, jax.random.key(0))
  mtp = params.pop("mtp", {})
  bias = cfg.n_experts if cfg.selection_bias else 0
  count = flops.parameters(cfg)
  assert count.total == size(params) + cfg.n_mixture_layers * bias
  assert count.mtp == size(mtp) + cfg.n_mtp * bias


def dot_flops(jaxpr):
  """Operations of all matrix products in a jaxpr, loops unrolled."""
  total = 0
  for eqn in jaxpr.eqns:
    if eqn.primitive.name == "dot_general":
      (contract, _), _ = eqn.params["dimension_numbers"]
      inner = math.prod(eqn.invars[0].aval.shape[i] for i in contract)
      total += 2 * inner * math.prod(eqn.outvars[0].aval.shape)
    times = eqn.params.get("length", 1) if eqn.primitive.name == "scan" else 1
    for value in jax.tree.leaves(
        list(eqn.params.values()), is_leaf=lambda x: hasattr(x, "eqns")):
      if hasattr(value, "eqns"):
        total += times * dot_flops(value)
  return total


def configs():
  tiny = presets.PRESETS["tiny"]
  # All experts active, so that the dense oracle does no idle work.
  full = dataclasses.replace(
      tiny, n_experts=3, n_activated=3, n_groups=1, n_limited_groups=1)
  return {
      "mla": full, "plain query": dataclasses.replace(full, q_rank=0),
      "gqa": presets.PRESETS["tiny-dense"]}


def traced(cfg, function, *shapes):
  model = build(cfg, Compute(experts="dense"))
  params = jax.eval_shape(model.init, jax.random.key(0))
  bias = jax.eval_shape(model.init_router_bias)
  jaxpr = jax.make_jaxpr(
      lambda p, b, *a: function(model, p, b, *a))(params, bias, *shapes)
  return dot_flops(jaxpr.jaxpr)


def combine(cfg, tokens):
  """The oracle's weighted sum over experts, which is not a layer's product."""
  return 2 * tokens * cfg.n_mixture_layers * cfg.n_experts * cfg.d_model


@pytest.mark.parametrize("name", configs())
def test_forward_is_what_the_model_multiplies(name):
  cfg, (b, t) = configs()[name], (2, 5)
  ints = jax.ShapeDtypeStruct((b, t), jnp.int32)

  def run(model, params, bias, tokens, positions, segments):
    out = model.forward(params, bias, tokens, positions, segments)
    return out.hidden_BTD @ model.head(params)

  got = traced(cfg, run, ints, ints, ints) - combine(cfg, b * t)
  # The model computes all T x T scores and masks the later half.
  assert got == b * t * flops.forward(cfg, t)


@pytest.mark.parametrize("name", configs())
def test_decode_is_what_the_model_multiplies(name):
  cfg, (b, s) = configs()[name], (2, 5)
  ints = jax.ShapeDtypeStruct((b,), jnp.int32)
  tokens = jax.ShapeDtypeStruct((b, s), jnp.int32)

  def run(model, params, bias, tokens_B, tokens_BP):
    cache = jax.eval_shape(model.prefill, params, bias, tokens_BP, tokens_B)[1]
    cache = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), cache)
    hidden, _, _ = model.decode(params, bias, tokens_B, tokens_B, cache)
    return hidden @ model.head(params)

  got = traced(cfg, run, ints, tokens)
  got -= combine(cfg, b)
  absorbed = cfg.attention == "mla"
  # The model also weighs the rotated part of the cache, and drops the result.
  dropped = 2 * b * s * cfg.n_layers * cfg.n_heads * cfg.rope_dim
  assert got - b * flops.forward(cfg, s, absorbed=absorbed) in (0, dropped)


def test_training_and_sampling_follow_from_forward():
  cfg = presets.PRESETS["tiny"]
  rows = [flops.forward(cfg, keys) for keys in range(1, 8)]
  assert flops.training(cfg, 7) == pytest.approx(3 * sum(rows) / 7)
  n = flops.parameters(cfg).products
  assert flops.training(cfg, 1) > 6 * n
  assert flops.training(cfg, 7, mtp=True) > flops.training(cfg, 7)
  steps = [flops.forward(cfg, 4 + i, absorbed=True) for i in range(1, 6)]
  assert flops.sampling(cfg, 4, 5) == pytest.approx(sum(steps))


def test_mtp_costs_a_block_a_join_and_the_head():
  cfg = presets.PRESETS["r1-671b"]
  extra = flops.training(cfg, 4096, mtp=True) - flops.training(cfg, 4096)
  one_layer = 6 * (flops.parameters(cfg).active
                   - 2 * cfg.d_model * cfg.vocab_size) / cfg.n_layers
  head = 6 * cfg.d_model * cfg.vocab_size
  assert head + 0.9 * one_layer < extra < head + 1.6 * one_layer


def test_bad_arguments():
  cfg = presets.PRESETS["tiny-dense"]
  with pytest.raises(ValueError, match="absorbed=True needs"):
    flops.forward(cfg, 3, absorbed=True)
  with pytest.raises(ValueError, match="keys=-1"):
    flops.forward(cfg, -1)
  with pytest.raises(ValueError, match="length=0"):
    flops.training(cfg, 0)
  with pytest.raises(ValueError, match="prompt=0"):
    flops.sampling(cfg, 0, 3)
