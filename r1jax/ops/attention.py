"""Grouped-query attention over whole rows and its mask; one decode step."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from r1jax.ops import cached, shared_prompts
from r1jax.ops.linear import precise
from r1jax.sharding.mesh import Place

Precision = jax.lax.Precision | None


class Segments(NamedTuple):
  """What decides which keys a query sees; 0 is the segment of padding.

  Attributes:
    queries_BT: int32 segments of the queries, which may be a part of the row.
    keys_BS: int32 segments of the keys, which are whole rows.
    index_T: int32 index in the row of each query.
  """

  queries_BT: jax.Array
  keys_BS: jax.Array
  index_T: jax.Array

  @classmethod
  def whole(cls, segments_BT: jax.Array) -> Segments:
    """For queries that are whole rows too."""
    index_T = jnp.arange(segments_BT.shape[1], dtype=jnp.int32)
    return cls(segments_BT, segments_BT, index_T)


def causal_mask(segments: Segments, first: jax.Array | int = 0) -> jax.Array:
  """Bool [B, T, S]: a query sees keys of its own segment up to its own index.

  Args:
    segments: of queries and keys.
    first: index in the row of the first key, if the keys are a part of it too.
  """
  queries_BT, keys_BS, index_T = segments
  index_S = first + jnp.arange(keys_BS.shape[1])
  causal_TS = index_T[:, None] >= index_S[None]
  same_BTS = queries_BT[:, :, None] == keys_BS[:, None]
  return same_BTS & causal_TS[None]


@functools.partial(jax.custom_vjp, nondiff_argnums=(4, 5))
def attend(q_BNTH: jax.Array, k_BKSH: jax.Array, v_BKSW: jax.Array,
           allowed_BTS: jax.Array, scale: float, precision: Precision = None
           ) -> jax.Array:
  """softmax(q k^T * scale) v, softmax in float32; N/K query heads share a key.

  The backward pass recomputes the probabilities from the saved log-sum-exp, so
  no array of size [T, S] is kept from the forward pass.

  Args:
    q_BNTH: queries.
    k_BKSH: keys.
    v_BKSW: values, of any width.
    allowed_BTS: bool; every query must be allowed at least one key.
    scale: multiplies the scores.
    precision: of the products, see `linear.precise`.

  Returns:
    [B, N, T, W] in the dtype of the values.
  """
  return _attend(q_BNTH, k_BKSH, v_BKSW, allowed_BTS, scale, precision)[0]


def product(precision: Precision, dtype: jnp.dtype) -> Callable[..., jax.Array]:
  """einsum for operands of `dtype`, with float32 accumulation and result."""
  return functools.partial(jnp.einsum, preferred_element_type=jnp.float32,
                           precision=precise(precision, dtype))


def scores(q_BNTH: jax.Array, k_BKSH: jax.Array, allowed_BTS: jax.Array,
           scale: float, precision: Precision = None) -> jax.Array:
  """float32 q k^T * scale [B, N, T, S], -inf where not allowed."""
  b, n, t, h = q_BNTH.shape
  # The queries that share a key head are rows of one matrix product. The
  # product is scaled, in float32: scaled queries would be rounded once more.
  products = scale * product(precision, q_BNTH.dtype)(
      "bkth,bksh->bkts", share(q_BNTH, k_BKSH), k_BKSH)
  return jnp.where(allowed_BTS[:, None], products.reshape(b, n, t, -1),
                   -jnp.inf)


def gradients(q_BNTH: jax.Array, k_BKSH: jax.Array, v_BKSW: jax.Array,
              allowed_BTS: jax.Array, scale: float, lse_BNT: jax.Array,
              along_BNT: jax.Array, dout_BNTW: jax.Array,
              precision: Precision = None
              ) -> tuple[jax.Array, jax.Array, jax.Array]:
  """float32 gradients of `attend` in q, k and v, for all keys or a block.

  Args:
    q_BNTH: queries.
    k_BKSH: keys.
    v_BKSW: values.
    allowed_BTS: bool.
    scale: multiplies the scores.
    lse_BNT: float32 log-sum-exp of each query's scores over all keys.
    along_BNT: float32 inner product of each query's output and its gradient.
    dout_BNTW: gradient of the output.
    precision: of the products, see `linear.precise`.
  """
  einsum = product(precision, q_BNTH.dtype)
  probs = jnp.exp(scores(q_BNTH, k_BKSH, allowed_BTS, scale, precision)
                  - lse_BNT[..., None])
  dout = share(dout_BNTW, v_BKSW)
  dv = einsum("bkts,bktw->bksw", share(probs.astype(v_BKSW.dtype), v_BKSW),
              dout)
  dprobs = einsum("bktw,bksw->bkts", dout, v_BKSW)
  dscores = probs * (dprobs.reshape(probs.shape) - along_BNT[..., None]) * scale
  dscores = share(dscores.astype(q_BNTH.dtype), k_BKSH)
  dq = einsum("bkts,bksh->bkth", dscores, k_BKSH)
  dk = einsum("bkts,bkth->bksh", dscores, share(q_BNTH, k_BKSH))
  return dq.reshape(q_BNTH.shape), dk, dv


def along(out_BNTW: jax.Array, dout_BNTW: jax.Array) -> jax.Array:
  """float32 [B, N, T] inner products of outputs and their gradients."""
  return jnp.sum(out_BNTW.astype(jnp.float32) * dout_BNTW.astype(jnp.float32),
                 -1)


def share(x_BNTX: jax.Array, k_BKSH: jax.Array) -> jax.Array:
  """[B, N, T, X] -> [B, K, N/K * T, X], one matrix per key head."""
  b, _, _, x = x_BNTX.shape
  return x_BNTX.reshape(b, k_BKSH.shape[1], -1, x)


def _attend(q, k, v, allowed, scale, precision):
  scores_BNTS = scores(q, k, allowed, scale, precision)
  top_BNT1 = jnp.max(scores_BNTS, -1, keepdims=True)
  exps = jnp.exp(scores_BNTS - top_BNT1)
  total_BNT1 = jnp.sum(exps, -1, keepdims=True)
  # Normalised after the product, which has W columns; the scores have S.
  mixed = product(precision, v.dtype)(
      "bkts,bksw->bktw", share(exps.astype(v.dtype), v), v)
  out = (mixed.reshape(*q.shape[:3], -1) / total_BNT1).astype(v.dtype)
  lse_BNT = (top_BNT1 + jnp.log(total_BNT1))[..., 0]
  return out, (q, k, v, allowed, out, lse_BNT)


def _attend_backward(scale, precision, saved, dout):
  q, k, v, allowed, out, lse_BNT = saved
  dq, dk, dv = gradients(
      q, k, v, allowed, scale, lse_BNT, along(out, dout), dout, precision)
  return dq.astype(q.dtype), dk.astype(k.dtype), dv.astype(v.dtype), None


attend.defvjp(_attend, _attend_backward)


def gqa_decode(q_BTNH: jax.Array, k_BKHS: jax.Array, v_BKSH: jax.Array,
               lengths_B: jax.Array, scale: float,
               precision: Precision = None, *,
               how: cached.Reading = cached.WHOLE,
               place: Place | None = None,
               shared: shared_prompts.Shared | None = None) -> jax.Array:
  """Attention of a few consecutive tokens per row to the KV cache.

  Keys are stored transposed, so that both products read the cache in memory
  order (faster on a CPU than keys laid out like values).

  Args:
    q_BTNH: queries of T consecutive tokens.
    k_BKHS, v_BKSH: the cache, which already holds these tokens.
    lengths_B: int32, at least 1: a row's first token attends to the first
      `length` slots, each later token to one slot more.
    scale: of the softmax.
    precision: of the products, see `linear.precise`.
    how: way of reading the cache, see `cached.reading`.
    place: where the model runs; None: on one device.
    shared: prompts, of this layer, which the tokens attend to as well.

  Returns:
    [B, T, N, H] in the dtype of the values.
  """
  b, t, n, h = q_BTNH.shape
  k_heads, dtype = v_BKSH.shape[1], v_BKSH.dtype
  einsum = product(precision, q_BTNH.dtype)
  # The queries of all tokens that share a key head are one matrix.
  q = q_BTNH.reshape(b, t, k_heads, n // k_heads, h).swapaxes(1, 2).reshape(
      b, k_heads, -1, h)
  heads = cached.Heads(
      lambda q, part: scale * einsum("bkgh,bkhs->bkgs", q, part[0]),
      lambda probs, part: einsum(
          "bkgs,bksh->bkgh", probs.astype(dtype), part[1]),
      lambda lengths_B: cached.each_token(lengths_B, t, n // k_heads)[:, None],
      t, v_BKSH.shape[3])

  def over_rows(q, cache, lengths_B, shared):
    begun = None
    if shared is not None:
      # Queries of several rows that share a key head are one matrix, too.
      begun = shared_prompts.over_prompts(
          shared, q, 1, (3, 2),
          lambda q, part: scale * einsum("kbgh,khs->kbgs", q, part[0]),
          lambda probs, part: einsum(
              "kbgs,ksh->kbgh", probs.astype(dtype), part[1]),
          heads.width, how.block)
    return cached.over_slots(heads, q, cache, (3, 2), lengths_B, how, begun)

  mixed = cached.by_shard(
      place, over_rows, q, (k_BKHS, v_BKSH), lengths_B, shared)
  return mixed.astype(dtype).reshape(
      b, k_heads, t, n // k_heads, -1).swapaxes(1, 2).reshape(b, t, n, -1)
