"""Prompts in, completions out, through slots that are refilled.

Rows are slots for samples. A question's prompt is computed once; its samples
wait in a queue, begin where rows are free, and are handed over as they end.
When nothing waits any more the rows that live move to a batch of half the size,
so that a step costs about what its live rows cost. The cache has room for the
longest live row and grows with it.

Randomness is addressed by (prompt, sample, position): a sample depends neither
on its row, nor on its neighbours, nor on when it began. A prompt that comes
twice has its samples numbered on, so they differ.

On a mesh every shard has its own rows and its own queue; only the sizes of all
are the same. Under several processes each brings its own prompts and takes
their samples back; what decides on how the programs go on is the same number in
all of them.
"""

from __future__ import annotations

import collections
import dataclasses
import functools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from r1jax.core.config import check
from r1jax.core.types import Rollout
from r1jax.models.model import Model, Params
from r1jax.ops import attention
from r1jax.rollout.programs import CHUNK, NO_DRAFTS, Programs, Rows
from r1jax.rollout.sampling import SamplingConfig
from r1jax.rollout.slots import Asked, Harvest, Slots
from r1jax.sharding import processes, rules

# Coarse on purpose: every bucket and every size of batch is a compilation.
PROMPT_BUCKET = 64
PREFILL = 32_768  # tokens of prompts, padding included, computed at once a lane
FIRST_SLOTS = 128
# A batch goes on with half its rows down to so few, or to fewer where a few
# long completions may go on for long.
SMALLEST_BATCH, FEWEST, LONG = 64, 8, 512
# Of the memory that is free when a rollout begins, what its rows may take: the
# rest is for the prompts' activations and what the programs hold meanwhile.
ROOM = 0.75


class Engine:
  """Samples completions from a model; knows ids, never text.

  Compiled programs are kept per shape: prompts computed at once and their
  bucket, rows, slots of the cache.

  Attributes:
    speed: tokens, those of this process that were sampled so far, and rounds,
      how often a row was computed for them: fewer where drafts were taken.
  """

  def __init__(self, model: Model, cfg: SamplingConfig, eos_ids: frozenset[int],
               mesh: jax.sharding.Mesh | None = None, *,
               max_rows: int | None = 0, untold: int = 0, deadline: int = 0,
               speculate: bool = False):
    """Prepares, without compiling yet.

    Args:
      model: what to sample from.
      cfg: how.
      eos_ids: a row ends with the first of these; may be empty.
      mesh: rows are split over its batch axes; None for one device.
      max_rows: samples that live at once, in all processes; 0 for all that a
        call asks for; None for as many of them as the devices have memory for,
        at their longest, where they tell what is free (GPUs and TPUs do).
      untold: what None stands for where devices do not tell what is free; 0 for
        all that a call asks for.
      deadline: tokens that a question's samples have, counted from when its
        first one began; one that begins later has fewer, but one at least. 0
        for no such end.
      speculate: let multi-token prediction draft tokens; samples stay what they
        are, see `Programs`, but for those that a deadline truncates, and for
        rounding: tested in float32.

    Raises:
      ValueError: an end-of-sequence id lies outside the vocabulary, `max_rows`
        do not divide over the lanes, `deadline` is negative, or nothing can
        draft.
    """
    outside = sorted(i for i in eos_ids if not 0 <= i < model.cfg.vocab_size)
    check(not outside, f"end-of-sequence ids {outside} lie outside the model's"
          f" vocabulary of {model.cfg.vocab_size}")
    self.model = dataclasses.replace(model, layout="decode")
    self.cfg, self.mesh = cfg, mesh
    self._fits, self.max_rows = max_rows is None, max_rows or 0
    self.untold = untold
    check(deadline >= 0, f"deadline={deadline} must not be negative")
    self.deadline = deadline
    self.lanes = lanes(mesh)
    check(self.max_rows >= 0 and self.max_rows % self.lanes == 0,
          f"max_rows={max_rows} must be a multiple of {self.lanes}, the parts"
          " that devices and processes split rows into; 0 is for all")
    check(model.cfg.n_mtp > 0 or not speculate, NO_DRAFTS)
    self.ahead = int(speculate)  # tokens that a step reads beyond the latest
    self.speed: collections.Counter[str] = collections.Counter()
    self._own_lanes = self.lanes // jax.process_count()
    self.programs = Programs(
        self.model, cfg, np.array(sorted(eos_ids), np.int32), self.lanes,
        drafts=speculate)
    platform = (jax.default_backend() if mesh is None
                else mesh.devices.flat[0].platform)
    self._fine = not attention.decode_block(platform)

  def compilations(self) -> int:
    """Programs compiled so far, for tests and logs."""
    return self.programs.compilations()

  def halves(self, rows: int) -> bool:
    """Whether a batch of so many rows gives way to one of half as many."""
    half, odd = divmod(rows, 2 * self.lanes)
    least = FEWEST if self.cfg.max_new_tokens >= LONG else SMALLEST_BATCH
    return not odd and half * self.lanes >= min(least, SMALLEST_BATCH)

  def slots(self, need: int, most: int) -> int:
    """Slots of a cache for rows of `need` tokens, where the longest is `most`.

    Where a step reads the whole cache it grows by a quarter of a power of two,
    else it doubles. More sizes would be more programs to compile.
    """
    slots = FIRST_SLOTS
    while slots < need:
      quarter = max(64 if slots < 256 else 128, 2**(slots.bit_length() - 3))
      slots += quarter if self._fine else slots
    return min(slots, most)

  def rows_each(self, total: int, room: int = 0) -> int:
    """Rows of every lane for so many samples of one process.

    `room` is the most that there is memory for, 0 if that is not known.
    """
    stretch = -(-total // self._own_lanes)
    return min(self.max_rows // self.lanes or stretch, room or stretch, stretch)

  def prompts_at_once(self, questions: int, samples: int, length: int,
                      room: int = 0) -> int:
    """Prompts that are computed at once in each lane: as many as fill its rows.

    Args:
      questions: of one process.
      samples: of each.
      length: of a prompt, padded.
      room: see `rows_each`.
    """
    # The samples of a lane may begin within a question.
    within = questions * samples // self._own_lanes % samples > 0
    rows = self.rows_each(questions * samples, room)
    count = -(-rows // samples) + within
    return max(1, min(count, questions, PREFILL // length))

  def generate(self, params: Params, bias_LE: jax.Array,
               prompts: Sequence[np.ndarray], prompt_ids: Sequence[int],
               samples: int, key: jax.Array, *,
               limits_QG: np.ndarray | None = None,
               repeats_Q: Sequence[int] | None = None,
               ended: Callable[[int, Rollout], None] | None = None) -> Rollout:
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
      ended: called with a question's index and its samples, a rollout of one
        question, when the last of them has ended and others still grow.

    Raises:
      ValueError: no or empty prompts, or one that with max_new_tokens exceeds
        the model's context, in any process.
    """
    asked = self._asked(prompts, prompt_ids, samples, limits_QG, repeats_Q)
    harvest = Harvest(asked, self.cfg.max_new_tokens)
    for questions in self._groups(params, bias_LE, asked, key, harvest):
      for question in questions if ended else ():
        ended(question, harvest.rollout(question, question + 1))
    return harvest.rollout()

  def groups(self, params: Params, bias_LE: jax.Array,
             prompts: Sequence[np.ndarray], prompt_ids: Sequence[int],
             samples: int, key: jax.Array
             ) -> Iterator[list[tuple[int, Rollout]]]:
    """The samples of `generate`, question by question as their last one ends.

    Every run of decoding gives a list, empty ones included, so that under
    several processes all of them may stop after the same one.

    Args:
      params, bias_LE, prompts, prompt_ids, samples, key: see `generate`.

    Returns:
      Lists of (a question's index, its samples as a rollout of one question).
    """
    asked = self._asked(prompts, prompt_ids, samples, None, None)
    harvest = Harvest(asked, self.cfg.max_new_tokens)
    for questions in self._groups(params, bias_LE, asked, key, harvest):
      yield [(question, harvest.rollout(question, question + 1))
             for question in questions]

  def _groups(self, params, bias_LE, asked: Asked, key, harvest: Harvest
              ) -> Iterator[list[int]]:
    """Decodes all samples; of every run, the questions that it completed."""
    missing = np.full(len(asked.prompts), asked.samples)
    for done in self._rounds(params, bias_LE, asked, key, harvest):
      complete = []
      for question in np.array(done, int) // asked.samples:
        missing[question] -= 1
        if not missing[question]:
          complete.append(int(question))
      yield complete
    self.speed.update(
        tokens=int(harvest.lengths_N.sum()), rounds=harvest.rounds)

  def stream(self, params: Params, bias_LE: jax.Array, prompt: np.ndarray,
             prompt_id: int, key: jax.Array, *, chunk: int = 4
             ) -> Iterator[list[int]]:
    """One completion as it grows: lists of at most `chunk` new ids.

    The same ids as sample 0 of `generate`.
    """
    asked = self._asked([prompt], [prompt_id], 1, None, [0])
    harvest, shown = Harvest(asked, self.cfg.max_new_tokens), 0
    chunk = max(1, min(chunk, CHUNK) - self.ahead)
    for _ in self._rounds(params, bias_LE, asked, key, harvest,
                          first=1, chunk=chunk):
      length = int(harvest.lengths_N[0])
      yield harvest.tokens_NT[0, shown:length].tolist()
      shown = length

  def _asked(self, prompts, prompt_ids, samples, limits_QG, repeats_Q) -> Asked:
    """Checks and pads prompts."""
    lengths_Q = np.array([len(p) for p in prompts], np.int32)
    new = self.cfg.max_new_tokens
    longest = self._check(lengths_Q, new)
    tokens_QP = np.zeros((len(prompts), _padded(longest)), np.int32)
    for row, prompt in zip(tokens_QP, prompts, strict=True):
      row[:len(prompt)] = prompt
    if limits_QG is None:
      limits_QG = np.full((len(prompts), samples), new, np.int32)
    if repeats_Q is None:
      repeats_Q = _repeats(prompt_ids)
    return Asked(
        tuple(np.asarray(p, np.int32) for p in prompts), tokens_QP, lengths_Q,
        np.asarray(prompt_ids, np.uint32),
        np.asarray(repeats_Q, np.uint32) * np.uint32(samples),
        limits_QG.astype(np.int32), self.deadline)

  def _check(self, lengths_Q: np.ndarray, new: int) -> int:
    """Tokens of the longest prompt of all processes, if all are in order."""
    most, fewest, longest, shortest = processes.largest(
        len(lengths_Q), -len(lengths_Q), int(lengths_Q.max(initial=0)),
        -int(lengths_Q.min(initial=2**30)))
    check(most > 0, "there is no prompt to complete")
    check(most == -fewest, f"one process brings {most} prompts, another"
          f" {-fewest}; give as many to each")

    def name(length):
      indices = np.flatnonzero(lengths_Q == length)
      return (f"prompt {indices[0]}" if indices.size
              else "another process's prompt")

    check(shortest < 0, f"{name(-shortest)} of the batch is empty")
    self.model.cfg.check_length(
        longest + new, f"{name(longest)} of the batch ({longest} tokens) with"
        f" max_new_tokens={new}")
    return longest

  def _place(self, tree: Any) -> Any:
    """The rows of all processes on the devices."""
    if self.mesh is None:
      return jax.tree.map(jnp.asarray, tree)
    return processes.rows(tree, rules.batch_sharding(self.mesh, "decode"))

  def _rounds(self, params, bias_LE, asked: Asked, key, harvest: Harvest, *,
              first: int = CHUNK, chunk: int = CHUNK) -> Iterator[list[int]]:
    """Decodes all samples; of every run gives those that are done.

    A run samples at most `chunk` tokens of each, the first at most `first`.
    What it brought is given when the next one has begun, so that the device
    works while it is looked at.
    """
    most = asked.tokens_QP.shape[1] + self.cfg.max_new_tokens + self.ahead
    room = self._room(params, bias_LE, asked.tokens_QP.shape[1], most)
    rows_each = self.rows_each(asked.limits_QG.size, room)
    slots = Slots(self._own_lanes, rows_each, asked.limits_QG.size)
    prompts = _Prompts(self, asked, harvest, room)
    rows, steps, done = None, first, None
    while True:
      while _any(slots.live_S <= slots.floors_S):
        prompts.ready(params, bias_LE, slots)
        if rows is None:
          rows = self.programs.empty(
              prompts.cache, key, rows=rows_each * self.lanes,
              slots=self.slots(prompts.padded + 1, most))
        rows = self._resized(  # room for the new prompts
            rows, slots, slots.held_SR.shape[1], prompts.padded + 1, most)
        fill = slots.fill(asked, prompts.begin_S, prompts.count)
        rows = self.programs.insert(rows, prompts.cache, key, self._place(fill))
      waiting, live, longest = processes.largest(
          slots.waiting_S.max(), slots.live_S.max(),
          _longest(asked, slots, harvest) + self.ahead)
      if not waiting:
        prompts.drop()
      if not live:
        yield done
        return
      rows = self._resized(
          rows, slots, slots.held_SR.shape[1] if waiting else live, longest,
          most)
      size = slots.held_SR.shape[1]
      until = size // 2 if not waiting and self.halves(
          size * self.lanes) else 0
      left = _slots(self.model, rows.cache) - longest + 1
      rows, found = self.programs.decode(
          params, bias_LE, rows, np.int32(min(steps, left, CHUNK - self.ahead)),
          np.int32(until), self._place(slots.floors_S))
      if done is not None:
        yield done
      done = harvest.take(slots, *processes.own_rows(
          (found, rows.sampled_B, rows.done_B, rows.ended_B)))
      steps = chunk

  def _room(self, params, bias_LE, prompt: int, most: int) -> int:
    """Rows of every lane, of `most` slots, that there is memory for.

    A power of two, for few sizes to compile; 0 for all.
    """
    if not self._fits:
      return 0
    free = _free(self.mesh)
    if free is None:
      fit = -(-self.untold // self.lanes)
    else:
      fit = max(1, int(
          ROOM * free / self._row_bytes(params, bias_LE, prompt, most)))
    least = -processes.largest(-fit)[0]
    return least and 2**(least.bit_length() - 1)

  def _row_bytes(self, params, bias_LE, prompt: int, most: int) -> float:
    """What a device holds for one row of every lane at its longest."""
    shape, run = jax.ShapeDtypeStruct, self.programs
    prompts, _ = jax.eval_shape(
        run.prefill, params, bias_LE, shape((self.lanes, prompt), jnp.int32),
        shape((self.lanes,), jnp.int32))
    rows = jax.eval_shape(
        functools.partial(run.empty, rows=self.lanes, slots=most), prompts,
        jax.random.key(0))
    axes = run.axes(rows).cache
    cache = sum(jax.tree.leaves(jax.tree.map(
        self._bytes, axes, rows.cache, is_leaf=rules.is_axes)))
    # A layer twice while it grows; logits, their exponentials and a copy.
    return cache * (1 + 1 / self.model.cfg.n_layers) + (
        3 * 4 * self.model.cfg.vocab_size)

  def _bytes(self, axes, x) -> int:
    """Of the part of an array that lies on one device."""
    shape = x.shape
    if self.mesh is not None:
      shape = jax.sharding.NamedSharding(self.mesh, rules.fitted(
          axes, shape, dict(self.mesh.shape), "decode")).shard_shape(shape)
    return math.prod(shape) * x.dtype.itemsize

  def _resized(self, rows: Rows, slots: Slots, live: int, longest: int,
               most: int) -> Rows:
    """`rows` in the smallest batch for the live ones, with room for them.

    Layer by layer, so that two caches never meet.
    """
    size, now = slots.held_SR.shape[1], _slots(self.model, rows.cache)
    rows_each = size
    while self.halves(rows_each * self.lanes) and live <= rows_each // 2:
      rows_each //= 2
    wanted = max(now, self.slots(longest, most))
    if (rows_each, wanted) == (size, now):
      return rows
    kept_B = self._place(slots.keep(rows_each))
    state, cache = self.programs.pick(tuple(rows[1:]), kept_B), []
    for layer in rows.cache:
      cache.append(self.programs.move(layer, kept_B, slots=wanted))
      for leaf in jax.tree.leaves(layer):
        leaf.delete()
    return Rows(tuple(cache), *state)


def lanes(mesh: jax.sharding.Mesh | None) -> int:
  """The parts that devices and processes split rows into."""
  shards = 1 if mesh is None else rules.batch_shards(mesh, "decode")
  return math.lcm(shards, jax.process_count())


class _Prompts:
  """The prompts whose samples begin next, computed some at a time.

  Attributes:
    count: prompts of each lane that are computed at once.
    cache: of those that are; None before the first and after the last.
    begin_S: int, the first question of each lane in it.
    padded: tokens that each of them has in it, padding included.
  """

  def __init__(self, engine: Engine, asked: Asked, harvest: Harvest,
               room: int):
    q, padded = asked.tokens_QP.shape
    self._engine, self._asked, self._harvest = engine, asked, harvest
    self.count = engine.prompts_at_once(q, asked.samples, padded, room)
    self.cache, self.begin_S, self.padded = None, None, 0

  def ready(self, params: Params, bias_LE: jax.Array, slots: Slots) -> None:
    """Computes prompts if a lane's next sample has none."""
    # A lane without waiting samples wants no prompt.
    next_S = np.where(slots.waiting_S > 0, slots.next_S, -1)
    next_S = np.where(next_S < 0, -1, next_S // self._asked.samples)
    if self.cache is not None and not _any(
        (next_S >= 0) & (next_S >= self.begin_S + self.count)):
      return
    self.cache, self.begin_S = None, np.maximum(next_S, 0)  # two never meet
    questions = np.minimum(
        self.begin_S[:, None] + np.arange(self.count),
        len(self._asked.lengths_Q) - 1).reshape(-1)
    lengths = self._asked.lengths_Q[questions]
    self.padded = _padded(processes.largest(int(lengths.max()))[0])
    self.cache, experts = self._engine.programs.prefill(
        params, bias_LE, *self._engine._place((
            self._asked.tokens_QP[questions, :self.padded], lengths)))
    if experts is not None:
      self._harvest.prompts(questions, processes.own_rows(experts))

  def drop(self) -> None:
    """Frees the cache; for when nothing waits."""
    self.cache = None


def _free(mesh: jax.sharding.Mesh | None) -> int | None:
  """Bytes free on the fullest of this process's devices; None if unknown."""
  devices = jax.local_devices()[:1] if mesh is None else mesh.local_devices
  told = [device.memory_stats() or {} for device in devices]
  if not all("bytes_limit" in stats for stats in told):
    return None
  return min(x["bytes_limit"] - x["bytes_in_use"] for x in told)


def _padded(length: int) -> int:
  """Of a prompt, padding included."""
  return -(-length // PROMPT_BUCKET) * PROMPT_BUCKET


def _any(flags: np.ndarray) -> bool:
  """Whether one is set, in any process."""
  return bool(processes.largest(int(flags.any()))[0])


def _longest(asked: Asked, slots: Slots, harvest: Harvest) -> int:
  """Tokens of the longest live row of this process, its prompt included."""
  live = slots.held_SR[slots.held_SR >= 0]
  lengths = asked.lengths_Q[live // asked.samples] + harvest.lengths_N[live]
  return int(lengths.max(initial=0))


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


def _slots(model: Model, cache: Any) -> int:
  """Slots of a cache: on axis 1 of MLA's, on axis 2 of the values of others."""
  axis = 1 if model.cfg.attention == "mla" else 2
  return jax.tree.leaves(cache)[-1].shape[axis]
