"""Layers of DeepSeek-V2/V3: latent attention and the mixture of experts."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from r1jax.models import layers
from r1jax.models.compute import Compute
from r1jax.models.config import ModelConfig
from r1jax.models.dense import FeedForward
from r1jax.ops import cached, expert_parallel, mla, rope, router
from r1jax.ops import experts as experts_ops
from r1jax.ops.linear import HIGHEST, Products, is_adapted, linear
from r1jax.ops.norms import rms_norm
from r1jax.sharding.mesh import Place
from r1jax.sharding.rules import constrain

# eps of the latents' norms: DeepSeek's code and transformers use this constant
# there, whatever the config's eps for the other norms is.
LATENT_EPS = 1e-6

# Logical axes of the arrays that replace w_ukv in the decoding layout.
HALVES = {"w_uk": ("heads", "kv_latent", "head_dim"),
          "w_uv": ("heads", "head_dim", "kv_latent")}


def call(f: Callable[..., Any], *arrays: jax.Array) -> Any:
  """f(*arrays)."""
  return f(*arrays)


def halved(attn: dict[str, Any], nope: int,
           run: Callable[..., Any] = call) -> dict[str, Any]:
  """Attention's parameters with `mla.Halves` in place of w_ukv.

  Those without w_ukv, and those with an adapter of it, are returned unchanged.

  Args:
    attn: parameters of one layer.
    nope: key columns of a head.
    run: calls a function with an array.
  """
  if "w_ukv" not in attn or is_adapted(attn["w_ukv"]):
    return attn
  halves = run(functools.partial(mla.Halves.of, u=nope), attn["w_ukv"])
  return _without(attn, "w_ukv") | dict(zip(HALVES, halves, strict=True))


def joined(attn: dict[str, Any], run: Callable[..., Any] = call
           ) -> dict[str, Any]:
  """The inverse of `halved`."""
  if "w_uk" not in attn:
    return attn
  whole = run(lambda *halves: mla.Halves(*halves).whole(),
              *(attn[name] for name in HALVES))
  return _without(attn, *HALVES) | {"w_ukv": whole}


def _without(tree, *names):
  return {name: leaf for name, leaf in tree.items() if name not in names}


class Mla(nn.Module):
  """Multi-head latent attention.

  The cache is one array [B, S, C + R] of [latent | rotated key].
  """

  cfg: ModelConfig
  compute: Compute
  place: Place

  def setup(self):
    cfg, dtype = self.cfg, self.compute.param_dtype
    init = layers.normal(cfg.init_std)
    d, n, c = cfg.d_model, cfg.n_heads, cfg.kv_rank
    head = cfg.nope_dim + cfg.rope_dim
    if cfg.q_rank:
      self.w_dq = layers.weight(self, "w_dq", ("embed", "q_rank"),
                                (d, cfg.q_rank), init, dtype)
      self.q_norm = layers.scale(self, "q_norm", cfg.q_rank, dtype)
      self.w_uq = layers.weight(self, "w_uq", ("q_latent", "heads", "head_dim"),
                                (cfg.q_rank, n, head), init, dtype)
    else:
      self.w_q = layers.weight(self, "w_q", ("embed", "heads", "head_dim"),
                               (d, n, head), init, dtype)
    self.w_dkv = layers.weight(self, "w_dkv", ("embed", "kv_rank"),
                               (d, c + cfg.rope_dim), init, dtype)
    self.kv_norm = layers.scale(self, "kv_norm", c, dtype)
    if self.has_variable("params", "w_uk"):  # the decoding layout
      self.up = mla.Halves(
          layers.weight(self, "w_uk", HALVES["w_uk"], (n, c, cfg.nope_dim),
                        init, dtype),
          layers.weight(self, "w_uv", HALVES["w_uv"], (n, cfg.v_dim, c),
                        init, dtype))
    else:
      self.up = layers.weight(
          self, "w_ukv", ("kv_latent", "heads", "head_dim"),
          (c, n, cfg.nope_dim + cfg.v_dim), init, dtype)
    self.w_o = layers.weight(self, "w_o", ("heads", "head_dim", "embed"),
                             (n, cfg.v_dim, d), init, dtype)

  def _project(self, x, cos, sin):
    """[..., D] -> q_nope [..., N, U], q_rope [..., N, R], cache [..., C+R].

    The queries are already scaled, see `layers.attend`.
    """
    cfg, scale = self.cfg, self.cfg.softmax_scale
    if cfg.q_rank:
      q = rms_norm(self._linear(x, self.w_dq), self.q_norm, LATENT_EPS)
      q = self._linear(q, self.w_uq, scale=scale)
    else:
      q = self._linear(x, self.w_q, scale=scale)
    q_nope, q_rope = q[..., :cfg.nope_dim], q[..., cfg.nope_dim:]
    down = self._linear(x, self.w_dkv)
    latent = rms_norm(down[..., :cfg.kv_rank], self.kv_norm, LATENT_EPS)
    k_rope = rope.rotate_pairs(down[..., None, cfg.kv_rank:], cos, sin)
    cache = jnp.concatenate([latent, k_rope[..., 0, :]], -1)
    return q_nope, rope.rotate_pairs(q_rope, cos, sin), cache

  def __call__(self, x_BTD: jax.Array, context: layers.Context
               ) -> tuple[jax.Array, jax.Array]:
    q_nope, q_rope, cache = self._project(x_BTD, context.cos, context.sin)
    q_nope = constrain(q_nope, ("act_batch", "act_length", "act_heads", None),
                       self.place.layout)
    # Queries may be split by length, but keys must be whole rows: gather the
    # latent, which is smaller than the keys and values of all heads.
    whole = constrain(cache, ("act_batch", None, None), self.place.layout)
    c = self.cfg.kv_rank
    attend = functools.partial(
        layers.attend, self.compute, self.place, context)
    up = self.up.whole() if isinstance(self.up, mla.Halves) else self.up
    out = mla.naive(q_nope, q_rope, whole[..., :c], whole[..., c:], up, attend,
                    layers.products(self))
    return self._linear(out, self.w_o, 2), cache

  def decode(self, x_BTD: jax.Array, cache_BSX: jax.Array, slot: layers.Slot
             ) -> tuple[jax.Array, jax.Array]:
    q_nope, q_rope, new_BTX = self._project(x_BTD, slot.cos, slot.sin)
    cache_BSX = slot.put(cache_BSX, new_BTX, 1)
    how = cached.reading(self.place.backend, x_BTD.shape[1],
                         cache_BSX.shape[1], cache_BSX.dtype, latent=True)
    out = mla.absorbed(
        q_nope, q_rope, cache_BSX, self.up, slot.index_B + 1, 1.0,
        self.compute.products, how=how, place=self.place, shared=slot.shared)
    return self._linear(out, self.w_o, 2), cache_BSX

  def _linear(self, x, w, n_in=1, scale=1.0):
    return linear(x, w, n_in, layers.products(self), scale)

  @staticmethod
  def cache_axes(cache_BSX: jax.Array) -> tuple[str | None, ...]:
    """Logical axis names of the cache."""
    del cache_BSX
    return "act_batch", None, None

  @staticmethod
  def grow(cache_BSX: jax.Array, slots: int) -> jax.Array:
    """Pads the slot axis with zeros to `slots`, or cuts it."""
    missing = slots - cache_BSX.shape[1]
    return jax.lax.pad(cache_BSX, jnp.zeros((), cache_BSX.dtype), (
        (0, 0, 0), (0, missing, 0), (0, 0, 0)))


class Mixture(nn.Module):
  """Routed and shared experts (V3, eq. 12-16)."""

  cfg: ModelConfig
  compute: Compute
  place: Place

  @nn.compact
  def __call__(self, x: jax.Array, bias_E: jax.Array, replay: jax.Array | None
               ) -> tuple[jax.Array, jax.Array, jax.Array]:
    """The weighted sum of each token's experts.

    Args:
      x: tokens, [B, T, D] or [B, D].
      bias_E: selection bias, unused if the config has no `selection_bias`.
      replay: experts recorded by the sampler, int32 [..., A], used instead of
        the router's choice. Their gates come from the current scores, so they
        have gradients. None uses the router's choice.

    Returns:
      (result like `x`, experts that the router chose int32 [..., A], scores
      float32 [..., E]).
    """
    cfg, dtype = self.cfg, self.compute.param_dtype
    init, d, e, j = (layers.normal(cfg.init_std), cfg.d_model, cfg.n_experts,
                     cfg.d_expert)
    # The router is always float32: rounded to bfloat16, rollout and update may
    # send a token to different experts.
    w_router = layers.weight(self, "w_router", ("embed", None), (d, e), init,
                             "float32")
    logits = linear(x.astype(jnp.float32), w_router,
                    how=Products(HIGHEST, self.place.flat))
    scores = router.scores(logits, cfg.score)
    chosen = router.select(
        scores, bias_E if cfg.selection_bias else None, cfg.n_activated,
        cfg.n_groups, cfg.n_limited_groups)
    used = chosen if replay is None else replay
    gates = router.weights(scores, used, cfg.normalize_gates, cfg.route_scale)
    up, down = ("experts", "expert_embed", "expert_mlp"), (
        "experts", "expert_mlp", "expert_embed")
    form = self.compute.experts
    if form == "auto":
      form = experts_ops.choose(self.place.backend, self.place.layout)
    y = expert_parallel.routed(
        form, self.compute.exchange, x, used, gates,
        layers.weight(self, "w_gate", up, (e, d, j), init, dtype),
        layers.weight(self, "w_up", up, (e, d, j), init, dtype),
        layers.weight(self, "w_down", down, (e, j, d), init, dtype),
        self.place, precision=self.compute.products)
    if cfg.n_shared:
      y = y + FeedForward(cfg, self.compute, self.place, cfg.n_shared * j,
                          name="shared")(x)
    return y, chosen, scores
