"""Attention of a few tokens a row to the KV cache: by shard, by row, by block.

What a step reads follows what lives: a shard of a mesh reads as many blocks as
its own rows need, and where rows are read one after the other, each as many as
it needs itself.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from r1jax.ops import shared_prompts
from r1jax.ops.shared_prompts import Softmax
from r1jax.sharding import rules
from r1jax.sharding.mesh import Place

# Named scopes of the loop over a cache's blocks, by which the cost count of the
# compiled program finds it. In the second all but the cache is small enough to
# stay in a processor's own caches.
BLOCKS = "cache_blocks"
NEAR_BLOCKS = f"near_{BLOCKS}"
FEW = 8  # most tokens of a row whose scores of a whole cache are small
# Bytes of a block that a TPU should hold in its vector memory from one product
# to the next: an eighth of what v5e and v6e have.
HELD = 2**24
BLOCK = 512  # slots read at a time, where not all are
LONG = 1024  # slots from which a CPU reads a latent cache row by row


class Reading(NamedTuple):
  """How a step reads the cache.

  Attributes:
    block: slots of all rows that are read at a time, up to the longest length;
      0: all slots at once. Slots of a shared prompt, too.
    row_block: slots of one row that are read at a time, row after row, each up
      to its own length; 0: rows are read together.
  """

  block: int = 0
  row_block: int = 0

  @property
  def slots(self) -> int:
    """Slots of the rows' own cache that are read at a time; 0: all."""
    return self.row_block or self.block


WHOLE = Reading()


def reading(backend: str, tokens: int, slots: int, dtype: jnp.dtype,
            latent: bool = False) -> Reading:
  """How `tokens` tokens of a row read a cache of so many slots.

  By blocks on a TPU, where the slice is fused into the product, and anywhere
  for many tokens, of which the scores of all slots would be the largest array.
  A CPU copies a slice before a product reads it. A long latent cache is read
  row by row all the same: both products find the copy near the processor, and
  rows that are shorter than the longest cost less (up to 2.7 times as fast).
  Keys and values, short caches and bfloat16 gain nothing by it. On GPUs blocks
  were not measured.

  Args:
    backend: cpu, gpu or tpu.
    tokens: of a row.
    slots: of the cache.
    dtype: of the cache.
    latent: whether keys and values are the same array.
  """
  if backend == "tpu" or tokens > FEW:
    return Reading(BLOCK)
  if backend == "cpu" and latent and slots >= LONG and dtype == jnp.float32:
    return Reading(row_block=BLOCK)
  return WHOLE


def by_shard(place: Place | None, f: Callable[..., Any], *rows: Any) -> Any:
  """f(*rows), where a mesh splits rows by every shard for its own.

  So a loop in `f` takes as many turns as the shard's own rows need. Mesh axes
  that do not split rows are left to the compiler.

  Args:
    place: where the model runs; None: on one device.
    f: takes and returns trees like `rows`.
    *rows: trees of arrays whose leading axis is rows, or lanes of rows.
  """
  count = math.gcd(*(x.shape[0] for x in jax.tree.leaves(rows)))
  split = place and rules.fitted(
      ("act_batch",), (count,), place.axes, place.layout)[0]
  names = (split,) if isinstance(split, str) else split or ()
  if math.prod(place.axes[name] for name in names) == 1:
    return f(*rows)
  return jax.shard_map(
      f, axis_names=set(names), in_specs=PartitionSpec(names),
      out_specs=PartitionSpec(names), check_vma=False)(*rows)


def each_token(lengths_B: jax.Array, tokens: int, heads: int) -> jax.Array:
  """Number of slots that each query attends to, int32 [B, tokens * heads].

  [B, 1] if there is only one token.
  """
  if tokens == 1:
    return lengths_B[:, None]
  return lengths_B[:, None] + jnp.repeat(jnp.arange(tokens), heads)[None]


class Heads(NamedTuple):
  """The products of attention, for some rows and a part of their cache.

  Attributes:
    score: (queries, part) -> float32 scores [B, ..., slots of the part].
    mix: (weights, part) -> float32 weighted sum of values [B, ..., W].
    seen: number of slots that the row's first token attends to, int32 [B], at
      least 1 -> that of each query, [B, ...], to be broadcast.
    tokens: of a row; each attends to one slot more than the one before.
    width: W.
  """

  score: Callable[[jax.Array, Any], jax.Array]
  mix: Callable[[jax.Array, Any], jax.Array]
  seen: Callable[[jax.Array], jax.Array]
  tokens: int
  width: int


def over_slots(heads: Heads, q: jax.Array, cache: Any, slot_axes: Any,
               lengths_B: jax.Array, how: Reading,
               begun: Softmax | None = None, hold: int = 0) -> jax.Array:
  """Softmax attention over the slots of a cache.

  The softmax over blocks is the online one of arXiv:1805.02867: the sum so far
  is rescaled when a block has a larger score. So it may go on from one over
  other slots.

  Args:
    heads: the products.
    q: queries [B, ..., X].
    cache: tree of arrays [B, ...].
    slot_axes: tree like `cache`, the axis of slots in every leaf.
    lengths_B: int32, see `Heads.seen`.
    how: way of reading the cache.
    begun: the softmax over the slots of a shared prompt, if there is one.
    hold: most bytes of a block that is read once for both products.

  Returns:
    float32 [B, ..., W].
  """
  slots = jax.tree.leaves(jax.tree.map(
      lambda x, axis: x.shape[axis], cache, slot_axes))[0]
  block = min(how.slots or slots, slots)

  def index(size):
    return jnp.arange(size).reshape((1,) * (q.ndim - 1) + (size,))

  if block == slots and not how.row_block:
    found = jnp.where(index(slots) < heads.seen(lengths_B)[..., None],
                      heads.score(q, cache), -jnp.inf)
    if begun is not None:
      done = begun.further(found, lambda exps: heads.mix(exps, cache))
      return done.mixed / done.total
    exps = jnp.exp(found - jnp.max(found, -1, keepdims=True))
    # Normalised after the product, which has fewer columns than the weights.
    return heads.mix(exps, cache) / jnp.sum(exps, -1, keepdims=True)

  def by_blocks(first, q, lengths_B, begun):
    """The rows from `first` on; block by block up to the longest of them."""
    seen = heads.seen(lengths_B)[..., None]

    def further(i, state):
      # The last block may overlap the one before; the mask leaves that out.
      start = jnp.minimum(i * block, slots - block)
      at = start + index(block)
      part = shared_prompts.held(jax.tree.map(
          lambda x, axis: shared_prompts.cut(
              x, first, len(q), axis, start, block), cache, slot_axes), hold)
      found = jnp.where((at >= i * block) & (at < seen), heads.score(q, part),
                        -jnp.inf)
      return state.further(found, lambda exps: heads.mix(exps, part))

    longest = jnp.max(lengths_B) + heads.tokens - 1
    if begun is None:
      begun = Softmax.begun(q.shape[:-1], heads.width)
    with jax.named_scope(NEAR_BLOCKS if how.row_block else BLOCKS):
      done = jax.lax.fori_loop(
          0, (longest + block - 1) // block, further, begun)
    return done.mixed / done.total

  if not how.row_block:
    return by_blocks(0, q, lengths_B, begun)

  def row(b, out):
    own = jax.tree.map(lambda x: jax.lax.dynamic_slice_in_dim(x, b, 1),
                       (q, lengths_B, begun))
    return jax.lax.dynamic_update_slice_in_dim(out, by_blocks(b, *own), b, 0)

  return jax.lax.fori_loop(0, len(q), row, jnp.zeros(
      (*q.shape[:-1], heads.width), jnp.float32))
