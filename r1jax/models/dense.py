"""GQA and gated feed-forward: layers of Qwen, Llama and Gemma 3."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from r1jax.models import layers
from r1jax.models.compute import Compute
from r1jax.models.config import ModelConfig
from r1jax.ops import attention, cached, paged, rope
from r1jax.ops.linear import linear, swiglu
from r1jax.ops.norms import rms_norm
from r1jax.sharding.mesh import Place
from r1jax.sharding.rules import constrain

# What a layer keeps: (k_BKHS, v_BKSH), or both joined for `paged.decode`.
Cache = tuple[jax.Array, jax.Array] | jax.Array


class Gqa(nn.Module):
  """Grouped-query attention.

  The cache is (k_BKHS, v_BKSH), or, where the kernel of `ops.paged` decodes,
  one array.
  """

  cfg: ModelConfig
  compute: Compute
  place: Place

  def setup(self):
    cfg, dtype = self.cfg, self.compute.param_dtype
    init = layers.normal(cfg.init_std)
    d, h = cfg.d_model, cfg.head_dim

    def projection(name, axis, heads):
      w = layers.weight(self, f"w_{name}", ("embed", axis, "head_dim"),
                        (d, heads, h), init, dtype)
      if not cfg.qkv_bias:
        return w, None
      return w, layers.weight(self, f"b_{name}", (axis, "head_dim"), (heads, h),
                              nn.initializers.zeros, dtype)

    self.q = projection("q", "heads", cfg.n_heads)
    self.k = projection("k", "kv_heads", cfg.n_kv_heads)
    self.v = projection("v", "kv_heads", cfg.n_kv_heads)
    if cfg.qk_norm:
      self.q_norm = layers.scale(self, "q_norm", h, dtype)
      self.k_norm = layers.scale(self, "k_norm", h, dtype)
    w_o = layers.weight(self, "w_o", ("heads", "head_dim", "embed"),
                        (cfg.n_heads, h, d), init, dtype)
    b_o = layers.weight(self, "b_o", ("embed",), (d,), nn.initializers.zeros,
                        dtype) if cfg.o_bias else None
    self.o = w_o, b_o

  def _project(self, x, cos, sin):
    """x [..., D] -> (rotated and scaled q [..., N, H], rotated k, v)."""
    q, k, v = (self._affine(x, *pair) for pair in (self.q, self.k, self.v))
    if self.cfg.qk_norm:
      q = rms_norm(q, self.q_norm, self.cfg.norm_eps)
      k = rms_norm(k, self.k_norm, self.cfg.norm_eps)
    s = self.cfg.softmax_scale
    return (rope.rotate_halves(q, s * cos, s * sin),
            rope.rotate_halves(k, cos, sin), v)

  def __call__(self, x_BTD: jax.Array, context: layers.Context
               ) -> tuple[jax.Array, Cache]:
    q, k, v = self._project(x_BTD, context.cos, context.sin)
    q = constrain(q, ("act_batch", "act_length", "act_heads", None),
                  self.place.layout)
    joined = paged.join(k, v) if paged.fits(
        self.place, k.dtype, *k.shape[2:]) else None
    q, k, v = (x.transpose(0, 2, 1, 3) for x in (q, k, v))
    out = layers.attend(self.compute, self.place, context, q, k, v)
    cache = (k.swapaxes(2, 3), v) if joined is None else joined
    return self._affine(out.transpose(0, 2, 1, 3), *self.o, 2), cache

  def decode(self, x_BTD: jax.Array, cache: Cache, slot: layers.Slot
             ) -> tuple[jax.Array, Cache]:
    q, k, v = self._project(x_BTD, slot.cos, slot.sin)
    if not isinstance(cache, tuple):
      cache = slot.put(cache, paged.join(k, v), 1)
      out = paged.decode(q, cache, slot.index_B + 1, 1.0,
                         self.compute.products, self.place)
      return self._affine(out, *self.o, 2), cache
    keys, values = slot.put(cache[0], k, 3), slot.put(cache[1], v, 2)
    how = cached.reading(self.place.backend, x_BTD.shape[1], values.shape[2],
                         values.dtype)
    out = attention.gqa_decode(
        q, keys, values, slot.index_B + 1, 1.0, self.compute.products,
        how=how, place=self.place, shared=slot.shared)
    return self._affine(out, *self.o, 2), (keys, values)

  def _affine(self, x, w, b, contracted=1):
    y = linear(x, w, contracted, layers.products(self))
    if b is None:
      return y
    return y + b.astype(y.dtype).reshape((1,) * (y.ndim - b.ndim) + b.shape)

  @staticmethod
  def cache_axes(cache: Cache) -> Any:
    """Logical axis names of the arrays of the cache."""
    if isinstance(cache, tuple):
      return (("act_batch", "act_kv_heads", None, None),) * 2
    return "act_batch", None, "act_kv_heads", None

  @staticmethod
  def grow(cache: Cache, slots: int) -> Cache:
    """Pads the slot axis with zeros to `slots`, or cuts it; in pages to more.
    """
    if not isinstance(cache, tuple):
      missing = paged.room(slots) - cache.shape[1]
      return jnp.pad(cache, ((0, 0), (0, missing), (0, 0), (0, 0)))
    keys, values = cache
    zero, same = jnp.zeros((), values.dtype), (0, 0, 0)
    missing = (0, slots - values.shape[2], 0)
    return (jax.lax.pad(keys, zero, (same, same, same, missing)),
            jax.lax.pad(values, zero, (same, same, missing, same)))


class FeedForward(nn.Module):
  """Gated feed-forward of the given width: SwiGLU or GeGLU."""

  cfg: ModelConfig
  compute: Compute
  place: Place
  width: int

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    cfg, dtype = self.cfg, self.compute.param_dtype
    init, d, f = layers.normal(cfg.init_std), cfg.d_model, self.width
    up, down = ("embed", "mlp"), ("mlp", "embed")
    return swiglu(x, layers.weight(self, "w_gate", up, (d, f), init, dtype),
                  layers.weight(self, "w_up", up, (d, f), init, dtype),
                  layers.weight(self, "w_down", down, (f, d), init, dtype),
                  layers.products(self), cfg.activation)
