"""Prompts in, completions out: prefill, decode until all rows have ended.

Rows are the Q x G samples of a batch. A prompt's prefill is computed once and
repeated for its G rows: prompts sit right-padded in cache slots [0, P), a
row's i-th new token in slot P + i, the same for all rows. When half of the rows
have ended the rest moves to a batch of half the size, so that a step costs
about what its live rows cost; randomness is addressed by (prompt, sample,
position), so moving changes no sample.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from r1jax.core import keys as keys_lib
from r1jax.core.config import check
from r1jax.core.types import Rollout
from r1jax.models.build import Model, Params
from r1jax.rollout.sampling import SamplingConfig, sample
from r1jax.sharding import rules

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
    self.model, self.cfg, self.mesh = model, cfg, mesh
    self._eos = np.array(sorted(eos_ids), np.int32)
    self._start = jax.jit(self._start_rows, static_argnames=("samples", "new"))
    self._run = jax.jit(self._run_rows, static_argnames=("until",),
                        donate_argnames=("rows",))
    self._keep = jax.jit(_keep_rows)

  def compilations(self) -> int:
    """Programs compiled so far, for tests and logs."""
    # jit's own counter; there is no public one.
    return sum(f._cache_size() for f in (self._start, self._run, self._keep))

  def generate(self, params: Params, bias_LE: jax.Array,
               prompts: Sequence[np.ndarray], prompt_ids: Sequence[int],
               samples: int, key: jax.Array, *,
               limits_QG: np.ndarray | None = None) -> Rollout:
    """Draws `samples` completions of every prompt.

    Args:
      params: the policy.
      bias_LE: its router bias.
      prompts: Q arrays of token ids, none empty.
      prompt_ids: Q addresses below 2**32.
      samples: G.
      key: of the run and step.
      limits_QG: longest completion of each row, 1..max_new_tokens; default
        max_new_tokens.

    Raises:
      ValueError: no or empty prompts, or one that with max_new_tokens exceeds
        the model's context.
    """
    rows, prompt_experts = self._begin(
        params, bias_LE, prompts, prompt_ids, samples, key, limits_QG)
    harvest = self._decode(params, bias_LE, rows)
    return self._rollout(prompts, prompt_ids, samples, harvest, prompt_experts)

  def stream(self, params: Params, bias_LE: jax.Array, prompt: np.ndarray,
             prompt_id: int, key: jax.Array, *, chunk: int = 4
             ) -> Iterator[list[int]]:
    """One completion as it grows: lists of at most `chunk` new ids.

    The same ids as sample 0 of `generate`.
    """
    rows, _ = self._begin(params, bias_LE, [prompt], [prompt_id], 1, key, None)
    shown = 0
    while True:
      length = int(rows.lengths_B[0])
      yield np.asarray(rows.tokens_BT)[0, shown:length].tolist()
      if bool(rows.done_B[0]):
        return
      shown = length
      rows = self._run(params, bias_LE, rows, shown + chunk, until=0)

  def _begin(self, params, bias_LE, prompts, prompt_ids, samples, key,
             limits_QG):
    """Checks and pads prompts, then starts their rows."""
    check(len(prompts) > 0, "there is no prompt to complete")
    shards = 1 if self.mesh is None else rules.batch_shards(self.mesh)
    check(len(prompts) % shards == 0, f"{len(prompts)} questions do not divide"
          f" over {shards} devices; sample a multiple of that at once")
    lengths = np.array([len(p) for p in prompts], np.int32)
    check(bool(lengths.min() > 0),
          f"prompt {int(lengths.argmin())} of the batch is empty")
    new = self.cfg.max_new_tokens
    self.model.cfg.check_length(
        int(lengths.max()) + new,
        f"prompt {int(lengths.argmax())} of the batch ({lengths.max()} tokens)"
        f" with max_new_tokens={new}")
    padded = -(-int(lengths.max()) // PROMPT_BUCKET) * PROMPT_BUCKET
    tokens_QP = np.zeros((len(prompts), padded), np.int32)
    for row, prompt in zip(tokens_QP, prompts, strict=True):
      row[:len(prompt)] = prompt
    if limits_QG is None:
      limits_QG = np.full((len(prompts), samples), new, np.int32)
    inputs = (tokens_QP, lengths, np.asarray(prompt_ids, np.uint32),
              limits_QG.astype(np.int32))
    return self._start(
        params, bias_LE, *(self._place(x) for x in inputs), key,
        samples=samples, new=new)

  def _place(self, x):
    if self.mesh is None:
      return jnp.asarray(x)
    return jax.device_put(x, rules.batch_sharding(self.mesh))

  def _start_rows(self, params, bias_LE, tokens_QP, lengths_Q, ids_Q, limits_QG,
                  key, *, samples, new):
    """Prefills Q prompts, repeats them G times, samples the first tokens."""
    model = self.model
    hidden_QD, cache, experts = model.prefill(
        params, bias_LE, tokens_QP, lengths_Q)
    address = jax.vmap(
        jax.vmap(keys_lib.fold, (None, None, 0)), (None, 0, None))
    keys_B = address(key, ids_Q, jnp.arange(samples)).reshape(-1)
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
        lengths_B=zeros_B, done_B=zeros_B > 0, ended_B=zeros_B > 0,
        last_B=zeros_B, tokens_BT=jnp.zeros((b, new), jnp.int32),
        logprobs_BT=jnp.zeros((b, new), jnp.float32), experts_BTLA=recorded)
    rows = self._append(params, rows, repeat(hidden_QD))
    return rows, experts if self.cfg.record_experts else None

  def _append(self, params, rows: Rows, hidden_BD) -> Rows:
    """Samples one token for every live row from its hidden state."""
    logits = jnp.dot(hidden_BD, self.model.head(params).astype(hidden_BD.dtype),
                     preferred_element_type=jnp.float32)
    keys = jax.vmap(jax.random.fold_in, (0, None))(rows.keys_B, rows.step)
    tokens_B, logprobs_B = sample(
        logits, keys, self.cfg.temperature, self.cfg.top_p)
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
                until: int) -> Rows:
    """Decodes until at most `until` rows live or `stop` tokens are sampled."""
    slots = jnp.arange(_slots(self.model, rows.cache))
    prompt_slots = slots.shape[0] - rows.tokens_BT.shape[1]
    in_prompt_BS = slots[None] < rows.prompt_lengths_B[:, None]
    params = self.model.unstack(params)

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

    return jax.lax.while_loop(
        lambda rows: (jnp.sum(~rows.done_B) > until) & (rows.step < stop),
        body, rows)

  def _decode(self, params, bias_LE, rows: Rows) -> dict[str, np.ndarray]:
    """Runs all rows to their end, halving the batch as they finish."""
    total = rows.done_B.shape[0]
    alive = np.arange(total)  # original row of each row of the batch
    harvest = _empty_harvest(rows)
    while True:
      half = len(alive) // 2
      shards = 1 if self.mesh is None else rules.batch_shards(self.mesh)
      shrinks = half >= SMALLEST_BATCH and half % shards == 0 and (
          len(alive) % 2 == 0)
      rows = self._run(params, bias_LE, rows, rows.tokens_BT.shape[1],
                       until=half if shrinks else 0)
      _gather_rows(harvest, rows, alive)
      done_B = np.asarray(rows.done_B)
      if done_B.all():
        return harvest
      live = np.flatnonzero(~done_B)
      # Fill up to the bucket with ended rows, which stay ended.
      kept = np.concatenate([live, np.flatnonzero(done_B)])[:half]
      rows = self._keep(rows, jnp.asarray(kept))
      alive = alive[kept]

  def _rollout(self, prompts, prompt_ids, samples, harvest, prompt_experts):
    q = len(prompts)
    shaped = {k: v.reshape(q, samples, *v.shape[1:])
              for k, v in harvest.items()}
    experts = None
    if prompt_experts is not None:
      before = np.repeat(np.asarray(prompt_experts)[:, None], samples, 1)
      experts = np.concatenate([before, shaped["experts_BTLA"]], 2)
    return Rollout(
        prompt_tokens=tuple(np.asarray(p, np.int32) for p in prompts),
        prompt_ids_Q=np.asarray(prompt_ids, np.int64),
        tokens_QGT=shaped["tokens_BT"], lengths_QG=shaped["lengths_B"],
        truncated_QG=~shaped["ended_B"], logprobs_QGT=shaped["logprobs_BT"],
        experts_QGSLA=experts)


_HARVESTED = ("tokens_BT", "lengths_B", "ended_B", "logprobs_BT",
              "experts_BTLA")


def _empty_harvest(rows: Rows) -> dict[str, np.ndarray]:
  return {name: np.zeros(getattr(rows, name).shape, getattr(rows, name).dtype)
          for name in _HARVESTED if getattr(rows, name) is not None}


def _gather_rows(harvest, rows: Rows, alive: np.ndarray) -> None:
  for name, values in harvest.items():
    values[alive] = np.asarray(getattr(rows, name))


def _keep_rows(rows: Rows, kept: jax.Array) -> Rows:
  """The rows `kept`, in that order."""
  return jax.tree.map(lambda a: a if a.ndim == 0 else a[kept], rows)


def _slots(model: Model, cache: Any) -> int:
  """Slots of a cache: on axis 1 of MLA's, on axis 2 of the values of others."""
  axis = 1 if model.cfg.attention == "mla" else 2
  return jax.tree.leaves(cache)[-1].shape[axis]
