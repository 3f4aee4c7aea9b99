"""The compiled program that reads prompts into caches of their own."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp

from r1jax.models.model import Model
from r1jax.ops import moving
from r1jax.rollout.sampling import SamplingConfig
from r1jax.sharding import rules

# The most tokens of a lane's prompts, padding included, that prefill computes
# at once: the activations of more would take the memory of the rows.
PART = 4096


class Prefill:
  """Prefill of the prompts of all lanes, a function to be jitted."""

  def __init__(self, model: Model, cfg: SamplingConfig, lanes: int,
               drafts: bool):
    """See `Programs`; `drafts` adds the cache of the module that drafts."""
    self._model, self._cfg, self._lanes = model, cfg, lanes
    self._drafts = drafts

  def parts(self, prompts: int, length: int) -> int:
    """Parts in which `prompts` prompts of all lanes, padded, are prefilled."""
    return -(-prompts * length // (self._lanes * PART))

  def run(self, params, bias_LE, tokens_NP, lengths):
    """(cache, experts_NPLA or None) of N rows of prompts, see `Model.prefill`.

    In parts, every row must have one prompt.
    """
    whole = functools.partial(
        self._model.prefill, params, bias_LE, tokens_NP, lengths,
        drafts=self._drafts)
    parts = self.parts(*tokens_NP.shape)
    _, cache, experts = whole() if parts == 1 else jax.eval_shape(whole)
    experts = experts if self._cfg.record_experts else None
    if parts > 1:
      cache, experts = self._in_parts(
          params, bias_LE, tokens_NP, parts, (cache, experts))
    return self._split(cache), experts

  def _in_parts(self, params, bias_LE, tokens_NP, parts: int, shapes):
    """(cache, experts), which have `shapes`, of prompts read part by part.

    A part attends to the cache that the parts before it have filled, so that
    there are never more activations than those of one part.
    """
    model, (n, p), following_NP = (
        self._model, tokens_NP.shape, jnp.roll(tokens_NP, -1, 1))
    size = -(-p // parts)

    def read(i, state):
      cache, experts = state
      # The last part may overlap the one before: the same values again.
      start = jnp.minimum(i * size, p - size)
      tokens_NT, next_NT = (jax.lax.dynamic_slice_in_dim(x, start, size, 1)
                            for x in (tokens_NP, following_NP))
      at_N = jnp.full((n,), start)
      hidden, cache, chosen = model.read(
          params, bias_LE, tokens_NT, at_N, cache)
      if self._drafts:
        _, drafted = model.propose(
            params, bias_LE, hidden, next_NT, at_N, cache[-1])
        cache = (*cache[:-1], drafted)
      if experts is not None:
        experts = jax.lax.dynamic_update_slice_in_dim(
            experts, chosen, start, 1)
      return self._split(cache), experts

    cache, experts = jax.tree.map(
        lambda x: jnp.zeros(x.shape, x.dtype), shapes)
    return jax.lax.fori_loop(
        0, parts, read, (self._split(cache), experts))

  def unpack(self, cache, experts, rows_N, starts_N, *, length: int,
             width: int):
    """What `run` returns for packed rows, as `width` slots of each prompt.

    Behind a prompt's end come other prompts of its row, then zeros.

    Args:
      cache, experts: of equally many rows of every lane.
      rows_N, starts_N: int32, each prompt's row among those of its lane, and
        the index of its first token in this row.
      length: tokens of a row.
      width: slots of the longest prompt, or more.
    """
    packed = moving.bits(self._model.place.backend, (cache, experts))
    # A slice that reached over the end would be moved to fit.
    wide = self._model.grow(packed[0], length + width), jax.tree.map(
        lambda x: jnp.pad(x, ((0, 0), (0, width), (0, 0), (0, 0))), packed[1])
    axes = jax.tree.map(
        lambda x, y: [m == n for m, n in zip(x.shape, y.shape)].index(False),
        packed, wide)
    lanes = jax.tree.map(self._by_lane, wide)

    def one(at):
      return jax.tree.map(lambda x, axis: jax.vmap(functools.partial(
          _cut, axis=axis, width=width))(x, *at), lanes, axes)

    found = jax.lax.map(one, (
        self._by_lane(rows_N).T, self._by_lane(starts_N).T))
    cache, experts = moving.values(jax.tree.map(
        lambda x: x.swapaxes(0, 1).reshape(-1, *x.shape[2:]), found))
    return self._split(cache), experts

  def _split(self, cache: Any) -> Any:
    """The cache, split over the mesh by its axes."""
    return constrained(self._model.cache_axes(cache), cache)

  def _by_lane(self, x: jax.Array) -> jax.Array:
    """[N, ...] -> [lanes, N / lanes, ...]."""
    return x.reshape(self._lanes, -1, *x.shape[1:])


def _cut(x, row, start, *, axis: int, width: int):
  """`width` slots of a row from `start` on; `axis` is that of the slots."""
  begin, size = [0] * x.ndim, [1, *x.shape[1:]]
  begin[0], begin[axis], size[axis] = row, start, width
  return jax.lax.dynamic_slice(x, begin, size)[0]


def constrained(axes: Any, tree: Any) -> Any:
  """The tree with the shardings of `axes`, its leaves' logical axis names."""
  return jax.tree.map(lambda names, x: rules.constrain(x, names, "decode"),
                      axes, tree, is_leaf=rules.is_axes)
