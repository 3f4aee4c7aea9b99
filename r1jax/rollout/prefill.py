"""The compiled program that reads prompts into caches of their own."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp

from r1jax.models.model import Model
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
    self._drafts, self._axes = drafts, model.cache_axes(drafts)

  def parts(self, prompts: int, length: int) -> int:
    """Parts in which `prompts` prompts of all lanes, padded, are prefilled."""
    return -(-prompts * length // (self._lanes * PART))

  def run(self, params, bias_LE, tokens_NP, lengths_N):
    """(cache, experts_NPLA or None) of N prompts, right-padded to P tokens."""
    whole = functools.partial(
        self._model.prefill, params, bias_LE, tokens_NP, lengths_N,
        drafts=self._drafts)
    parts = self.parts(*tokens_NP.shape)
    _, cache, experts = whole() if parts == 1 else jax.eval_shape(whole)
    experts = experts if self._cfg.record_experts else None
    if parts > 1:
      cache, experts = self._in_parts(
          params, bias_LE, tokens_NP, parts, (cache, experts))
    return constrained(self._axes, cache), experts

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
      at_N, longest = jnp.full((n,), start), start + size
      hidden, cache, chosen = model.read(
          params, bias_LE, tokens_NT, at_N, cache, longest)
      if self._drafts:
        _, drafted = model.propose(
            params, bias_LE, hidden, next_NT, at_N, cache[-1], longest)
        cache = (*cache[:-1], drafted)
      if experts is not None:
        experts = jax.lax.dynamic_update_slice_in_dim(
            experts, chosen, start, 1)
      return constrained(self._axes, cache), experts

    cache, experts = jax.tree.map(
        lambda x: jnp.zeros(x.shape, x.dtype), shapes)
    return jax.lax.fori_loop(
        0, parts, read, (constrained(self._axes, cache), experts))


def constrained(axes: Any, tree: Any) -> Any:
  """The tree with the shardings of `axes`, its leaves' logical axis names."""
  return jax.tree.map(lambda names, x: rules.constrain(x, names, "decode"),
                      axes, tree, is_leaf=rules.is_axes)
