"""Our side of the comparisons, one compiled program for each kind."""

import json

import jax
import jax.numpy as jnp
import numpy as np

from r1jax.checkpoint import hf_config, hf_io, hf_names, trees
from r1jax.models.model import build
from r1jax.rollout.engine import Engine
from r1jax.rollout.sampling import SamplingConfig
from tests.models.cases import jit

LOGITS = 2e-5  # of the largest logit
TOKENS = np.random.default_rng(3).integers(0, 67, (2, 40)).astype(np.int32)
NO_EOS = frozenset()


def gap(found, reference):
  """Largest difference, relative to the largest reference value."""
  found = np.asarray(found)
  assert found.shape == reference.shape
  return np.abs(found - reference).max() / np.abs(reference).max()


def imported(folder):
  """(cfg, params, router bias) of a checkpoint."""
  cfg = hf_config.from_hf(json.loads((folder / "config.json").read_text()))
  return cfg, *hf_io.load(folder, build(cfg))


def whole(cfg):
  """Compiled (params, bias, tokens) -> (logits, experts)."""
  return jit(lambda *args: _logits(build(cfg), *args))


def _logits(model, params, bias, tokens):
  b, t = tokens.shape
  positions = jnp.broadcast_to(jnp.arange(t)[None], (b, t))
  out = model.forward(params, bias, tokens, positions,
                      jnp.ones((b, t), jnp.int32))
  return out.hidden_BTD @ model.head(params), out.experts_BTLA


def with_gradients(cfg):
  """Compiled (params, bias, tokens) -> (logits, experts, gradients)."""
  model = build(cfg)

  def loss(params, bias, tokens):
    logits, experts = _logits(model, params, bias, tokens)
    logp = jax.nn.log_softmax(logits[:, :-1])
    picked = jnp.take_along_axis(logp, tokens[:, 1:, None], -1)
    return -jnp.mean(picked), (logits, experts)

  def run(params, bias, tokens):
    gradients, (logits, experts) = jax.grad(loss, (0, 1), has_aux=True)(
        params, bias, tokens)
    return logits, experts, gradients

  return jit(run)


def mtp_logits(cfg, params, bias, tokens):
  """What predicts the token after the next, [B, T-1, V]."""
  model = build(cfg)

  def run(params, bias, tokens):
    b, t = tokens.shape
    where = (jnp.broadcast_to(jnp.arange(t - 1)[None], (b, t - 1)),
             jnp.ones((b, t - 1), jnp.int32))
    hidden = model.forward(params, bias, tokens[:, :-1], *where).hidden_BTD
    out = model.mtp(params, bias, hidden, tokens[:, 1:], *where)
    return out.hidden_BTD @ model.head(params)

  return np.asarray(jit(run)(params, bias, tokens))


def stepwise(cfg, params, bias, tokens, prompt):
  """Logits [B, T - prompt + 1, V] after the prompt and each decoded token."""
  model = build(cfg)
  b, t = tokens.shape

  def run(params, bias, tokens):
    hidden, cache, _ = model.prefill(
        params, bias, tokens[:, :prompt], jnp.full((b,), prompt, jnp.int32))

    def step(cache, at):
      hidden, cache, _ = model.decode(
          params, bias, jax.lax.dynamic_index_in_dim(tokens, at, 1, False),
          jnp.full((b,), at), cache)
      return cache, hidden

    _, rest = jax.lax.scan(step, model.grow(cache, t), jnp.arange(prompt, t))
    states = jnp.concatenate([hidden[None], rest]).swapaxes(0, 1)
    return states @ model.head(params)

  return np.asarray(jit(run)(params, bias, tokens))


def generate(cfg, params, bias, prompts_BP, new):
  """Greedy continuations by the rollout engine, int [B, new]."""
  engine = Engine(build(cfg), SamplingConfig(
      temperature=0.0, max_new_tokens=new), NO_EOS)
  # The engine leaves no choice of how its programs are compiled.
  jax.config.update("jax_disable_most_optimizations", True)
  try:
    rollout = engine.generate(params, bias, list(prompts_BP),
                              range(len(prompts_BP)), 1, jax.random.key(0))
  finally:
    jax.config.update("jax_disable_most_optimizations", False)
  return rollout.tokens_QGT[:, 0]


def by_name(cfg, tree):
  """{tensor of the checkpoint: array} of a tree like the parameters."""
  found, leaves = {}, trees.flatten(tree)
  for entry in hf_names.table(cfg):
    if entry.path == hf_names.ROUTER_BIAS or not entry.written:
      continue
    leaf = leaves[entry.path]
    found |= {entry.name(at): hf_names.to_stored(leaf[at], entry.layout)
              for at in entry.places()}
  return found
