"""Small models, random parameters for them and a ragged, packed batch."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np

from r1jax.models import presets
from r1jax.models.config import RopeConfig
from r1jax.models.model import build

# Compiles in half the time; the programs run once or twice.
FAST = {"xla_backend_optimization_level": "0"}

_YARN = RopeConfig(scaling="yarn", factor=4.0, original=16)
V3 = dataclasses.replace(presets.TINY, rope=_YARN)
V2 = dataclasses.replace(
    presets.TINY, n_layers=2, q_rank=0, n_shared=2, n_mtp=0, score="softmax",
    selection_bias=False, normalize_gates=False)
DENSE = presets.TINY_DENSE
QWEN3 = dataclasses.replace(
    presets.TINY_DENSE, n_layers=2, qkv_bias=False, qk_norm=True, o_bias=True,
    tie_embeddings=False,
    rope=dataclasses.replace(_YARN, attention_factor=1.3))
# One scan of mixtures alone, for gradients.
MIXTURE = dataclasses.replace(presets.TINY, n_layers=2, n_dense_layers=0,
                              n_mtp=0)

SEGMENTS = np.array([[1, 1, 1, 2, 2, 2, 2, 2, 0, 0], [4] * 7 + [5, 5, 5]])
POSITIONS = np.array([[0, 1, 2, 0, 1, 2, 3, 4, 0, 1], [*range(7), 0, 1, 2]])
TOKENS = np.random.default_rng(0).integers(0, 61, SEGMENTS.shape)


def jit(f, **kwargs):
  """`jax.jit` that compiles quickly."""
  return jax.jit(f, compiler_options=FAST, **kwargs)


@functools.cache
def params(cfg):
  """Random numpy float64 leaves: gains near one, everything else wide."""
  rng = np.random.default_rng(7)
  shapes = jax.eval_shape(build(cfg).init, jax.random.key(0))
  def leaf(path, shape):
    name = path[-1].key
    drawn = rng.normal(size=shape.shape).astype(np.float32).astype(np.float64)
    if "norm" in name:
      return 1 + 0.3 * drawn
    return drawn if name in ("w_router", "embed") else 0.25 * drawn
  return jax.tree_util.tree_map_with_path(leaf, shapes)


@functools.cache
def bias(cfg):
  """A selection bias that matters, float64 [L, E]."""
  shape = build(cfg).init_router_bias().shape
  return np.random.default_rng(8).normal(size=shape) * 0.2


def f32(tree):
  """The tree with float32 leaves."""
  return jax.tree.map(np.float32, tree)


@functools.cache
def forward(cfg):
  """Compiled (params, bias, tokens, positions, segments) -> Output."""
  model = build(cfg)
  return jit(functools.partial(model.forward, balance=True))


def run(cfg, tokens=TOKENS, positions=POSITIONS, segments=SEGMENTS):
  """`forward` of the case's parameters on rows of numpy ids, on the host."""
  return jax.device_get(forward(cfg)(
      f32(params(cfg)), f32(bias(cfg)), jnp.asarray(tokens),
      jnp.asarray(positions), jnp.asarray(segments)))
