"""Multi-head latent attention (DeepSeek-V3, arXiv:2412.19437, eq. 1-11)."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

from r1jax.ops import attention


def naive(q_nope_BTNU: jax.Array, q_rope_BTNR: jax.Array,
          latent_BSC: jax.Array, k_rope_BSR: jax.Array, w_ukv_CNX: jax.Array,
          attend: Callable[[jax.Array, jax.Array, jax.Array], jax.Array]
          ) -> jax.Array:
  """Training and prefill: keys and values are expanded from the latent.

  Args:
    q_nope_BTNU: unrotated part of the queries.
    q_rope_BTNR: rotated part of the queries.
    latent_BSC: normalised key/value latent.
    k_rope_BSR: rotated key, one for all heads.
    w_ukv_CNX: up-projection, the U key columns of a head, then its W values.
    attend: the attention of queries [B, N, T, U + R], keys [B, N, S, U + R] and
      values [B, N, S, W]; any form of it.

  Returns:
    [B, T, N, W] in the dtype of the queries.
  """
  b, s, c = latent_BSC.shape
  n, x = w_ukv_CNX.shape[1:]
  u = q_nope_BTNU.shape[-1]
  w = w_ukv_CNX.astype(latent_BSC.dtype).reshape(c, n * x)
  kv_BNSX = (latent_BSC.reshape(b * s, c) @ w).reshape(
      b, s, n, x).transpose(0, 2, 1, 3)
  k_BNSU, v_BNSW = kv_BNSX[..., :u], kv_BNSX[..., u:]
  # [nope | rope] as one product; the shared rotated key is repeated by head.
  q_BNTH = jnp.concatenate([q_nope_BTNU, q_rope_BTNR], -1).transpose(0, 2, 1, 3)
  rope_BNSR = jnp.broadcast_to(
      k_rope_BSR[:, None], (b, n, s, k_rope_BSR.shape[-1]))
  k_BNSH = jnp.concatenate([k_BNSU, rope_BNSR], -1)
  return attend(q_BNTH, k_BNSH, v_BNSW).transpose(0, 2, 1, 3)


def absorbed(q_nope_BNU: jax.Array, q_rope_BNR: jax.Array,
             cache_BSX: jax.Array, w_ukv_CNX: jax.Array,
             valid_BS: jax.Array, scale: float) -> jax.Array:
  """Decode: the up-projection is absorbed into queries and outputs.

  Equal to `naive` for one query per row, but reads only the latent cache of
  C + R values per token.

  Args:
    q_nope_BNU: unrotated part of the queries.
    q_rope_BNR: rotated part of the queries.
    cache_BSX: [latent (C) | rotated key (R)] per slot.
    w_ukv_CNX: as in `naive`.
    valid_BS: bool, slots to attend to; at least one per row.
    scale: softmax scale.

  Returns:
    [B, N, W] in the dtype of the queries.
  """
  c = w_ukv_CNX.shape[0]
  u = q_nope_BNU.shape[-1]
  w = w_ukv_CNX.astype(q_nope_BNU.dtype)
  q_latent_BNC = jnp.einsum("bnu,cnu->bnc", q_nope_BNU, w[..., :u])
  q_BNX = jnp.concatenate([q_latent_BNC, q_rope_BNR], -1)
  scores_BNS = jnp.einsum("bnx,bsx->bns", q_BNX, cache_BSX) * scale
  probs = attention.softmax(scores_BNS, valid_BS[:, None])
  # The rotated key rides along and is cut off: slicing the cache would copy it.
  mixed_BNX = jnp.einsum("bns,bsx->bnx", probs.astype(cache_BSX.dtype),
                         cache_BSX)
  return jnp.einsum("bnc,cnw->bnw", mixed_BNX[..., :c], w[..., u:])
