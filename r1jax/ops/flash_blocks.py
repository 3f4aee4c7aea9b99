"""Attention by blocks of queries and keys, in XLA, without [T, S] arrays.

The softmax over blocks is the online one of Milakov and Gimelshein
(arXiv:1805.02867). The backward pass recomputes probabilities from the
log-sum-exp, as FlashAttention-2 does (arXiv:2307.08691).
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp

from r1jax.ops import attention
from r1jax.ops.attention import Segments

# Initial maximum: below every score, yet finite, because scores that are not
# allowed are -inf, and -inf - -inf would be NaN.
_LOWEST = -1e30


def attend(q_BNTH: jax.Array, k_BKSH: jax.Array, v_BKSW: jax.Array,
           segments: Segments, scale: float, block: int,
           precision: jax.lax.Precision | None = None) -> jax.Array:
  """`flash.attend` by blocks of at most `block` queries and `block` keys.

  Accumulates in float32. Only inputs, output and log-sum-exp are saved for the
  backward pass. Skipped are the blocks before the first and after the last one
  that may have a key that a query sees in any row.
  """
  t, s = q_BNTH.shape[2], k_BKSH.shape[2]
  block_t, block_s = even(block, t), even(block, s)
  q, k, v, segments = pad(q_BNTH, k_BKSH, v_BKSW, segments, block_t, block_s)
  live = jnp.any(live_blocks(segments, block_t, block_s), 0)
  first = jnp.argmax(live, 1).astype(jnp.int32)
  end = live.shape[1] - jnp.argmax(live[:, ::-1], 1).astype(jnp.int32)
  out = _attend(q, k, v, (segments, (first, end)), scale, (block_t, block_s),
                precision)
  return out[:, :, :t]


def even(block: int, size: int, multiple: int = 1) -> int:
  """Block size that splits `size` evenly into as few blocks as possible.

  513 tokens in blocks of at most 512 become two of 257, not two of 512. The
  result is rounded up to a multiple of `multiple`.
  """
  parts = -(-size // block)
  return -(-size // (parts * multiple)) * multiple


def pad(q_BNTH: jax.Array, k_BKSH: jax.Array, v_BKSW: jax.Array,
        segments: Segments, block_t: int, block_s: int
        ) -> tuple[jax.Array, jax.Array, jax.Array, Segments]:
  """Pads T and S to multiples of the block sizes.

  Padding keys come after every query and so are never seen. Padding queries see
  what the last query sees, so that no softmax is empty.
  """
  more_t, more_s = -q_BNTH.shape[2] % block_t, -k_BKSH.shape[2] % block_s
  q, k, v = (jnp.pad(x, ((0, 0), (0, 0), (0, more), (0, 0))) for x, more in (
      (q_BNTH, more_t), (k_BKSH, more_s), (v_BKSW, more_s)))
  queries_BT, keys_BS, index_T = segments
  return q, k, v, Segments(
      jnp.pad(queries_BT, ((0, 0), (0, more_t)), mode="edge"),
      jnp.pad(keys_BS, ((0, 0), (0, more_s)), mode="edge"),
      jnp.pad(index_T, (0, more_t), mode="edge"))


def live_blocks(segments: Segments, block_t: int, block_s: int) -> jax.Array:
  """Bool [B, T/block_t, S/block_s]: False where no query sees any key.

  True is only an upper bound: the ranges of segment numbers overlap, and the
  last query is not before the first key.
  """
  queries_BT, keys_BS, index_T = segments
  b = queries_BT.shape[0]
  t = queries_BT.reshape(b, -1, block_t)
  s = keys_BS.reshape(b, -1, block_s)
  same = ((t.max(2)[:, :, None] >= s.min(2)[:, None])
          & (t.min(2)[:, :, None] <= s.max(2)[:, None]))
  starts = jnp.arange(s.shape[1]) * block_s
  causal = index_T.reshape(-1, block_t).max(1)[:, None] >= starts[None]
  return same & causal[None]


def _slice(x, i, size, axis):
  return jax.lax.dynamic_slice_in_dim(x, i * size, size, axis)


def _allowed(masks, i, j, block_t, block_s):
  """Mask [B, block_t, block_s] of query block i and key block j."""
  queries_BT, keys_BS, index_T = masks[0]
  return attention.causal_mask(Segments(
      _slice(queries_BT, i, block_t, 1), _slice(keys_BS, j, block_s, 1),
      _slice(index_T, i, block_t, 0)), j * block_s)


@functools.partial(jax.custom_vjp, nondiff_argnums=(4, 5, 6))
def _attend(q, k, v, masks, scale, blocks, precision):
  return _forward(q, k, v, masks, scale, blocks, precision)[0]


def _forward(q, k, v, masks, scale, blocks, precision):
  block_t, block_s = blocks
  b, n, t, _ = q.shape
  w = v.shape[-1]
  first, end = masks[1]

  def queries(i):
    q_i = _slice(q, i, block_t, 2)

    def keys(j, carry):
      top, total, mixed = carry
      k_j, v_j = _slice(k, j, block_s, 2), _slice(v, j, block_s, 2)
      scores = attention.scores(
          q_i, k_j, _allowed(masks, i, j, *blocks), scale, precision)
      new_top = jnp.maximum(top, jnp.max(scores, -1))
      exps = jnp.exp(scores - new_top[..., None])
      shrink = jnp.exp(top - new_top)
      product = attention.product(precision, v.dtype)(
          "bkts,bksw->bktw", attention.share(exps.astype(v.dtype), v), v_j)
      return (new_top, total * shrink + jnp.sum(exps, -1),
              mixed * shrink[..., None] + product.reshape(mixed.shape))

    top, total, mixed = jax.lax.fori_loop(first[i], end[i], keys, (
        jnp.full((b, n, block_t), _LOWEST, jnp.float32),
        jnp.zeros((b, n, block_t), jnp.float32),
        jnp.zeros((b, n, block_t, w), jnp.float32)))
    return (mixed / total[..., None]).astype(v.dtype), top + jnp.log(total)

  out, lse = jax.lax.map(queries, jnp.arange(t // block_t))
  out = jnp.moveaxis(out, 0, 2).reshape(b, n, t, w)
  lse_BNT = jnp.moveaxis(lse, 0, 2).reshape(b, n, t)
  return out, (q, k, v, masks, out, lse_BNT)


def _backward(scale, blocks, precision, saved, dout):
  q, k, v, masks, out, lse_BNT = saved
  block_t, block_s = blocks
  first, end = masks[1]
  along_BNT = attention.along(out, dout)

  def queries(carry, i):
    q_i, dout_i, lse_i, along_i = (
        _slice(x, i, block_t, 2) for x in (q, dout, lse_BNT, along_BNT))

    def keys(j, carry):
      dq, dk, dv = carry
      more_q, more_k, more_v = attention.gradients(
          q_i, _slice(k, j, block_s, 2), _slice(v, j, block_s, 2),
          _allowed(masks, i, j, *blocks), scale, lse_i, along_i, dout_i,
          precision)
      return dq + more_q, _add(dk, more_k, j * block_s), _add(
          dv, more_v, j * block_s)

    dq, *carry = jax.lax.fori_loop(first[i], end[i], keys, (
        jnp.zeros(q_i.shape, jnp.float32), *carry))
    return carry, dq.astype(q.dtype)

  zeros = [jnp.zeros(x.shape, jnp.float32) for x in (k, v)]
  (dk, dv), dq = jax.lax.scan(
      queries, zeros, jnp.arange(q.shape[2] // block_t))
  dq = jnp.moveaxis(dq, 0, 2).reshape(q.shape)
  return dq, dk.astype(k.dtype), dv.astype(v.dtype), None


def _add(x, more, start):
  """Adds to a slice of axis 2, which XLA does in place."""
  at = (0, 0, start, 0)
  old = jax.lax.dynamic_slice(x, at, more.shape)
  return jax.lax.dynamic_update_slice(x, old + more, at)


_attend.defvjp(_forward, _backward)
