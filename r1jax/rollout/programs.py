"""The device side of the engine: slots that are filled, decoded, moved.

A row is a slot for one sample. Its token at position i lies in slot i of its
cache; a row starts with its prompt's cache inserted and the prompt's last token
still to be read, so that decoding samples its first token like every other.

Rows come in lanes, as many in each, one behind the other: a lane lies on one
shard of the mesh and belongs to one process. Nothing here moves between lanes.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from r1jax.core import keys as keys_lib
from r1jax.models.model import Model, Params
from r1jax.rollout.sampling import SamplingConfig, sample, sample_each
from r1jax.sharding import rules

NO_DRAFTS = ("speculate needs a model with a module of multi-token prediction;"
             " this one has none, leave it out")
CHUNK = 128  # most tokens that a run of `decode` samples of a row


class Rows(NamedTuple):
  """Device state of all rows; every leaf leads with B.

  Attributes:
    cache: of the model, a tuple of layers, S slots.
    keys_B: each sample's key, to be folded with the number of its token.
    positions_B: int32, of the row's latest token, which is still to be read.
    last_B: int32, that token.
    sampled_B, limits_B: int32, tokens sampled so far, and the most.
    done_B: bool, the sample has ended or met its limit, or there is none.
    ended_B: bool, its last token is an end-of-sequence id.
    draft_B: int32, the token that is expected behind the latest; -1 for none.
  """

  cache: Any
  keys_B: jax.Array
  positions_B: jax.Array
  last_B: jax.Array
  sampled_B: jax.Array
  limits_B: jax.Array
  done_B: jax.Array
  ended_B: jax.Array
  draft_B: jax.Array


class Fill(NamedTuple):
  """What begins in which row; every leaf leads with B.

  Attributes:
    fill_B: bool, rows that take a new sample. The rest says of which.
    sources_B: int32, its prompt among those of the lane in the prefilled cache.
    lengths_B, last_B: int32, tokens of the prompt, and the last of them.
    limits_B: int32, the longest completion.
    ids_B, numbers_B: uint32, the sample's address.
  """

  fill_B: Any
  sources_B: Any
  lengths_B: Any
  last_B: Any
  limits_B: Any
  ids_B: Any
  numbers_B: Any


class Drawn(NamedTuple):
  """How tokens are drawn where rows differ; float32 [B] each."""

  temperature_B: Any
  top_p_B: Any


class Sampled(NamedTuple):
  """What one run of `decode` sampled; every leaf leads with [B, CHUNK].

  A row's tokens are the first; behind them lies nothing of meaning.

  Attributes:
    tokens: int32.
    logprobs: float32.
    experts: int32 [..., L, A], of the token that was read before each of these;
      None unless recorded.
    rounds_B: int32 [B], how often the model was asked for them; fewer than
      tokens where drafts were right.
  """

  tokens: jax.Array
  logprobs: jax.Array
  experts: jax.Array | None
  rounds_B: jax.Array


class Programs:
  """The engine's compiled functions, each compiled once for a set of shapes."""

  def __init__(self, model: Model, cfg: SamplingConfig, eos_ids: np.ndarray,
               lanes: int, *, drafts: bool = False):
    """Prepares, without compiling yet.

    Args:
      model: in the layout of decoding.
      cfg: how tokens are drawn.
      eos_ids: int32, a row ends with the first of these.
      lanes: that the rows come in.
      drafts: multi-token prediction drafts the token after the next, by that
        token's own key, and the model reads both. A draft is taken if the model
        draws the same, so that samples are those without (arXiv:2412.19437,
        5.4.3, uses it; there a draft is accepted by its probability).
    """
    self._drafts = drafts
    self._model, self._cfg, self._eos, self._lanes = model, cfg, eos_ids, lanes
    self.prefill = jax.jit(self._prefill)
    self.empty = jax.jit(self._empty, static_argnames=("rows", "slots"))
    self.insert = jax.jit(self._insert, donate_argnames=("rows",))
    self.decode = jax.jit(self._decode, donate_argnames=("rows",))
    self.move = jax.jit(self._move, static_argnames=("slots",))
    self.pick = jax.jit(self._pick)

  def compilations(self) -> int:
    """Programs compiled so far."""
    # jit's own counter; there is no public one.
    return sum(f._cache_size() for f in (
        self.prefill, self.empty, self.insert, self.decode, self.move,
        self.pick))

  def axes(self, rows: Rows) -> Rows:
    """Logical axis names of every leaf of `rows`: how a mesh splits them."""
    return Rows(self._axes, *(("act_batch",) for _ in rows[1:]))

  @property
  def _axes(self) -> Any:
    return self._model.cache_axes(self._drafts)

  def _prefill(self, params, bias_LE, tokens_NP, lengths_N):
    """(cache of N prompts, experts_NPLA or None), all right-padded to P."""
    _, cache, experts = self._model.prefill(
        params, bias_LE, tokens_NP, lengths_N, drafts=self._drafts)
    cache = _constrained(self._axes, cache)
    return cache, experts if self._cfg.record_experts else None

  def _empty(self, cache, key, *, rows: int, slots: int) -> Rows:
    """So many rows without a sample, for a cache like `cache`."""
    grown = jax.eval_shape(lambda c: self._model.grow(c, slots), cache)
    zeros_B = jnp.zeros((rows,), jnp.int32)
    return self._placed(Rows(
        cache=jax.tree.map(
            lambda x: jnp.zeros((rows, *x.shape[1:]), x.dtype), grown),
        keys_B=jnp.broadcast_to(key, (rows,)), positions_B=zeros_B,
        last_B=zeros_B, sampled_B=zeros_B, limits_B=zeros_B,
        done_B=zeros_B == 0, ended_B=zeros_B > 0, draft_B=zeros_B - 1))

  def _insert(self, rows: Rows, prompts, key, fill: Fill) -> Rows:
    """The rows with new samples where `fill` says so.

    `prompts` is the prefilled cache, as many prompts for each lane; `key` is
    that of all samples, or one a row.
    """
    keys_B = jax.vmap(keys_lib.fold, (0 if key.ndim else None, 0, 0))(
        key, fill.ids_B, fill.numbers_B)
    zeros_B = jnp.zeros_like(fill.lengths_B)
    state = Rows(None, keys_B, fill.lengths_B - 1, fill.last_B, zeros_B,
                 fill.limits_B, zeros_B > 0, zeros_B > 0, zeros_B - 1)
    state = Rows(rows.cache, *(
        jnp.where(fill.fill_B, new, old)
        for new, old in zip(state[1:], rows[1:], strict=True)))
    fill_SR, sources_SR = (
        self._by_lane(x) for x in (fill.fill_B, fill.sources_B))
    order_SR = jnp.argsort(~fill_SR, axis=1, stable=True)
    counts_S = jnp.sum(fill_SR, 1)

    def one(i, cache):
      """Inserts the i-th new sample of every lane that has so many."""
      row_S = order_SR[:, i]
      source_S = jnp.take_along_axis(sources_SR, row_S[:, None], 1)[:, 0]
      at = row_S, source_S, i < counts_S
      if self._lanes == 1:  # a plain copy, where of many it is a scatter
        return jax.tree.map(
            lambda to, new: _put(to, new, *(x[0] for x in at)), cache, prompts)
      return jax.tree.map(
          lambda to, new: jax.vmap(_put)(
              self._by_lane(to), self._by_lane(new), *at).reshape(to.shape),
          cache, prompts)

    cache = jax.lax.fori_loop(0, jnp.max(counts_S), one, rows.cache)
    return self._placed(state._replace(cache=cache))

  def _decode(self, params: Params, bias_LE, rows: Rows, steps, until,
              floors_S, drawn: Drawn | None = None) -> tuple[Rows, Sampled]:
    """Samples up to `steps` tokens of every live row.

    It stops earlier when at most `until` rows live in the fullest lane, and
    when in some lane s at most `floors_S[s]` do. `drawn` takes the place of the
    configuration's temperature and top-p.
    """
    b, begun_B = len(rows.done_B), rows.sampled_B
    # With drafts a round may write a token more than it samples.
    wide = CHUNK + 2 if self._drafts else CHUNK
    recorded = None
    if self._cfg.record_experts and self._model.cfg.n_experts:
      recorded = jnp.zeros((
          b, wide, self._model.cfg.n_mixture_layers,
          self._model.cfg.n_activated), jnp.int32)
    found = Sampled(jnp.zeros((b, wide), jnp.int32),
                    jnp.zeros((b, wide), jnp.float32), recorded,
                    jnp.zeros((b,), jnp.int32))

    def more(state):
      rows = state[0]
      live_S = jnp.sum(~self._by_lane(rows.done_B), 1)
      new_B = jnp.where(rows.done_B, 0, rows.sampled_B - begun_B)
      return (jnp.max(new_B) < steps) & (jnp.max(live_S) > until) & jnp.all(
          live_S > floors_S)

    def step(state):
      rows, found = state
      live_B, new_B = ~rows.done_B, rows.sampled_B - begun_B
      rows, *sampled = self._round(params, bias_LE, rows, drawn)
      # Without drafts live rows are equally far, and where others write has no
      # meaning.
      at = new_B if self._drafts else jnp.max(jnp.where(live_B, new_B, 0))
      return rows, Sampled(*(
          None if to is None else _written(to, new, at)
          for to, new in zip(found, sampled)), found.rounds_B + live_B)

    rows, found = jax.lax.while_loop(more, step, (rows, found))
    found = Sampled(*(None if x is None else x[:, :CHUNK] for x in found[:-1]),
                    found.rounds_B)
    return self._placed(rows), jax.tree.map(
        lambda x: rules.constrain(
            x, ("act_batch",) + (None,) * (x.ndim - 1), "decode"), found)

  def _round(self, params, bias_LE, rows: Rows, drawn: Drawn | None):
    """(rows, tokens_BT, logprobs_BT, experts_BTLA) after a token of each.

    Or after two, where the draft was right. What lies behind a row's new tokens
    has no meaning.
    """
    model, live_B, at_B = self._model, ~rows.done_B, rows.positions_B
    read_BT = rows.last_B[:, None]
    if self._drafts:
      read_BT = jnp.stack([rows.last_B, jnp.maximum(rows.draft_B, 0)], 1)
    longest = (jnp.max(jnp.where(live_B, at_B, 0)) + read_BT.shape[1])
    hidden_BTD, cache, experts = model.read(
        params, bias_LE, read_BT, at_B, rows.cache, longest)
    tokens_BT, logprobs_BT = self._draw(
        params, hidden_BTD, rows.keys_B, rows.sampled_B, drawn)
    ended_BT = jnp.any(tokens_BT[..., None] == self._eos[None, None], -1)
    two_B = jnp.zeros_like(live_B)
    if self._drafts:
      two_B = (live_B & (tokens_BT[:, 0] == rows.draft_B) & ~ended_BT[:, 0]
               & (rows.sampled_B + 1 < rows.limits_B))

    def last(x_BT):
      return jnp.where(two_B.reshape(-1, *(1,) * (x_BT.ndim - 2)),
                       x_BT[:, -1], x_BT[:, 0])

    sampled_B = rows.sampled_B + live_B + two_B
    ended_B, draft_B = last(ended_BT), rows.draft_B
    if self._drafts:
      hidden_BTD, drafted = model.propose(
          params, bias_LE, hidden_BTD, tokens_BT, at_B, cache[-1], longest)
      cache = (*cache[:-1], drafted)
      draft_B = self._draw(params, last(hidden_BTD)[:, None], rows.keys_B,
                           sampled_B, drawn)[0][:, 0]
    rows = rows._replace(
        cache=cache, positions_B=at_B + live_B + two_B,
        last_B=jnp.where(live_B, last(tokens_BT), rows.last_B),
        sampled_B=sampled_B, ended_B=rows.ended_B | (live_B & ended_B),
        done_B=rows.done_B | ended_B | (sampled_B >= rows.limits_B),
        draft_B=draft_B)
    return rows, tokens_BT, logprobs_BT, experts

  def _draw(self, params, hidden_BTD, keys_B, numbers_B, drawn: Drawn | None):
    """(tokens_BT, logprobs_BT); a row's first is token `numbers_B` of it."""
    b, t, _ = hidden_BTD.shape
    logits = jnp.dot(
        hidden_BTD.reshape(b * t, -1),
        self._model.head(params).astype(hidden_BTD.dtype),
        precision=self._model.compute.products,
        preferred_element_type=jnp.float32)
    numbers = (numbers_B[:, None] + jnp.arange(t)[None]).reshape(-1)
    keys = jax.vmap(jax.random.fold_in)(jnp.repeat(keys_B, t), numbers)
    draw, how = (sample, (self._cfg.temperature, self._cfg.top_p)) if (
        drawn is None) else (sample_each, (jnp.repeat(x, t) for x in drawn))
    tokens, logprobs = draw(logits, keys, *how, self._cfg.vocab)
    return tokens.reshape(b, t), logprobs.reshape(b, t)

  def _move(self, layer, kept_B, *, slots: int):
    """A layer's cache of other rows, with `slots` slots.

    Args:
      layer: of the cache.
      kept_B: int32, for every new row the one of its lane that it was.
      slots: not fewer than there are.
    """
    kept = jax.tree.map(lambda x: self._kept(x, kept_B), layer)
    (grown,) = self._model.grow((kept,), slots)
    return _constrained(self._axes[0], grown)

  def _pick(self, state, kept_B):
    """What the rows have beside their cache, of other rows; see `_move`."""
    return jax.tree.map(lambda x: rules.constrain(
        self._kept(x, kept_B), ("act_batch",), "decode"), state)

  def _kept(self, x, kept_B):
    some = jax.vmap(lambda x, kept: x[kept])(
        self._by_lane(x), self._by_lane(kept_B))
    return some.reshape(-1, *x.shape[1:])

  def _by_lane(self, x: jax.Array) -> jax.Array:
    """[B, ...] -> [lanes, B / lanes, ...]."""
    return x.reshape(self._lanes, x.shape[0] // self._lanes, *x.shape[1:])

  def _placed(self, rows: Rows) -> Rows:
    return _constrained(self.axes(rows), rows)


def _constrained(axes: Any, tree: Any) -> Any:
  return jax.tree.map(lambda names, x: rules.constrain(x, names, "decode"),
                      axes, tree, is_leaf=rules.is_axes)


def _put(to: jax.Array, new: jax.Array, row: jax.Array, source: jax.Array,
         active: jax.Array) -> jax.Array:
  """`to` with the first slots of a row taken from a row of `new`, if active."""
  part = jax.lax.dynamic_index_in_dim(new, source)
  at = (row,) + (jnp.int32(0),) * (to.ndim - 1)
  now = jax.lax.dynamic_slice(to, at, part.shape)
  return jax.lax.dynamic_update_slice(to, jnp.where(active, part, now), at)


def _written(to: jax.Array, new: jax.Array, at: jax.Array) -> jax.Array:
  """[B, CHUNK, ...] with [B, T, ...] from column `at` on, of all or of each."""
  if not at.ndim:
    return jax.lax.dynamic_update_slice_in_dim(to, new, at, 1)
  return jax.vmap(lambda row, part, first: (
      jax.lax.dynamic_update_slice_in_dim(row, part, first, 0)))(to, new, at)
