"""Samples completions of prompts with continuous batching.

A row of the batch holds one sample at a time. Each prompt is prefilled once;
its samples wait in a queue, take rows as these become free, and are returned as
they end. When the queue is empty the live rows move to a batch of half the
size, as often as they fit, so that the cost of a decoding step follows the
number of live rows. The KV cache has slots for the longest live row and grows
with it. A long prompt is kept once, beside the rows of its samples.

Randomness is addressed by (prompt id, sample number, position): a sample
depends neither on its row, nor on its neighbours, nor on when it began. If a
prompt id comes twice, the numbers of its samples continue, so that they differ.

On a mesh every shard has its own rows and queue, a "lane"; all lanes have the
same sizes. Under several processes each brings its own prompts and gets their
samples; the sizes and lengths that select the next program are agreed on by all
processes.
"""

from __future__ import annotations

import collections
import dataclasses
import math
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from r1jax.core.config import check
from r1jax.core.types import Rollout
from r1jax.models.model import Model, Params
from r1jax.rollout import prompts as prompts_lib
from r1jax.rollout import room as room_lib
from r1jax.rollout.prefill import PART
from r1jax.rollout.programs import CHUNK, Programs, Rows
from r1jax.rollout.prompts import Prompts
from r1jax.rollout.sampling import SamplingConfig
from r1jax.rollout.slots import Asked, Deadline, Harvest, Slots
from r1jax.sharding import processes, rules

# Most tokens of one prefill of a lane, padding included. A longer prompt is
# prefilled alone, in parts.
PREFILL = PART
FIRST_SLOTS = 128  # of a new KV cache, per row
# A batch is halved down to SMALLEST_BATCH rows, or to FEWEST if completions may
# have LONG tokens or more.
SMALLEST_BATCH, FEWEST, LONG = 64, 8, 512
WATCH = 32  # most tokens between two looks at a deadline's clock


class Engine:
  """Samples completions from a model, as token ids.

  Programs are compiled once per set of shapes: prompts of a prefill and their
  padded length, rows, slots of the cache.

  Attributes:
    speed: counts of this process so far: "tokens", sampled tokens; "rounds",
      forward passes summed over rows; "accepted_1", "accepted_2", ..., those of
      them in which so many drafts or more were accepted. The rounds and all
      that is accepted are the tokens.
  """

  def __init__(self, model: Model, cfg: SamplingConfig, eos_ids: frozenset[int],
               mesh: jax.sharding.Mesh | None = None, *,
               max_rows: int | None = 0, untold: int = 0,
               deadline: Deadline | None = None, speculate: int = 0,
               clock: Callable[[], float] = time.monotonic):
    """Compiles nothing yet.

    Args:
      model: the model to sample from.
      cfg: sampling settings.
      eos_ids: a sample ends with the first of these; may be empty.
      mesh: rows are split over its batch axes; None for one device.
      max_rows: most samples decoded at once, in all processes together; 0 for
        all of a call; None for as many as fit the devices' free memory at their
        longest, if the devices report it (GPUs and TPUs do).
      untold: `max_rows` if it is None and devices do not report free memory; 0
        for all of a call.
      deadline: how long a question's samples may take from the beginning of
        the first one, in tokens or seconds; a sample that begins later gets
        fewer tokens, but at least one. Seconds are looked at every WATCH
        tokens, and those of compiling are left out; what they truncate
        depends on the machine's speed.
      speculate: tokens that multi-token prediction drafts for each that is
        read; 0 for none. Samples stay the same, see `Programs`, except for
        those truncated by a deadline and except for rounding; tested in
        float32.
      clock: tells the seconds for the deadline.

    Raises:
      ValueError: an end-of-sequence id lies outside the vocabulary, `max_rows`
        is not a multiple of the number of lanes, `deadline` is negative,
        `speculate` is out of range, or the model has no module to draft with.
    """
    outside = sorted(i for i in eos_ids if not 0 <= i < model.cfg.vocab_size)
    check(not outside, f"end-of-sequence ids {outside} lie outside the model's"
          f" vocabulary of {model.cfg.vocab_size}")
    self.model = dataclasses.replace(model, layout="decode")
    self.cfg, self.mesh = cfg, mesh
    self._fits, self.max_rows = max_rows is None, max_rows or 0
    self.untold = untold
    self.deadline, self._clock = deadline or Deadline(), clock
    check(min(self.deadline) >= 0,
          f"deadline={min(self.deadline)} must not be negative")
    self.lanes = lanes(mesh)
    check(self.max_rows >= 0 and self.max_rows % self.lanes == 0,
          f"max_rows={max_rows} must be a multiple of {self.lanes}, the parts"
          " that devices and processes split rows into; 0 is for all")
    self.speed: collections.Counter[str] = collections.Counter()
    self._own_lanes = self.lanes // jax.process_count()
    platform = (jax.default_backend() if mesh is None
                else mesh.devices.flat[0].platform)
    self.programs = Programs(
        self.model, cfg, np.array(sorted(eos_ids), np.int32), self.lanes,
        depth=speculate, platform=platform)
    self.ahead = self.programs.ahead
    self._fine = platform != "tpu"

  def compilations(self) -> int:
    """Programs compiled so far, for tests and logs."""
    return self.programs.compilations()

  def halves(self, rows: int) -> bool:
    """Whether a batch of `rows` rows may be halved."""
    half, odd = divmod(rows, 2 * self.lanes)
    least = FEWEST if self.cfg.max_new_tokens >= LONG else SMALLEST_BATCH
    return not odd and half * self.lanes >= min(least, SMALLEST_BATCH)

  def slots(self, need: int, most: int) -> int:
    """Slots of a cache for rows of `need` tokens, at most `most`.

    Where a decoding step may read the whole cache, the sizes grow by a quarter
    of a power of two. On a TPU it does not, and they double: every size is
    compiled.
    """
    slots = FIRST_SLOTS
    while slots < need:
      quarter = max(64 if slots < 256 else 128, 2**(slots.bit_length() - 3))
      slots += quarter if self._fine else slots
    return min(slots, most)

  def rows_each(self, total: int, room: int = 0) -> int:
    """Rows of every lane for `total` samples of one process.

    `room` is the most rows of a lane that fit into memory; 0 for no limit.
    """
    stretch = -(-total // self._own_lanes)
    return min(self.max_rows // self.lanes or stretch, room or stretch, stretch)

  def prompts_at_once(self, questions: int, samples: int, length: int,
                      room: int = 0) -> int:
    """Prompts of one prefill of a lane: as many as fill its rows.

    Args:
      questions: questions of one process.
      samples: samples of each.
      length: padded length of a prompt, in tokens.
      room: see `rows_each`.
    """
    total = questions * samples
    rows, each = self.rows_each(total, room), total / self._own_lanes
    # A lane may begin in the middle of a question. And all lanes read when one
    # of them needs its next prompt, while others are in the middle of theirs.
    within = each % samples > 0 or (self.lanes > 1 and rows < each)
    count = -(-rows // samples) + within
    return max(1, min(count, questions, PREFILL // length))

  def generate(self, params: Params, bias_LE: jax.Array,
               prompts: Sequence[np.ndarray], prompt_ids: Sequence[int],
               samples: int, key: jax.Array, *,
               limits_QG: np.ndarray | None = None,
               repeats_Q: Sequence[int] | None = None,
               ended: Callable[[int, int, np.ndarray], None] | None = None
               ) -> Rollout:
    """Draws `samples` completions of every prompt.

    Args:
      params: the policy's parameters, with unstacked layers (`Model.unstack`):
        stacked ones would be copied by every program.
      bias_LE: its router bias, float32 [L, E].
      prompts: Q arrays of token ids, none empty; under several processes those
        of this one, the same number in each.
      prompt_ids: Q ids below 2**32, which address the samples' randomness.
      samples: G, completions of each prompt.
      key: random key of the run and step.
      limits_QG: int, longest completion of each sample, 1..max_new_tokens;
        default max_new_tokens.
      repeats_Q: how often each prompt's id was used under this key before; the
        numbers of its samples continue from there, so that they differ. By
        default counted within this call, over all processes.
      ended: called with a question's index, a sample's number and its token
        ids when this sample has ended, while others are still decoded.

    Returns:
      The samples of this process's prompts.

    Raises:
      ValueError: in any process, there are no prompts, one is empty, or one
        with max_new_tokens exceeds the model's context.
    """
    asked = self._asked(prompts, prompt_ids, samples, limits_QG, repeats_Q)
    harvest = Harvest(asked, self.cfg.max_new_tokens)
    for done in self._counted(params, bias_LE, asked, key, harvest):
      for sample in done if ended else ():
        ended(*divmod(sample, samples), harvest.completion(sample))
    return harvest.rollout()

  def groups(self, params: Params, bias_LE: jax.Array,
             prompts: Sequence[np.ndarray], prompt_ids: Sequence[int],
             samples: int, key: jax.Array
             ) -> Iterator[list[tuple[int, Rollout]]]:
    """Yields the samples of `generate` by question, when its last one ends.

    Each call of the decoding program yields a list, which may be empty, so that
    several processes can stop after the same call.

    Args:
      params, bias_LE, prompts, prompt_ids, samples, key: see `generate`.

    Returns:
      Iterator of lists of (question's index, rollout of this question alone).
    """
    asked = self._asked(prompts, prompt_ids, samples, None, None)
    harvest = Harvest(asked, self.cfg.max_new_tokens)
    missing = np.full(len(asked.prompts), samples)
    for done in self._counted(params, bias_LE, asked, key, harvest):
      complete = []
      for question in np.array(done, int) // samples:
        missing[question] -= 1
        if not missing[question]:
          complete.append(
              (int(question), harvest.rollout(question, question + 1)))
      yield complete

  def _counted(self, params, bias_LE, asked: Asked, key, harvest: Harvest
               ) -> Iterator[list[int]]:
    """`_rounds`, and then the counts of `speed`."""
    yield from self._rounds(params, bias_LE, asked, key, harvest)
    rounds, *accepted = harvest.rounds_T.tolist()
    self.speed.update(
        {"tokens": int(harvest.lengths_N.sum()), "rounds": rounds}
        | {f"accepted_{n}": x for n, x in enumerate(accepted, start=1)})

  def stream(self, params: Params, bias_LE: jax.Array, prompt: np.ndarray,
             prompt_id: int, key: jax.Array, *, chunk: int = 4
             ) -> Iterator[list[int]]:
    """Yields one completion as it is decoded, in lists of at most `chunk` ids.

    The ids are those of sample 0 of `generate`. A list may have as many ids as
    a pass can give, one more than are drafted, if these are more than `chunk`.
    """
    asked = self._asked([prompt], [prompt_id], 1, None, [0])
    harvest, shown = Harvest(asked, self.cfg.max_new_tokens), 0
    chunk = max(1, min(chunk, CHUNK) - self.programs.depth)
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
    tokens_QP = np.zeros((len(prompts), prompts_lib.padded(longest)), np.int32)
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
    """Checks the prompts of all processes; tokens of the longest one."""
    most, fewest, longest, shortest = processes.largest(
        len(lengths_Q), -len(lengths_Q), int(lengths_Q.max(initial=0)),
        -int(lengths_Q.min(initial=2**30)))
    check(most > 0, "there is no prompt to complete")
    check(most == -fewest, f"one process has {most} prompts, another"
          f" {-fewest}; give each the same number")

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
    """Puts arrays whose leading axis is rows, of all processes, on devices."""
    if self.mesh is None:
      return jax.tree.map(jnp.asarray, tree)
    return processes.rows(tree, rules.batch_sharding(self.mesh, "decode"))

  def _rounds(self, params, bias_LE, asked: Asked, key, harvest: Harvest, *,
              first: int = CHUNK, chunk: int = CHUNK) -> Iterator[list[int]]:
    """Decodes all samples; yields those that each decoding call has ended.

    A call samples at most `chunk` tokens per row, the first call `first`. Its
    results are yielded after the next call was dispatched, so that the device
    works while the host processes them.
    """
    length = asked.tokens_QP.shape[1]
    shared = prompts_lib.shares(length, asked.samples)
    most = (1 if shared else length) + self.cfg.max_new_tokens + self.ahead
    room = self._room(params, bias_LE, length, most, shared)
    rows_each = self.rows_each(asked.limits_QG.size, room)
    slots = Slots(
        self._own_lanes, rows_each, asked.limits_QG.size, self._clock)
    prompts = Prompts(
        self.programs, self._place, asked, harvest, self.prompts_at_once(
            len(asked.prompts), asked.samples, length, room), shared)
    if timed := asked.deadline.seconds > 0:
      first, chunk = min(first, WATCH), min(chunk, WATCH)
    rows, steps, done = None, first, None
    while True:
      before = (self._clock(), self.compilations()) if timed else None
      while processes.largest(int((slots.live_S <= slots.floors_S).any()))[0]:
        prompts.ready(params, bias_LE, slots)
        if rows is None:
          rows = self.programs.empty(
              prompts.kept or prompts.cache, key, rows=rows_each * self.lanes,
              slots=self.slots(prompts.slots + 1, most), shared=shared)
        rows = self._resized(  # room for the new prompts
            rows, slots, slots.held_SR.shape[1], prompts.slots + 1, most)
        fill = slots.fill(
            asked, prompts.begin_S, prompts.count, prompts.kept_SK)
        rows = self.programs.insert(rows, prompts.cache, key, self._place(fill))
      waiting, live, longest = processes.largest(
          slots.waiting_S.max(), slots.live_S.max(),
          _longest(asked, slots, harvest, shared) + self.ahead)
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
      left = _slots(rows.cache) - longest + 1
      rows, found = self.programs.decode(
          params, bias_LE, rows, np.int32(
              min(steps, left, CHUNK - self.programs.depth)),
          np.int32(until), self._place(slots.floors_S), None, prompts.kept,
          asked.samples if shared else 0)
      if timed and self.compilations() > before[1]:
        slots.lost += self._clock() - before[0]
      if done is not None:
        yield done
      done = harvest.take(slots, *processes.own_rows(
          (found, rows.sampled_B, rows.done_B, rows.ended_B)))
      if timed:
        rows, late = self._cut(rows, slots, asked)
        done += late
      steps = chunk

  def _cut(self, rows: Rows, slots: Slots, asked: Asked
           ) -> tuple[Rows, list[int]]:
    """Ends the samples whose deadline in seconds has passed.

    Every process looks at its own clock for its own questions; they agree on
    whether there is anything to end.
    """
    late_SR = slots.late(asked)
    if processes.largest(int(late_SR.any()))[0]:
      rows = self.programs.end(rows, self._place(late_SR.reshape(-1)))
    return rows, slots.free(late_SR)

  def _room(self, params, bias_LE, *row) -> int:
    """Most rows of every lane, see `room.rows_each`; 0 for no limit.

    A power of two, so that few sizes are compiled.
    """
    if not self._fits:
      return 0
    fit = room_lib.rows_each(
        self.model, self.programs, self.lanes, self.mesh, params, bias_LE, *row)
    if fit is None:
      fit = -(-self.untold // self.lanes)
    least = -processes.largest(-fit)[0]
    return least and 2**(least.bit_length() - 1)

  def _resized(self, rows: Rows, slots: Slots, live: int, longest: int,
               most: int) -> Rows:
    """Halves the batch while the live rows fit, and grows the cache.

    Layer by layer, so that there is never a second copy of the whole cache.

    Args:
      rows: device state.
      slots: host state, changed like `rows`.
      live: rows of every lane to keep at least.
      longest: slots that are needed.
      most: largest number of slots.
    """
    size, now = slots.held_SR.shape[1], _slots(rows.cache)
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
  """Number of equal parts that rows are split into by devices and processes."""
  shards = 1 if mesh is None else rules.batch_shards(mesh, "decode")
  return math.lcm(shards, jax.process_count())


def _longest(asked: Asked, slots: Slots, harvest: Harvest, shared: bool
             ) -> int:
  """Tokens of the longest live row of this process, its prompt included; of a
  shared prompt only the last token."""
  live = slots.held_SR[slots.held_SR >= 0]
  lengths = harvest.lengths_N[live] + (
      1 if shared else asked.lengths_Q[live // asked.samples])
  return int(lengths.max(initial=0))


def _repeats(prompt_ids: Sequence[int]) -> list[int]:
  """How often each prompt's id occurs before it, over all processes."""
  ids = [int(i) for i in prompt_ids]
  before = processes.gather(ids)[:jax.process_index()]
  seen = collections.Counter(i for part in before for i in part)
  repeats = []
  for address in ids:
    repeats.append(seen[address])
    seen[address] += 1
  return repeats


def _slots(cache: Any) -> int:
  """Slots of a cache: axis 2 of values that are apart from keys, else 1."""
  layer = cache[-1]
  return layer[1].shape[2] if isinstance(layer, tuple) else layer.shape[1]
