"""The compiled programs of the engine: prefill, insert, decode, resize.

A row of the batch holds one sample at a time. The token at position i is in
slot i of the row's KV cache. A row starts with a copy of its prompt's cache and
with the prompt's last token unread, so that decoding samples the first token
like every other.

Or a prompt's cache is kept once, beside the rows, and decoding reads it once
for all rows that continue the prompt (`ops/shared_prompts.py`). Then a row's
own cache begins with the prompt's last token: it needs as many slots as there
are new tokens.

Rows are grouped into lanes of equal size, stored one after the other. A lane
lies on one shard of the mesh and belongs to one process; no data move between
lanes.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from r1jax.core import keys as keys_lib
from r1jax.core.config import check
from r1jax.models.model import Model, Params
from r1jax.ops import cached, moving, paged, shared_prompts
from r1jax.ops.linear import rows_times
from r1jax.rollout.insertion import copied
from r1jax.rollout.prefill import Prefill, constrained
from r1jax.rollout.sampling import SamplingConfig, sample, sample_each
from r1jax.sharding import rules

# The most drafts of a row that one pass reads, with the latest token.
DEEPEST = cached.FEW - 1
CHUNK = 128  # the most tokens that one call of `decode` samples per row


class Continued(NamedTuple):
  """What a row continues, if prompts are shared.

  Attributes:
    prompts_B: int32, index of its prompt among those of its lane.
    held_B: int32, positions that this prompt's cache holds: all but its last.
  """

  prompts_B: jax.Array
  held_B: jax.Array


class Rows(NamedTuple):
  """Device state of all rows; B is the leading axis of every leaf.

  Attributes:
    cache: the model's KV cache, a tuple of layers with S slots.
    keys_B: each sample's key, which is folded with the index of its token.
    positions_B: int32, position of the row's latest token, which the model has
      not read yet.
    last_B: int32, that token.
    sampled_B, limits_B: int32, tokens sampled so far, and the most.
    done_B: bool, the sample has ended or reached its limit, or the row is
      empty.
    ended_B: bool, the last token is an end-of-sequence id.
    drafts_BK: int32, the drafted tokens after the latest; -1 for none.
    shared: what each row continues, where prompts are shared; else None.
  """

  cache: Any
  keys_B: jax.Array
  positions_B: jax.Array
  last_B: jax.Array
  sampled_B: jax.Array
  limits_B: jax.Array
  done_B: jax.Array
  ended_B: jax.Array
  drafts_BK: jax.Array
  shared: Continued | None = None

  def slots_B(self, positions_B: jax.Array) -> jax.Array:
    """The slots of these positions in the rows' own cache."""
    return (positions_B if self.shared is None
            else positions_B - self.shared.held_B)


class Fill(NamedTuple):
  """New samples to insert into rows; B is the leading axis of every leaf.

  Attributes:
    fill_B: bool, rows that take a new sample; the rest describes it.
    sources_B: int32, index of its prompt among the lane's prefilled, or shared,
      prompts.
    lengths_B, last_B: int32, number of the prompt's tokens, and its last token.
    limits_B: int32, the most tokens of the completion.
    ids_B, numbers_B: uint32, the prompt's id and the sample's number, which
      address its randomness.
  """

  fill_B: Any
  sources_B: Any
  lengths_B: Any
  last_B: Any
  limits_B: Any
  ids_B: Any
  numbers_B: Any


class Drawn(NamedTuple):
  """Sampling settings of each row; float32 [B] each."""

  temperature_B: Any
  top_p_B: Any


class Sampled(NamedTuple):
  """What one call of `decode` sampled.

  Only a row's first entries, as many as it has new tokens, are defined.

  Attributes:
    tokens: int32 [B, CHUNK].
    logprobs: float32 [B, CHUNK].
    experts: int32 [B, CHUNK, L, A], the experts of the token that was read to
      sample each of these; None unless recorded.
    rounds_BT: int32, forward passes that gave the row more than t tokens: at
      index 0 all of them, at index t those whose first t drafts were right.
  """

  tokens: jax.Array
  logprobs: jax.Array
  experts: jax.Array | None
  rounds_BT: jax.Array


class Programs:
  """The engine's jitted functions, each compiled once per set of shapes.

  Attributes:
    depth: tokens that are drafted.
    packs: whether `prefill` may read rows of several prompts.
  """

  def __init__(self, model: Model, cfg: SamplingConfig, eos_ids: np.ndarray,
               lanes: int, *, depth: int = 0, platform: str = ""):
    """Jits the functions; nothing is compiled before the first call.

    Args:
      model: in the decode layout.
      cfg: sampling settings.
      eos_ids: int32, a row ends with the first of these.
      lanes: number of lanes.
      depth: tokens that the multi-token prediction module drafts after the next
        one (arXiv:2412.19437, 5.4.3); at depths beyond one it reads its own
        state and draft. Departure: a draft is drawn with its token's own key
        and is accepted if the model draws the same token, not by its
        probability, so that samples are those without drafts.
      platform: cpu, gpu or tpu, where the functions run.

    Raises:
      ValueError: the model has no such module, or the depth is out of range.
    """
    check(0 <= depth <= DEEPEST, f"speculate={depth} is the number of drafted"
          f" tokens, 0 to {DEEPEST}")
    check(model.cfg.n_mtp > 0 or not depth, f"speculate={depth} needs a model"
          " with a multi-token prediction module; this one has none: leave the"
          " flag out")
    self.depth = depth
    self._model, self._cfg, self._eos, self._lanes = model, cfg, eos_ids, lanes
    lean = _options(platform, model.compute.dtype)
    prefill = Prefill(model, cfg, lanes, depth > 0)
    self.parts = prefill.parts
    # It reads no head, but whoever counts its arguments need not know that.
    self.prefill = jax.jit(
        prefill.run, keep_unused=True, compiler_options=lean)
    self.packs = model.compute.packed
    self.unpack = jax.jit(prefill.unpack, static_argnames=("length", "width"))
    self.empty = jax.jit(
        self._empty, static_argnames=("rows", "slots", "shared"))
    self.insert = jax.jit(self._insert, donate_argnames=("rows",))
    self.keep = jax.jit(self._keep, donate_argnames=("kept",))
    self._unjoined = jax.jit(lambda cache: self._split(
        tuple(paged.apart(layer) for layer in cache)))
    self.decode = jax.jit(
        self._decode, donate_argnames=("rows",), static_argnames=("samples",),
        compiler_options=lean)
    self.end = jax.jit(_end, donate_argnames=("rows",))
    self.move = jax.jit(self._move, static_argnames=("slots",))
    self.pick = jax.jit(self._pick)

  def compilations(self) -> int:
    """Programs compiled so far."""
    # jit has no public counter.
    return sum(f._cache_size() for f in (
        self.prefill, self.unpack, self.empty, self.insert, self.keep,
        self.decode, self.end, self.move, self.pick, self._unjoined))

  @property
  def ahead(self) -> int:
    """Slots beyond that of the latest token which a step of `decode` may use.

    After a step whose drafts were all right, the module's own entries follow.
    """
    return max(0, 2 * self.depth - 1)

  def axes(self, rows: Rows) -> Rows:
    """Logical axis names of every leaf of `rows`, from which shardings follow.
    """
    return Rows(self._model.cache_axes(rows.cache),
                *jax.tree.map(_batch_axes, tuple(rows[1:])))

  def _split(self, cache: Any) -> Any:
    """The cache, split over the mesh by its axes."""
    return constrained(self._model.cache_axes(cache), cache)

  def _empty(self, cache, key, *, rows: int, slots: int, shared: bool = False
             ) -> Rows:
    """`rows` empty rows with `slots` slots, shaped like the prompts' `cache`.

    `shared` says that their prompts will be beside them.
    """
    grown = jax.eval_shape(lambda c: self._model.grow(c, slots), cache)
    zeros_B = jnp.zeros((rows,), jnp.int32)
    return self._placed(Rows(
        cache=jax.tree.map(
            lambda x: jnp.zeros((rows, *x.shape[1:]), x.dtype), grown),
        keys_B=jnp.broadcast_to(key, (rows,)), positions_B=zeros_B,
        last_B=zeros_B, sampled_B=zeros_B, limits_B=zeros_B,
        done_B=zeros_B == 0, ended_B=zeros_B > 0,
        drafts_BK=jnp.full((rows, self.depth), -1),
        shared=Continued(zeros_B, zeros_B) if shared else None))

  def _insert(self, rows: Rows, prompts, key, fill: Fill) -> Rows:
    """The rows with new samples inserted where `fill` says so.

    `prompts` is the prefilled cache, with equally many prompts of each lane, or
    None if prompts are shared; `key` is one for all samples, or one per row.
    """
    keys_B = jax.vmap(keys_lib.fold, (0 if key.ndim else None, 0, 0))(
        key, fill.ids_B, fill.numbers_B)
    zeros_B = jnp.zeros_like(fill.lengths_B)
    positions_B = fill.lengths_B - 1
    state = Rows(None, keys_B, positions_B, fill.last_B, zeros_B,
                 fill.limits_B, zeros_B > 0, zeros_B > 0,
                 jnp.full_like(rows.drafts_BK, -1), rows.shared and Continued(
                     fill.sources_B, positions_B))
    state = jax.tree.map(
        lambda new, old: jnp.where(
            fill.fill_B[:, None] if old.ndim > 1 else fill.fill_B, new, old),
        state, rows._replace(cache=None))
    cache = rows.cache if prompts is None else self._copied(
        rows.cache, prompts, fill.fill_B, fill.sources_B)
    return self._placed(state._replace(cache=cache))

  def apart(self, cache: Any) -> Any:
    """The prompts' cache in the form in which rows share it."""
    joined = not isinstance(cache[0], tuple) and cache[0].ndim == 4
    return self._unjoined(cache) if joined else cache

  def _keep(self, kept, prompts, fill_B, sources_B):
    """`kept`, the cache of shared prompts, with new ones, see `_copied`."""
    return self._split(self._copied(kept, prompts, fill_B, sources_B))

  def _copied(self, cache, prompts, fill_B, sources_B):
    return copied(cache, prompts, fill_B, sources_B, self._lanes,
                  self._model.place.backend)

  def _decode(self, params: Params, bias_LE, rows: Rows, steps, until,
              floors_S, drawn: Drawn | None = None, kept: Any = None,
              samples: int = 0) -> tuple[Rows, Sampled]:
    """Samples up to `steps` tokens for every live row.

    It stops early when no lane has more than `until` live rows, or when some
    lane s has at most `floors_S[s]`. `drawn` replaces the config's temperature
    and top-p. `kept` is the cache of the prompts that rows share, with at most
    `samples` live rows each.
    """
    # A CPU would convert all of a bfloat16 cache whenever it reads a part.
    kept = moving.bits(self._model.place.backend, kept)
    b, begun_B = len(rows.done_B), rows.sampled_B
    # With drafts a round writes T tokens, of which all but one may be none.
    t = 1 + self.depth
    wide = CHUNK + t if self.depth else CHUNK
    recorded = None
    if self._cfg.record_experts and self._model.cfg.n_experts:
      recorded = jnp.zeros((
          b, wide, self._model.cfg.n_mixture_layers,
          self._model.cfg.n_activated), jnp.int32)
    found = Sampled(jnp.zeros((b, wide), jnp.int32),
                    jnp.zeros((b, wide), jnp.float32), recorded,
                    jnp.zeros((b, t), jnp.int32))

    def more(state):
      rows = state[0]
      live_S = jnp.sum(~self._by_lane(rows.done_B), 1)
      new_B = jnp.where(rows.done_B, 0, rows.sampled_B - begun_B)
      return (jnp.max(new_B) < steps) & (jnp.max(live_S) > until) & jnp.all(
          live_S > floors_S)

    def step(state):
      rows, found = state
      live_B, at_B = ~rows.done_B, rows.sampled_B - begun_B
      # Without drafts all live rows write at the same index; what is written
      # for the others is ignored.
      at = at_B if self.depth else jnp.max(jnp.where(live_B, at_B, 0))
      shared = None if kept is None else shared_prompts.arranged(
          kept, *rows.shared, live_B, self._lanes, samples)
      rows, new_B, *sampled = self._round(params, bias_LE, rows, drawn, shared)
      return rows, Sampled(*(
          None if to is None else _written(to, new, at)
          for to, new in zip(found, sampled)),
          found.rounds_BT + (new_B[:, None] > jnp.arange(t)[None]))

    rows, found = jax.lax.while_loop(more, step, (rows, found))
    found = Sampled(*(None if x is None else x[:, :CHUNK] for x in found[:-1]),
                    found.rounds_BT)
    return self._placed(rows), jax.tree.map(
        lambda x: rules.constrain(x, _batch_axes(x), "decode"), found)

  def _round(self, params, bias_LE, rows: Rows, drawn: Drawn | None, shared):
    """One forward pass: (rows, new_B, tokens_BT, logprobs_BT, experts_BTLA).

    It reads the latest token and the K drafts after it, T tokens. A live row
    gets `new_B` tokens: one, and one more for every draft that was right up to
    the first that was not. Entries after these are undefined.
    """
    model, live_B = self._model, ~rows.done_B
    # A row that is done has the shortest context: nobody reads what it gives.
    at_B = rows.positions_B
    at_B = jnp.where(live_B, at_B, at_B - rows.slots_B(at_B))
    read_BT = jnp.concatenate(
        [rows.last_B[:, None], jnp.maximum(rows.drafts_BK, 0)], 1)
    hidden_BTD, cache, experts = model.read(
        params, bias_LE, read_BT, at_B, rows.cache, shared)
    tokens_BT, logprobs_BT = self._draw(
        params, hidden_BTD, rows.keys_B, rows.sampled_B, drawn)
    ended_BT = jnp.any(tokens_BT[..., None] == self._eos[None, None], -1)
    after_BK = rows.sampled_B[:, None] + 1 + jnp.arange(self.depth)[None]
    right_BK = ((tokens_BT[:, :-1] == rows.drafts_BK) & ~ended_BT[:, :-1]
                & (after_BK < rows.limits_B[:, None]))
    new_B = live_B * (1 + jnp.sum(jnp.cumprod(right_BK, 1), 1))
    sampled_B, ended_B = rows.sampled_B + new_B, _last(ended_BT, new_B)
    rows = rows._replace(
        cache=cache, positions_B=at_B + new_B,
        last_B=jnp.where(live_B, _last(tokens_BT, new_B), rows.last_B),
        sampled_B=sampled_B, ended_B=rows.ended_B | (live_B & ended_B),
        done_B=rows.done_B | ended_B | (sampled_B >= rows.limits_B))
    if self.depth:
      rows = self._draft(
          params, bias_LE, rows, hidden_BTD, tokens_BT, new_B, drawn, shared)
    return rows, new_B, tokens_BT, logprobs_BT, experts

  def _draft(self, params, bias_LE, rows: Rows, hidden_BTD, tokens_BT, new_B,
             drawn: Drawn | None, shared) -> Rows:
    """The rows after a round with new drafts.

    First the module reads what the model has read: then its cache has, for
    every token before the latest, what it has at depth one. For each further
    draft it reads its own state and the draft before. What this adds to its
    cache is overwritten in the next round before it is read.
    """
    model, at_B, cache = self._model, rows.positions_B, rows.cache[-1]
    state_BTD, cache = model.propose(
        params, bias_LE, hidden_BTD, tokens_BT, at_B - new_B, cache, shared)
    state_BTD, drafts = _last(state_BTD, new_B)[:, None], []
    for number in range(self.depth):
      if number:
        state_BTD, cache = model.propose(
            params, bias_LE, state_BTD, drafts[-1], at_B + number - 1, cache,
            shared)
      drafts.append(self._draw(params, state_BTD, rows.keys_B,
                               rows.sampled_B + number, drawn)[0])
    return rows._replace(cache=(*rows.cache[:-1], cache),
                         drafts_BK=jnp.concatenate(drafts, 1))

  def _draw(self, params, hidden_BTD, keys_B, numbers_B, drawn: Drawn | None):
    """(tokens_BT, logprobs_BT); the first is token `numbers_B` of its sample.
    """
    b, t, _ = hidden_BTD.shape
    logits = rows_times(
        hidden_BTD.reshape(b * t, -1),
        self._model.head(params).astype(hidden_BTD.dtype),
        precision=self._model.compute.products,
        preferred_element_type=jnp.float32)
    # Else a TPU merges the product with the blocks of the draw, for which it
    # copies the head into another layout.
    logits = jax.lax.optimization_barrier(logits)
    numbers = (numbers_B[:, None] + jnp.arange(t)[None]).reshape(-1)
    keys = jax.vmap(jax.random.fold_in)(jnp.repeat(keys_B, t), numbers)
    draw, how = (sample, (self._cfg.temperature, self._cfg.top_p)) if (
        drawn is None) else (sample_each, (jnp.repeat(x, t) for x in drawn))
    tokens, logprobs = draw(logits, keys, *how, self._cfg.vocab)
    return tokens.reshape(b, t), logprobs.reshape(b, t)

  def _move(self, layer, kept_B, *, slots: int):
    """A layer's cache for a new selection of rows, with `slots` slots.

    Args:
      layer: the layer's cache.
      kept_B: int32, for every new row the index of its old row in the lane.
      slots: at least the present number.
    """
    kept = jax.tree.map(lambda x: self._kept(x, kept_B), layer)
    return self._split(self._model.grow((kept,), slots))[0]

  def _pick(self, state, kept_B):
    """The rows' state without the cache for a new selection, see `_move`."""
    return jax.tree.map(lambda x: rules.constrain(
        self._kept(x, kept_B), _batch_axes(x), "decode"), state)

  def _kept(self, x, kept_B):
    some = jax.vmap(functools.partial(
        moving.rows, self._model.place.backend))(
            self._by_lane(x), self._by_lane(kept_B))
    return some.reshape(len(kept_B), *x.shape[1:])

  def _by_lane(self, x: jax.Array) -> jax.Array:
    """[B, ...] -> [lanes, B / lanes, ...]."""
    return x.reshape(self._lanes, x.shape[0] // self._lanes, *x.shape[1:])

  def _placed(self, rows: Rows) -> Rows:
    return constrained(self.axes(rows), rows)


def _options(platform: str, dtype: str) -> dict[str, str | bool] | None:
  """XLA's options for loops over tokens that compute in `dtype`.

  On a CPU it looks tokens up in a float32 copy of a bfloat16 table, which it
  would make before the loop and keep. And it would leave out roundings between
  operations, not the same ones for one token of a row as for several, so that
  more samples would depend on drafts.
  """
  if platform != "cpu" or dtype != "bfloat16":
    return None
  return {"xla_disable_hlo_passes": "while-loop-invariant-code-motion",
          "xla_allow_excess_precision": False}


def _batch_axes(x: jax.Array) -> tuple[str | None, ...]:
  """Logical axis names of an array whose leading axis is rows."""
  return ("act_batch",) + (None,) * (x.ndim - 1)


def _last(x_BT: jax.Array, new_B: jax.Array) -> jax.Array:
  """[B, T, ...] -> [B, ...], every row's entry `new_B` - 1, at least 0."""
  at = jnp.maximum(new_B - 1, 0).reshape(-1, *(1,) * (x_BT.ndim - 1))
  return jnp.take_along_axis(x_BT, at, 1)[:, 0]


def _end(rows: Rows, which_B: jax.Array) -> Rows:
  """The rows, with those of `which_B` done."""
  return rows._replace(done_B=rows.done_B | which_B)


def _written(to: jax.Array, new: jax.Array, at: jax.Array) -> jax.Array:
  """Writes [B, T, ...] into [B, CHUNK, ...] from column `at`, int or [B]."""
  if not at.ndim:
    return jax.lax.dynamic_update_slice_in_dim(to, new, at, 1)
  return jax.vmap(lambda row, part, first: (
      jax.lax.dynamic_update_slice_in_dim(row, part, first, 0)))(to, new, at)
