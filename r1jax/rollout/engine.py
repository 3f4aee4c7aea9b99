"""Prompts in, completions out: prefill, decode until all rows have ended.

Rows are the Q x G samples of a batch. A prompt's prefill is computed once and
repeated for its G rows: prompts sit right-padded in cache slots [0, P), a
row's i-th new token in slot P + i, the same for all rows. When half of the rows
have ended the rest moves to a batch of half the size, so that a step costs
about what its live rows cost; randomness is addressed by (prompt, sample,
position), so moving changes no sample. A prompt that comes twice has its
samples numbered on, so they differ.

On a mesh every shard of the rows keeps its own: they move within a shard, and
all shards halve together, when the fullest can. Under several processes each
brings its own prompts and takes their samples back; what decides on how the
programs go on is the same number in all of them.
"""

from __future__ import annotations

import collections
import dataclasses
import functools
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from r1jax.core import keys as keys_lib
from r1jax.core.config import check
from r1jax.core.types import Rollout
from r1jax.models.model import Model, Params
from r1jax.rollout.sampling import SamplingConfig, sample
from r1jax.sharding import processes, rules

# Coarse on purpose: every bucket and every size of batch is a compilation.
PROMPT_BUCKET = 64
SMALLEST_BATCH = 64


class Rows(NamedTuple):
  """Device state of a batch of rows; every leaf but `step` leads with B.

  Attributes:
    step: int32 scalar, tokens sampled so far in live rows.
    cache: of the model, P + T slots.
    keys_B: each row's key, to be folded with a position.
    prompt_lengths_B, limits_B, lengths_B: int32.
    slots_B: int32, the row's place in its shard before any halving.
    done_B: bool, the row has ended or met its limit.
    ended_B: bool, the row's last token is an end-of-sequence id.
    last_B: int32, the row's latest token.
    tokens_BT, logprobs_BT: what was sampled.
    experts_BTLA: experts of each decoded token's position, if recorded.
  """

  step: jax.Array
  cache: Any
  keys_B: jax.Array
  prompt_lengths_B: jax.Array
  limits_B: jax.Array
  lengths_B: jax.Array
  slots_B: jax.Array
  done_B: jax.Array
  ended_B: jax.Array
  last_B: jax.Array
  tokens_BT: jax.Array
  logprobs_BT: jax.Array
  experts_BTLA: jax.Array | None


class Engine:
  """Samples completions from a model; knows ids, never text.

  Compiled programs are kept per shape (questions, samples, prompt bucket,
  max_new_tokens, batch of live rows).
  """

  def __init__(self, model: Model, cfg: SamplingConfig, eos_ids: frozenset[int],
               mesh: jax.sharding.Mesh | None = None):
    """Prepares, without compiling yet.

    Args:
      model: what to sample from.
      cfg: how.
      eos_ids: a row ends with the first of these; may be empty.
      mesh: rows are split over its batch axes; None for one device.

    Raises:
      ValueError: an end-of-sequence id lies outside the vocabulary.
    """
    outside = sorted(i for i in eos_ids if not 0 <= i < model.cfg.vocab_size)
    check(not outside, f"end-of-sequence ids {outside} lie outside the model's"
          f" vocabulary of {model.cfg.vocab_size}")
    self.model = dataclasses.replace(model, layout="decode")
    self.cfg, self.mesh = cfg, mesh
    self._eos = np.array(sorted(eos_ids), np.int32)
    self.start_program = jax.jit(
        self._start_rows, static_argnames=("samples", "new"))
    self.run_program = jax.jit(
        self._run_rows, static_argnames=("until",), donate_argnames=("rows",))
    self.shards = 1 if mesh is None else rules.batch_shards(mesh, "decode")
    shards = functools.partial(jax.jit, static_argnames=("shards",))
    self.keep_program = shards(_keep_rows)
    self._store = shards(_store_rows, donate_argnames=("sampled",))

  def compilations(self) -> int:
    """Programs compiled so far, for tests and logs."""
    # jit's own counter; there is no public one.
    return sum(f._cache_size() for f in (
        self.start_program, self.run_program, self.keep_program, self._store))

  def halves(self, rows: int) -> bool:
    """Whether a batch of so many rows gives way to one of half as many."""
    half, odd = divmod(rows, 2 * self.shards)
    return not odd and half * self.shards >= SMALLEST_BATCH

  def generate(self, params: Params, bias_LE: jax.Array,
               prompts: Sequence[np.ndarray], prompt_ids: Sequence[int],
               samples: int, key: jax.Array, *,
               limits_QG: np.ndarray | None = None,
               repeats_Q: Sequence[int] | None = None) -> Rollout:
    """Draws `samples` completions of every prompt.

    Args:
      params: the policy, unstacked (`Model.unstack`); from stacks its layers
        would be copied for every program.
      bias_LE: its router bias.
      prompts: Q arrays of token ids, none empty; under several processes those
        of this one, as many in each.
      prompt_ids: Q addresses below 2**32.
      samples: G.
      key: of the run and step.
      limits_QG: longest completion of each row, 1..max_new_tokens; default
        max_new_tokens.
      repeats_Q: how often each prompt's address was used under this key before:
        its samples are then numbered on from there, and differ. By default that
        is counted in this call, over all processes.

    Raises:
      ValueError: no or empty prompts, or one that with max_new_tokens exceeds
        the model's context, in any process.
    """
    rows, prompt_experts = self._begin(
        params, bias_LE, prompts, prompt_ids, samples, key, limits_QG,
        repeats_Q)
    harvest = self._decode(params, bias_LE, rows)
    return self._rollout(prompts, prompt_ids, samples, harvest, prompt_experts)

  def stream(self, params: Params, bias_LE: jax.Array, prompt: np.ndarray,
             prompt_id: int, key: jax.Array, *, chunk: int = 4
             ) -> Iterator[list[int]]:
    """One completion as it grows: lists of at most `chunk` new ids.

    The same ids as sample 0 of `generate`.
    """
    rows, _ = self._begin(params, bias_LE, [prompt], [prompt_id], 1, key, None,
                          [0])
    shown = 0
    while True:
      length = int(rows.lengths_B[0])
      yield np.asarray(rows.tokens_BT)[0, shown:length].tolist()
      if bool(rows.done_B[0]):
        return
      shown = length
      rows, _ = self.run_program(
          params, bias_LE, rows, shown + chunk, until=0)

  def _begin(self, params, bias_LE, prompts, prompt_ids, samples, key,
             limits_QG, repeats_Q):
    """Checks and pads prompts, then starts their rows."""
    lengths = np.array([len(p) for p in prompts], np.int32)
    new = self.cfg.max_new_tokens
    longest = self._check(lengths, new)
    padded = -(-longest // PROMPT_BUCKET) * PROMPT_BUCKET
    tokens_QP = np.zeros((len(prompts), padded), np.int32)
    for row, prompt in zip(tokens_QP, prompts, strict=True):
      row[:len(prompt)] = prompt
    if limits_QG is None:
      limits_QG = np.full((len(prompts), samples), new, np.int32)
    if repeats_Q is None:
      repeats_Q = _repeats(prompt_ids)
    firsts_Q = np.asarray(repeats_Q, np.uint32) * np.uint32(samples)
    inputs = (tokens_QP, lengths, np.asarray(prompt_ids, np.uint32),
              limits_QG.astype(np.int32))
    return self.start_program(
        params, bias_LE, *(self._place(x) for x in inputs), key,
        self._place(firsts_Q), samples=samples, new=new)

  def _check(self, lengths_Q: np.ndarray, new: int) -> int:
    """Tokens of the longest prompt of all processes, if all are in order."""
    most, fewest, longest, shortest = processes.largest(
        len(lengths_Q), -len(lengths_Q), int(lengths_Q.max(initial=0)),
        -int(lengths_Q.min(initial=2**30)))
    check(most > 0, "there is no prompt to complete")
    check(most == -fewest, f"one process brings {most} prompts, another"
          f" {-fewest}; give as many to each")
    total = most * jax.process_count()
    check(total % self.shards == 0, f"{total} questions do not divide over"
          f" {self.shards} devices; sample a multiple of that at once")

    def name(length):
      indices = np.flatnonzero(lengths_Q == length)
      return (f"prompt {indices[0]}" if indices.size
              else "another process's prompt")

    check(shortest < 0, f"{name(-shortest)} of the batch is empty")
    self.model.cfg.check_length(
        longest + new, f"{name(longest)} of the batch ({longest} tokens) with"
        f" max_new_tokens={new}")
    return longest

  def _place(self, x):
    """The rows of all processes on the devices."""
    if self.mesh is None:
      return jnp.asarray(x)
    return processes.rows(x, rules.batch_sharding(self.mesh, "decode"))

  def _start_rows(self, params, bias_LE, tokens_QP, lengths_Q, ids_Q, limits_QG,
                  key, firsts_Q=None, *, samples, new):
    """Prefills Q prompts, repeats them G times, samples the first tokens.

    `firsts_Q` are the numbers of the prompts' first samples, 0 if None.
    """
    model = self.model
    hidden_QD, cache, experts = model.prefill(
        params, bias_LE, tokens_QP, lengths_Q)
    address = jax.vmap(jax.vmap(keys_lib.fold, (None, None, 0)), (None, 0, 0))
    firsts_Q = jnp.zeros_like(ids_Q) if firsts_Q is None else firsts_Q
    numbers_QG = firsts_Q[:, None] + jnp.arange(samples, dtype=jnp.uint32)[None]
    keys_B = address(key, ids_Q, numbers_QG).reshape(-1)
    repeat = functools.partial(jnp.repeat, repeats=samples, axis=0)
    cache = jax.tree.map(repeat, model.grow(cache, tokens_QP.shape[1] + new))
    b = keys_B.shape[0]
    recorded = None
    if self.cfg.record_experts and experts is not None:
      recorded = jnp.zeros((b, new, *experts.shape[2:]), jnp.int32)
    zeros_B = jnp.zeros((b,), jnp.int32)
    rows = Rows(
        step=jnp.int32(0), cache=cache, keys_B=keys_B,
        prompt_lengths_B=repeat(lengths_Q), limits_B=limits_QG.reshape(-1),
        lengths_B=zeros_B, slots_B=jnp.arange(b) % (b // self.shards),
        done_B=zeros_B > 0, ended_B=zeros_B > 0,
        last_B=zeros_B, tokens_BT=jnp.zeros((b, new), jnp.int32),
        logprobs_BT=jnp.zeros((b, new), jnp.float32), experts_BTLA=recorded)
    rows = self._append(params, rows, repeat(hidden_QD))
    rows = jax.tree.map(
        lambda axes, x: rules.constrain(x, axes, "decode"),
        self.row_axes(rows), rows, is_leaf=rules.is_axes)
    return rows, experts if self.cfg.record_experts else None

  def row_axes(self, rows: Rows) -> Rows:
    """Logical axis names of every leaf of `rows`: how a mesh splits them."""
    axes = jax.tree.map(
        lambda x: ("act_batch",)[:x.ndim] + (None,) * (x.ndim - 1),
        rows._replace(cache=None))
    return axes._replace(cache=self.model.cache_axes())

  def _append(self, params, rows: Rows, hidden_BD) -> Rows:
    """Samples one token for every live row from its hidden state."""
    logits = jnp.dot(hidden_BD, self.model.head(params).astype(hidden_BD.dtype),
                     precision=self.model.compute.products,
                     preferred_element_type=jnp.float32)
    keys = jax.vmap(jax.random.fold_in, (0, None))(rows.keys_B, rows.step)
    tokens_B, logprobs_B = sample(
        logits, keys, self.cfg.temperature, self.cfg.top_p, self.cfg.vocab)
    ended_B = jnp.any(tokens_B[:, None] == self._eos[None], -1)
    live_B = ~rows.done_B
    lengths_B = jnp.where(live_B, rows.step + 1, rows.lengths_B)
    put = functools.partial(jax.lax.dynamic_update_slice_in_dim,
                            start_index=rows.step, axis=1)
    return rows._replace(
        step=rows.step + 1, lengths_B=lengths_B,
        ended_B=rows.ended_B | (live_B & ended_B),
        done_B=rows.done_B | ended_B | (lengths_B >= rows.limits_B),
        last_B=tokens_B, tokens_BT=put(rows.tokens_BT, tokens_B[:, None]),
        logprobs_BT=put(rows.logprobs_BT, logprobs_B[:, None]))

  def _run_rows(self, params, bias_LE, rows: Rows, stop: jax.Array, *,
                until: int) -> tuple[Rows, jax.Array]:
    """Decodes until at most `until` rows of each shard live, or to `stop`.

    Returns:
      (rows after at most `stop` tokens, live rows of the fullest shard).
    """
    slots = jnp.arange(_slots(self.model, rows.cache))
    prompt_slots = slots.shape[0] - rows.tokens_BT.shape[1]
    in_prompt_BS = slots[None] < rows.prompt_lengths_B[:, None]

    def body(rows):
      slot = prompt_slots + rows.step - 1
      sampled_S = (slots >= prompt_slots) & (slots <= slot)
      valid_BS = in_prompt_BS | sampled_S[None]
      hidden, cache, experts = self.model.decode(
          params, bias_LE, rows.last_B, rows.prompt_lengths_B + rows.step - 1,
          rows.cache, slot, valid_BS)
      recorded = rows.experts_BTLA
      if recorded is not None:
        recorded = jax.lax.dynamic_update_slice_in_dim(
            recorded, experts[:, None], rows.step - 1, 1)
      rows = rows._replace(cache=cache, experts_BTLA=recorded)
      return self._append(params, rows, hidden)

    def live(rows):
      return jnp.max(jnp.sum(~rows.done_B.reshape(self.shards, -1), 1))

    rows = jax.lax.while_loop(
        lambda rows: (live(rows) > until) & (rows.step < stop), body, rows)
    return rows, live(rows)

  def _decode(self, params, bias_LE, rows: Rows) -> dict[str, np.ndarray]:
    """Runs all rows to their end, halving the batch as they finish."""
    sampled = None
    while True:
      shrinks = self.halves(len(rows.done_B))
      rows, live = self.run_program(
          params, bias_LE, rows, rows.tokens_BT.shape[1],
          until=len(rows.done_B) // 2 // self.shards if shrinks else 0)
      if sampled is None:
        sampled = _sampled(rows)  # every row is in its place
      else:
        sampled = self._store(sampled, rows, shards=self.shards)
      if not int(live):
        return processes.own_rows(sampled)
      rows = self.keep_program(rows, shards=self.shards)

  def _rollout(self, prompts, prompt_ids, samples, harvest, prompt_experts):
    q = len(prompts)
    shaped = {k: v.reshape(q, samples, *v.shape[1:])
              for k, v in harvest.items()}
    experts = None
    if prompt_experts is not None:
      before = processes.own_rows(prompt_experts)
      before = np.repeat(before[:, None], samples, 1)
      experts = np.concatenate([before, shaped["experts_BTLA"]], 2)
    return Rollout(
        prompt_tokens=tuple(np.asarray(p, np.int32) for p in prompts),
        prompt_ids_Q=np.asarray(prompt_ids, np.int64),
        tokens_QGT=shaped["tokens_BT"], lengths_QG=shaped["lengths_B"],
        truncated_QG=~shaped["ended_B"], logprobs_QGT=shaped["logprobs_BT"],
        experts_QGSLA=experts)


def _repeats(prompt_ids: Sequence[int]) -> list[int]:
  """How often the address of each prompt comes before it, in all processes."""
  ids = [int(i) for i in prompt_ids]
  before = processes.gather(ids)[:jax.process_index()]
  seen = collections.Counter(i for part in before for i in part)
  repeats = []
  for address in ids:
    repeats.append(seen[address])
    seen[address] += 1
  return repeats


def _sampled(rows: Rows) -> dict[str, jax.Array]:
  """What the caller wants of the rows."""
  names = "tokens_BT", "lengths_B", "ended_B", "logprobs_BT", "experts_BTLA"
  return {name: getattr(rows, name) for name in names
          if getattr(rows, name) is not None}


def _by_shard(x: jax.Array, shards: int) -> jax.Array:
  """[B, ...] -> [shards, B / shards, ...]."""
  return x.reshape(shards, x.shape[0] // shards, *x.shape[1:])


def _store_rows(sampled: dict[str, jax.Array], rows: Rows, *, shards: int
                ) -> dict[str, jax.Array]:
  """`sampled` with the rows at their first places."""
  slots_SB = _by_shard(rows.slots_B, shards)

  def put(all_rows, some):
    placed = jax.vmap(lambda a, slots, x: a.at[slots].set(x))(
        _by_shard(all_rows, shards), slots_SB, _by_shard(some, shards))
    return placed.reshape(all_rows.shape)

  return jax.tree.map(put, sampled, _sampled(rows))


def _keep_rows(rows: Rows, *, shards: int) -> Rows:
  """Half of the rows of every shard: its live ones, then ended ones."""
  done_SB = _by_shard(rows.done_B, shards)
  kept_SB = jnp.argsort(done_SB, axis=1, stable=True)[:, :done_SB.shape[1] // 2]

  def keep(x):
    if x.ndim == 0:
      return x
    some = jax.vmap(lambda a, kept: a[kept])(_by_shard(x, shards), kept_SB)
    return some.reshape(-1, *x.shape[1:])

  return jax.tree.map(keep, rows)


def _slots(model: Model, cache: Any) -> int:
  """Slots of a cache: on axis 1 of MLA's, on axis 2 of the values of others."""
  axis = 1 if model.cfg.attention == "mla" else 2
  return jax.tree.leaves(cache)[-1].shape[axis]
