"""Multi-head latent attention (DeepSeek-V3, arXiv:2412.19437, eq. 1-11)."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from r1jax.ops import attention, cached, shared_prompts
from r1jax.ops.linear import (
    HIGHEST,
    PLAIN,
    Adapted,
    Products,
    is_adapted,
    linear,
)
from r1jax.sharding.mesh import Place


class Halves(NamedTuple):
  """The up-projection as decoding reads it: heads are the leading axis.

  A product for each head would copy [C, N, U + W] into these forms.

  Attributes:
    keys_NCU: the key columns.
    values_NWC: the value columns.
  """

  keys_NCU: jax.Array
  values_NWC: jax.Array

  @classmethod
  def of(cls, w_CNX: jax.Array, u: int) -> Halves:
    """From the whole; each head has `u` key columns."""
    return cls(w_CNX[..., :u].transpose(1, 0, 2),
               w_CNX[..., u:].transpose(1, 2, 0))

  def whole(self) -> jax.Array:
    """The inverse of `of`."""
    return jnp.concatenate([self.keys_NCU.transpose(1, 0, 2),
                            self.values_NWC.transpose(2, 0, 1)], -1)


def naive(q_nope_BTNU: jax.Array, q_rope_BTNR: jax.Array,
          latent_BSC: jax.Array, k_rope_BSR: jax.Array,
          w_ukv_CNX: jax.Array | Adapted,
          attend: Callable[[jax.Array, jax.Array, jax.Array], jax.Array],
          how: Products = PLAIN) -> jax.Array:
  """For training and prefill: keys and values are expanded from the latent.

  Args:
    q_nope_BTNU: unrotated part of the queries.
    q_rope_BTNR: rotated part of the queries.
    latent_BSC: normalised key/value latent.
    k_rope_BSR: rotated key, one for all heads.
    w_ukv_CNX: up-projection; of each head U key columns, then W value columns.
    attend: attention of queries [B, N, T, U + R] to keys [B, N, S, U + R] and
      values [B, N, S, W], in any form.
    how: how the up-projection is computed.

  Returns:
    [B, T, N, W] in the dtype of the queries.
  """
  b, s, _ = latent_BSC.shape
  n, u = q_nope_BTNU.shape[2:]
  kv_BSNX = linear(latent_BSC, w_ukv_CNX, how=how)
  kv_BNSX = kv_BSNX.transpose(0, 2, 1, 3)
  k_BNSU, v_BNSW = kv_BNSX[..., :u], kv_BNSX[..., u:]
  # [nope | rope] in one product; the shared rotated key is repeated per head.
  q_BNTH = jnp.concatenate([q_nope_BTNU, q_rope_BTNR], -1).transpose(0, 2, 1, 3)
  rope_BNSR = jnp.broadcast_to(
      k_rope_BSR[:, None], (b, n, s, k_rope_BSR.shape[-1]))
  k_BNSH = jnp.concatenate([k_BNSU, rope_BNSR], -1)
  return attend(q_BNTH, k_BNSH, v_BNSW).transpose(0, 2, 1, 3)


def absorbed(q_nope_BTNU: jax.Array, q_rope_BTNR: jax.Array,
             cache_BSX: jax.Array, up: jax.Array | Halves | Adapted,
             lengths_B: jax.Array, scale: float,
             precision: jax.lax.Precision | None = None, *,
             how: cached.Reading = cached.WHOLE,
             place: Place | None = None,
             shared: shared_prompts.Shared | None = None) -> jax.Array:
  """For decoding: the up-projection is absorbed into queries and outputs.

  Equal to `naive` for the last queries of a row, but reads only the latent
  cache of C + R values per token. An adapter of the up-projection is applied
  factor by factor.

  Args:
    q_nope_BTNU: unrotated part of the queries of T consecutive tokens.
    q_rope_BTNR: rotated part of the queries.
    cache_BSX: [latent (C) | rotated key (R)] per slot; it already holds these
      tokens.
    up: the up-projection, as in `naive` or its halves.
    lengths_B: int32, see `attention.gqa_decode`.
    scale: softmax scale.
    precision: of the products, see `linear.precise`.
    how: way of reading the cache, see `cached.reading`. A block is read once
      for both scores and values if it can be held.
    place: where the model runs; None: on one device.
    shared: prompts, of this layer, which the tokens attend to as well.

  Returns:
    [B, T, N, W] in the dtype of the queries.
  """
  (b, t, n, u), dtype = q_nope_BTNU.shape, q_nope_BTNU.dtype
  c = cache_BSX.shape[-1] - q_rope_BTNR.shape[-1]
  if not is_adapted(up):
    halves = up if isinstance(up, Halves) else Halves.of(up, u)
    up = Halves(*(half.astype(dtype) for half in halves))
  product = attention.product(precision, dtype)
  q_latent = _keys(product, q_nope_BTNU.reshape(b * t, n, u), up)
  # A head's tokens lie side by side: merged the other way round, heads that are
  # split over devices would be gathered.
  q_BNX = jnp.concatenate([
      q_latent.astype(dtype).reshape(b, t, n, c), q_rope_BTNR], -1
      ).swapaxes(1, 2).reshape(b, n * t, -1)

  # The values include the rotated key, cut off below: slicing the cache to the
  # latent would copy it.
  heads = cached.Heads(
      lambda q_BNX, part_BSX: scale * product("bnx,bsx->bns", q_BNX, part_BSX),
      lambda probs_BNS, part_BSX: product(
          "bns,bsx->bnx", probs_BNS.astype(cache_BSX.dtype), part_BSX),
      lambda lengths_B: jnp.tile(
          cached.each_token(lengths_B, t, 1), (1, 1 if t == 1 else n)),
      t, q_BNX.shape[-1])

  def over_rows(q_BNX, cache_BSX, lengths_B, shared):
    begun = None
    if shared is not None:
      begun = shared_prompts.over_prompts(
          shared, q_BNX, 0, 1,
          lambda q_BNX, part_SX: scale * product("bnx,sx->bns", q_BNX, part_SX),
          lambda probs_BNS, part_SX: product(
              "bns,sx->bnx", probs_BNS.astype(cache_BSX.dtype), part_SX),
          heads.width, how.block, cached.HELD)
    return cached.over_slots(
        heads, q_BNX, cache_BSX, 1, lengths_B, how, begun, cached.HELD)

  mixed_BNX = cached.by_shard(
      place, over_rows, q_BNX, cache_BSX, lengths_B, shared)
  mixed = mixed_BNX[..., :c].astype(dtype).reshape(b, n, t, c).swapaxes(
      1, 2).reshape(b * t, n, c)
  return _values(product, mixed, up, u).astype(dtype).reshape(b, t, n, -1)


_exact = functools.partial(jnp.einsum, precision=HIGHEST)


def _keys(product, q_BNU, up):
  """float32 q W^T with the key columns of W (and of its adapter)."""
  if isinstance(up, Halves):
    return product("bnu,ncu->bnc", q_BNU, up.keys_NCU)
  u = q_BNU.shape[-1]
  low = _exact("bnu,rnu->bnr", q_BNU.astype(jnp.float32), up.b[..., :u])
  base = Halves.of(up.w.astype(q_BNU.dtype), u)
  return _keys(product, q_BNU, base) + up.scale * _exact(
      "bnr,cr->bnc", low, up.a)


def _values(product, x_BNC, up, u):
  """float32 x W with the value columns of W (and of its adapter)."""
  if isinstance(up, Halves):
    return product("bnc,nwc->bnw", x_BNC, up.values_NWC)
  low = _exact("bnc,cr->bnr", x_BNC.astype(jnp.float32), up.a)
  base = Halves.of(up.w.astype(x_BNC.dtype), u)
  return _values(product, x_BNC, base, u) + up.scale * _exact(
      "bnr,rnw->bnw", low, up.b[..., u:])
