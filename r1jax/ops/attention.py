"""Grouped-query attention and the masks that every attention uses."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp


def causal_mask(segments_BT: jax.Array) -> jax.Array:
  """Bool [B, T, S]: t may see s <= t of its own segment."""
  length = segments_BT.shape[1]
  causal_TS = jnp.tril(jnp.ones((length, length), bool))
  same_BTS = segments_BT[:, :, None] == segments_BT[:, None, :]
  return same_BTS & causal_TS[None]


def softmax(scores: jax.Array, allowed: jax.Array) -> jax.Array:
  """float32 softmax over the last axis of the allowed entries."""
  scores32 = jnp.where(allowed, scores.astype(jnp.float32), -jnp.inf)
  return jax.nn.softmax(scores32, -1)


@functools.partial(jax.custom_vjp, nondiff_argnums=(4,))
def attend(q_BNTH: jax.Array, k_BKSH: jax.Array, v_BKSW: jax.Array,
           allowed_BTS: jax.Array, scale: float) -> jax.Array:
  """softmax(q k^T * scale) v with float32 softmax; N/K queries share a key.

  The backward pass recomputes the probabilities from the saved log-sum-exp:
  nothing of size [T, S] outlives a layer.

  Args:
    q_BNTH: queries.
    k_BKSH: keys.
    v_BKSW: values, of any width.
    allowed_BTS: bool; every query must be allowed at least one key.
    scale: multiplies the scores.

  Returns:
    [B, N, T, W] in the dtype of the values.
  """
  return _attend(q_BNTH, k_BKSH, v_BKSW, allowed_BTS, scale)[0]


def _scores(q_BNTH, k_BKSH, allowed_BTS, scale):
  """float32 [B, N, T, S], -inf where not allowed."""
  b, n, t, h = q_BNTH.shape
  heads = k_BKSH.shape[1]
  # The queries that share a key are rows of one matrix product.
  q = (q_BNTH * scale).reshape(b, heads, n // heads * t, h)
  scores = jnp.einsum("bkth,bksh->bkts", q, k_BKSH,
                      preferred_element_type=jnp.float32)
  return jnp.where(allowed_BTS[:, None], scores.reshape(b, n, t, -1), -jnp.inf)


def _attend(q, k, v, allowed, scale):
  scores = _scores(q, k, allowed, scale)
  top_BNT1 = jnp.max(scores, -1, keepdims=True)
  exps = jnp.exp(scores - top_BNT1)
  total_BNT1 = jnp.sum(exps, -1, keepdims=True)
  # Normalised after the product: it has W columns where the scores have S.
  mixed = jnp.einsum("bkts,bksw->bktw", _share(exps.astype(v.dtype), v), v,
                     preferred_element_type=jnp.float32)
  out = (mixed.reshape(*q.shape[:3], -1) / total_BNT1).astype(v.dtype)
  lse_BNT = (top_BNT1 + jnp.log(total_BNT1))[..., 0]
  return out, (q, k, v, allowed, out, lse_BNT)


def _attend_backward(scale, saved, dout):
  q, k, v, allowed, out, lse_BNT = saved
  probs = jnp.exp(_scores(q, k, allowed, scale) - lse_BNT[..., None])
  dout_k = _share(dout, v)
  dv = jnp.einsum("bkts,bktw->bksw", _share(probs.astype(v.dtype), v), dout_k)
  dprobs = jnp.einsum("bktw,bksw->bkts", dout_k, v,
                      preferred_element_type=jnp.float32).reshape(probs.shape)
  along = jnp.sum(dout.astype(jnp.float32) * out.astype(jnp.float32), -1)
  dscores = (probs * (dprobs - along[..., None]) * scale).astype(q.dtype)
  dscores = _share(dscores, k)
  dq = jnp.einsum("bkts,bksh->bkth", dscores, k).reshape(q.shape)
  dk = jnp.einsum("bkts,bkth->bksh", dscores, _share(q, k))
  return dq, dk, dv, None


attend.defvjp(_attend, _attend_backward)


def _share(x_BNTX, k_BKSH):
  """[B, N, T, X] -> [B, K, N/K * T, X], one matrix per key head."""
  b, _, _, x = x_BNTX.shape
  return x_BNTX.reshape(b, k_BKSH.shape[1], -1, x)


def gqa(q_BTNH: jax.Array, k_BSKH: jax.Array, v_BSKH: jax.Array,
        allowed_BTS: jax.Array, scale: float) -> jax.Array:
  """`attend` for operands laid out by token; -> [B, T, N, H]."""
  q, k, v = (x.transpose(0, 2, 1, 3) for x in (q_BTNH, k_BSKH, v_BSKH))
  return attend(q, k, v, allowed_BTS, scale).transpose(0, 2, 1, 3)


def gqa_decode(q_BNH: jax.Array, k_BKHS: jax.Array, v_BKSH: jax.Array,
               valid_BS: jax.Array, scale: float) -> jax.Array:
  """One query per row against a cache; -> [B, N, H].

  Keys are kept transposed: so both products read the cache in the order of its
  memory (faster on CPU than keys laid out like values).
  """
  b, n, h = q_BNH.shape
  k_heads = k_BKHS.shape[1]
  q = (q_BNH * scale).reshape(b, k_heads, n // k_heads, h)
  scores = jnp.einsum("bkgh,bkhs->bkgs", q, k_BKHS,
                      preferred_element_type=jnp.float32)
  probs = softmax(scores, valid_BS[:, None, None]).astype(v_BKSH.dtype)
  return jnp.einsum("bkgs,bksh->bkgh", probs, v_BKSH).reshape(b, n, h)
