"""Attention on TPU by JAX's Pallas kernels (splash attention).

The blocks that the kernels visit, and the index of every query, are arguments
instead of a mask known at compile time. So a device that holds a part of the
queries runs the same program as the others, and blocks without a common segment
are skipped.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax.experimental.pallas.ops.tpu.splash_attention import (
    splash_attention_kernel as kernel,
)
from jax.experimental.pallas.ops.tpu.splash_attention import (
    splash_attention_mask_info as mask_info,
)

from r1jax.ops import linear
from r1jax.ops.attention import Segments
from r1jax.ops.flash_blocks import even, live_blocks, pad

LANES = 128


def attend(q_BNTH: jax.Array, k_BKSH: jax.Array, v_BKSW: jax.Array,
           segments: Segments, scale: float, block: int,
           precision: jax.lax.Precision | None = None, interpret: bool = False
           ) -> jax.Array:
  """`flash.attend` by the kernels, in blocks of at most `block` each way.

  Runs on one device: the compiler cannot split a kernel (see `flash.sharded`).
  The kernels take no scale, so the queries are scaled here, which rounds them
  once more in bfloat16 unless the scale is a power of two. The models pass
  scale 1 and scale the queries before they are first rounded.

  Args:
    q_BNTH: queries.
    k_BKSH: keys.
    v_BKSW: values.
    segments: of queries and keys.
    scale: multiplies the scores.
    block: a multiple of 128.
    precision: of the products, see `linear.kernel`.
    interpret: run the kernels without a TPU, slowly (for tests).

  Raises:
    ValueError: `block` is no multiple of 128.
  """
  if block % LANES:
    raise ValueError(f"block={block}: splash takes multiples of {LANES}")
  t, s = q_BNTH.shape[2], k_BKSH.shape[2]
  block_t, block_s = (even(block, size, LANES) for size in (t, s))
  q, k, v, segments = pad(q_BNTH, k_BKSH, v_BKSW, segments, block_t, block_s)
  live = live_blocks(segments, block_t, block_s)
  sizes = kernel.BlockSizes(
      block_q=block_t, block_kv=block_s, block_q_dkv=block_t,
      block_kv_dkv=block_s, block_q_dq=block_t, block_kv_dq=block_s)

  def row(q, k, v, segments_T, segments_S, live, index_T):
    across = _visits(_next_live(live), live, index_T)
    down = _visits(_next_live(live.T).T, live, index_T)
    attend_row = kernel.SplashAttentionKernel(
        across, across, down, block_sizes=sizes, is_mqa=False,
        save_residuals=False, mask_value=kernel.DEFAULT_MASK_VALUE,
        attn_logits_soft_cap=None, residual_checkpoint_name=None,
        mask_function=_causal, interpret=interpret)
    return attend_row(q, k, v, kernel.SegmentIds(segments_T, segments_S))

  if scale != 1.0:
    q = q * scale
  out = linear.kernel(
      jax.vmap(row, (0,) * 6 + (None,)), precision, q, k, v,
      segments.queries_BT, segments.keys_BS, live, segments.index_T)
  return out[:, :, :t].astype(v_BKSW.dtype)


def _causal(index_T, index_S):
  return index_T >= index_S


def _visits(fetch, live, index_T):
  """The kernels' prefetched arguments, the same for all heads."""
  return mask_info.MaskInfo(
      data_next=fetch[None], mask_next=None,
      block_mask=live[None].astype(jnp.int32), partial_mask_blocks=None,
      q_sequence=index_T)


def _next_live(live):
  """int32 [rows, columns]: the column to fetch at each visit.

  For a live block its own column; for a skipped one the next live column of the
  row, or, if there is none, the first one of the next row. So the next block is
  prefetched while nothing is computed.
  """
  rows, columns = live.shape
  own = jnp.where(live, jnp.arange(columns)[None], columns)
  ahead = jax.lax.cummin(own, axis=1, reverse=True)
  following = jnp.roll(ahead[:, :1], -1, 0)
  fetched = jnp.where(ahead < columns, ahead, following)
  # A row without live blocks is not computed, but must name a valid block.
  return jnp.minimum(fetched, columns - 1).astype(jnp.int32)
