"""Grouped-query attention of decoding by JAX's Pallas kernel for TPUs.

The kernel (ragged paged attention) reads of each row only the blocks that hold
its tokens, where `attention.gqa_decode` reads as many of every row as the
longest has. Its cache is one array, keys and values in turn, divided into
pages. Here the pages of a row follow each other, so that the cache of a batch
of rows is an array [B, S, 2K, H] as well.

It was compiled for TPUs and interpreted on a CPU, not run on a TPU.
"""

from __future__ import annotations

import functools
import math

import jax
import jax.numpy as jnp
from jax.experimental.pallas.ops.tpu.ragged_paged_attention import (
    ragged_paged_attention,
)
from jax.sharding import PartitionSpec

from r1jax.ops import cached, linear
from r1jax.sharding import rules
from r1jax.sharding.mesh import Place

LANES = 128  # width of a head
BLOCK = cached.BLOCK  # slots of a row read at a time
# Most query heads that read a block at a time: a TPU's vector memory has room
# for their sums.
QUERIES = 2048
# Most page numbers of a call, which are in a TPU's scalar memory, half of it.
INDICES = 2**17


def fits(place: Place, dtype: jnp.dtype, k_heads: int, width: int) -> bool:
  """Whether decoding lays its cache out for the kernel and calls it.

  Args:
    place: where the model runs.
    dtype: of queries, keys and values.
    k_heads: key heads of all devices.
    width: of a head.
  """
  if not place.paged or (place.backend, place.layout) != ("tpu", "decode"):
    return False
  heads, both = (rules.fitted(("act_kv_heads",), (n,), place.axes, place.layout)
                 for n in (k_heads, 2 * k_heads))
  own = k_heads // _ways(heads[0], place)
  return (dtype == jnp.bfloat16 and width == LANES
          # A head's keys and values stay together.
          and heads == both
          # What fills the tiles of a TPU's memory.
          and (own in (1, 2, 4) or own % 8 == 0))


def join(k_BTKH: jax.Array, v_BTKH: jax.Array) -> jax.Array:
  """Keys and values as the cache has them: [B, T, 2K, H], head by head."""
  b, t, k, h = k_BTKH.shape
  return jnp.stack([k_BTKH, v_BTKH], 3).reshape(b, t, 2 * k, h)


def apart(joined_BSKH: jax.Array) -> tuple[jax.Array, jax.Array]:
  """(k_BKHS, v_BKSH) of a joined cache, as `attention.gqa_decode` reads it."""
  return (joined_BSKH[:, :, ::2].transpose(0, 2, 3, 1),
          joined_BSKH[:, :, 1::2].swapaxes(1, 2))


def pages(slots: int) -> tuple[int, int]:
  """(slots of a page, pages that are read at a time) of a row of `slots`.

  The larger power of two divides the number of slots, the better.
  """
  page = math.gcd(slots, BLOCK)
  return page, min(slots, BLOCK) // page


def queries(tokens: int, heads: int) -> int:
  """Tokens of a row, of so many query heads each, that read a block at a time.
  """
  return min(tokens, 2**((QUERIES // heads).bit_length() - 1))


def room(slots: int) -> int:
  """`slots`, rounded up so that pages are not small."""
  return -(-slots // LANES) * LANES


def decode(q_BTNH: jax.Array, joined_BSKH: jax.Array, lengths_B: jax.Array,
           scale: float, precision: jax.lax.Precision | None, place: Place
           ) -> jax.Array:
  """`attention.gqa_decode` by the kernel, over the devices of a mesh.

  A device reads its rows and heads; nothing is communicated. A row costs what
  its own length says: that of rows of no interest should be 1.

  Args:
    q_BTNH: queries of T consecutive tokens.
    joined_BSKH: the cache [B, S, 2K, H], see `join`, which already holds these
      tokens.
    lengths_B: int32, at least 1: a row's first token attends to the first
      `length` slots, each later token to one slot more.
    scale: of the softmax.
    precision: of the products, see `linear.kernel`.
    place: where the model runs.

  Returns:
    [B, T, N, H] in the dtype of the queries.
  """
  local = functools.partial(
      linear.kernel, functools.partial(_attend, scale), precision)
  if not place.axes:
    return local(q_BTNH, joined_BSKH, lengths_B)
  rows, heads = rules.fitted(
      ("act_batch", "act_kv_heads"),
      (q_BTNH.shape[0], joined_BSKH.shape[2] // 2), place.axes, place.layout)
  spec = PartitionSpec(rows, None, heads)
  split = jax.shard_map(
      local, axis_names=set(place.axes), in_specs=(
          spec, spec, PartitionSpec(rows)), out_specs=spec,
      # Pallas kernels do not tell JAX over which axes their results vary.
      check_vma=False)
  return split(q_BTNH, joined_BSKH, lengths_B)


def _attend(scale, q_BTNH, joined_BSKH, lengths_B):
  b, t, n, h = q_BTNH.shape
  slots, heads = joined_BSKH.shape[1:3]
  page, together = pages(slots)
  per_row = slots // page
  most = INDICES // (-(-per_row // LANES) * LANES)  # rows of it are padded
  out = []
  for first in range(0, b, most):
    rows = min(most, b - first)
    indices = first * per_row + jnp.arange(rows * per_row, dtype=jnp.int32)
    with jax.named_scope(cached.BLOCKS):
      out.append(ragged_paged_attention(
          q_BTNH[first:first + rows].reshape(-1, n, h),
          joined_BSKH.reshape(-1, page, heads, h),
          lengths_B[first:first + rows] + t - 1, indices.reshape(rows, -1),
          t * jnp.arange(rows + 1, dtype=jnp.int32),
          jnp.array([rows], jnp.int32), sm_scale=scale,
          num_kv_pages_per_block=together,
          # A block of queries is a row's own: of other rows' the kernel would
          # compute products that it does not keep.
          num_queries_per_block=queries(t, n)))
  return jnp.concatenate(out).reshape(q_BTNH.shape)


def _ways(entry, place):
  names = (entry,) if isinstance(entry, str) else entry or ()
  return math.prod(place.axes[name] for name in names)
