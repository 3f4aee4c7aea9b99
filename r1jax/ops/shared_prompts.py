"""Attention of rows to prompts that several rows share.

The KV cache of a prompt is kept once, beside the rows, and a decode step reads
it once for all rows that continue it: their queries are the rows of one matrix
product. What comes out is a softmax that is not finished yet, which each row
goes on with over the slots of its own (`cached.over_slots`).

Rows and prompts are grouped into lanes; a row reads a prompt of its own lane,
so that no data move between lanes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import flax.struct
import jax
import jax.numpy as jnp

from r1jax.ops import moving

# Named scopes of the loop over prompts and of the one over a prompt's blocks,
# by which the cost count of a compiled program finds them.
TURNS, BLOCKS = "shared_prompts", "prompt_blocks"
# Below all scores, yet finite: its difference to itself is 0.
_LEAST = jnp.finfo(jnp.float32).min


class Softmax(NamedTuple):
  """A softmax over some slots that may go on over others (arXiv:1805.02867).

  Attributes:
    top: float32 [..., 1], the largest score, or the least finite number.
    total: float32 [..., 1], sum of exp(score - top).
    mixed: float32 [..., W], sum of exp(score - top) times the values.
  """

  top: jax.Array
  total: jax.Array
  mixed: jax.Array

  @classmethod
  def begun(cls, shape: tuple[int, ...], width: int) -> Softmax:
    """Over no slots, for `shape` queries and values of `width`."""
    empty = jnp.zeros((*shape, 1), jnp.float32)
    return cls(empty + _LEAST, empty, jnp.zeros((*shape, width), jnp.float32))

  def further(self, scores: jax.Array,
              mix: Callable[[jax.Array], jax.Array]) -> Softmax:
    """Goes on with more scores [..., S]; `mix` sums the values by weights."""
    top = jnp.maximum(self.top, jnp.max(scores, -1, keepdims=True))
    exps, fade = jnp.exp(scores - top), jnp.exp(self.top - top)
    return Softmax(
        top, self.total * fade + jnp.sum(exps, -1, keepdims=True),
        self.mixed * fade + mix(exps))


@flax.struct.dataclass
class Shared:
  """The prompts of all lanes and the order in which a pass reads them.

  S is lanes, R the rows of one, K its prompts. Turn i of lane s is for the rows
  `order_SR[s, first_SK[s, i]:]`, which read the prompt `prompts_SK[s, i]`. Rows
  of later prompts may be among them: their own turns come later.

  Attributes:
    cache: of the prompts, of all layers or of one, as `moving.bits`; axis 0 is
      S * K.
    held_B: int32, positions of each row that its prompt's cache holds.
    order_SR: int32, the live rows sorted by prompt, then the others.
    turns_S: int32, prompts of each lane that live rows read.
    prompts_SK, first_SK, lengths_SK: int32, of every turn the prompt, its first
      row in `order_SR`, R if the lane needs no such turn, and the positions in
      the cache.
    rows: the most live rows of a prompt.
  """

  cache: Any
  held_B: jax.Array
  order_SR: jax.Array
  turns_S: jax.Array
  prompts_SK: jax.Array
  first_SK: jax.Array
  lengths_SK: jax.Array
  rows: int = flax.struct.field(pytree_node=False)

  def of(self, layer: int) -> Shared:
    """The same for one layer."""
    return self.replace(cache=self.cache[layer])


def arranged(cache: Any, prompts_B: jax.Array, held_B: jax.Array,
             live_B: jax.Array, lanes: int, rows: int) -> Shared:
  """The order in which a pass reads the prompts of its live rows.

  Args:
    cache: of the prompts, equally many of each lane on axis 0, on a CPU as
      bits, see `moving.bits`: it would convert all to read a part.
    prompts_B: int32, index of every row's prompt in its lane.
    held_B: int32, see `Shared`; rows of one prompt have the same.
    live_B: bool, rows of interest; others get meaningless results.
    lanes: number of lanes.
    rows: the most live rows of one prompt.
  """
  count = jax.tree.leaves(cache)[0].shape[0] // lanes
  prompts_SR, held_SR, live_SR = (
      x.reshape(lanes, -1) for x in (prompts_B, held_B, live_B))
  size = prompts_SR.shape[1]
  prompts_SR = jnp.where(live_SR, prompts_SR, count)
  index_11K = jnp.arange(count)[None, None]
  reads_SRK = prompts_SR[..., None] == index_11K
  needed_SK = jnp.any(reads_SRK, 1)
  # In the order of prompts, those that nobody reads last.
  turn_SK = jnp.argsort(~needed_SK, axis=1, stable=True)
  needed_SK, first_SK, lengths_SK = (
      jnp.take_along_axis(x, turn_SK, 1) for x in (
          needed_SK, jnp.sum(prompts_SR[..., None] < index_11K, 1),
          jnp.max(jnp.where(reads_SRK, held_SR[..., None], 0), 1)))
  return Shared(
      cache, held_B, jnp.argsort(prompts_SR, axis=1, stable=True),
      jnp.sum(needed_SK, 1), turn_SK,
      jnp.where(needed_SK, first_SK, size), lengths_SK, min(rows, size))


def over_prompts(shared: Shared, q: jax.Array, axis: int, slot_axes: Any,
                 score: Callable[[jax.Array, Any], jax.Array],
                 mix: Callable[[jax.Array, Any], jax.Array], width: int,
                 block: int, hold: int = 0) -> Softmax:
  """Every row's softmax over the slots of its prompt, for all its tokens.

  Args:
    shared: of one layer.
    q: queries [B, ..., X].
    axis: the axis of rows in what `score` and `mix` take and return, where B is
      left out of the other axes.
    slot_axes: tree like the cache, the axis of slots in every leaf.
    score: (queries of some rows, part of one prompt) -> float32 scores
      [..., slots of the part].
    mix: (weights, part) -> float32 weighted sum of values [..., W].
    width: W.
    block: slots of a prompt read at a time; 0 reads all.
    hold: most bytes of a part that is read once for both `score` and `mix`.

  Returns:
    Softmax of [B, ...].
  """
  lanes, size = shared.order_SR.shape
  slots = jax.tree.leaves(jax.tree.map(
      lambda x, at: x.shape[at], shared.cache, slot_axes))[0]
  block = min(block, slots) or slots
  # Loops of several lanes go in step: a lane's own length would make every turn
  # choose between old and new sums.
  turns = jnp.max(shared.turns_S)
  blocks_K = jnp.max(-(-shared.lengths_SK // block), 0)

  def lane(cache, order_R, prompts_K, first_K, lengths_K, q):
    # The last turns' rows may reach beyond the last row.
    q = jnp.moveaxis(q[order_R], 0, axis)
    q = jnp.pad(q, [(0, shared.rows * (i == axis)) for i in range(q.ndim)])

    def turn(i, state):
      some = jax.lax.dynamic_slice_in_dim(q, first_K[i], shared.rows, axis)

      def further(j, found):
        # The last block may overlap the one before; the mask leaves that out.
        start = jnp.minimum(j * block, slots - block)
        part = held(jax.tree.map(
            lambda x, at: moving.values(
                cut(x, prompts_K[i], 1, at, start, block)[0]),
            cache, slot_axes), hold)
        at = start + jnp.arange(block)
        seen = (at >= j * block) & (at < lengths_K[i])
        scores = score(some, part)
        return found.further(
            jnp.where(seen.reshape((1,) * (scores.ndim - 1) + (block,)), scores,
                      -jnp.inf),
            lambda weights: mix(weights, part))

      found = Softmax.begun(some.shape[:-1], width)
      if block == slots:
        found = further(0, found)
      else:
        with jax.named_scope(BLOCKS):
          found = jax.lax.fori_loop(0, blocks_K[i], further, found)
      return jax.tree.map(
          lambda to, new: jax.lax.dynamic_update_slice_in_dim(
              to, new, first_K[i], axis), state, found)

    with jax.named_scope(TURNS):
      state = jax.lax.fori_loop(
          0, turns, turn, Softmax.begun(q.shape[:-1], width))
    back_R = jnp.argsort(order_R)
    return jax.tree.map(lambda x: jnp.moveaxis(x, axis, 0)[back_R], state)

  given = (jax.tree.map(lambda x: x.reshape(lanes, -1, *x.shape[1:]),
                        shared.cache),
           shared.order_SR, shared.prompts_SK, shared.first_SK,
           shared.lengths_SK, q.reshape(lanes, size, *q.shape[1:]))
  if lanes == 1:  # plain slices; under vmap they become gathers and scatters
    return lane(*jax.tree.map(lambda x: x[0], given))
  return jax.tree.map(
      lambda x: x.reshape(lanes * size, *x.shape[2:]), jax.vmap(lane)(*given))


def held(part: Any, hold: int) -> Any:
  """Part of a cache, which several products read from memory once.

  Else a TPU fuses the slice into each product, and reads it for each.

  Args:
    part: tree of arrays.
    hold: most bytes of such a part.
  """
  size = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(part))
  return part if size > hold else jax.lax.optimization_barrier(part)


def cut(x: jax.Array, first: jax.Array | int, count: int, axis: int,
        start: jax.Array, size: int) -> jax.Array:
  """`size` slots, on `axis`, of `count` rows of a cache from `first` on."""
  at, sizes = [0] * x.ndim, list(x.shape)
  at[0], sizes[0], at[axis], sizes[axis] = first, count, start, size
  return jax.lax.dynamic_slice(x, at, sizes)
