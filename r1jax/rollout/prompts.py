"""Prefill of the prompts whose samples begin next, and prompts kept for them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from r1jax.core import fitting
from r1jax.models.model import Params
from r1jax.rollout.programs import Programs
from r1jax.rollout.slots import Asked, Harvest, Slots
from r1jax.sharding import processes

# Prompts are padded to a multiple of it, in tokens, long ones of more: every
# length is compiled, and that takes minutes for a large model.
PROMPT_BUCKET = 64
# Rows share prompts if the longest one, padded, has SHARED tokens or more.
SHARED = 512
# Shorter prompts are packed into rows of so many tokens: the longer the row,
# the less is left over, and the more keys a CPU computes that no query sees.
ROW = 256


def padded(length: int) -> int:
  """Length of a prompt of `length` tokens after padding."""
  return PROMPT_BUCKET * bucket(-(-length // PROMPT_BUCKET))


def shares(length: int, samples: int) -> bool:
  """Whether rows share prompts: the longest has `length` tokens, padded, and
  each of them `samples` samples."""
  return length >= SHARED and samples > 1


class Packed(NamedTuple):
  """Prompts of all lanes in rows of tokens, equally many of every lane.

  Attributes:
    tokens_RP: int32, right-padded.
    lengths_RK: int32, tokens of the prompts of each row, in their order, then
      zeros; K is the prompts of a lane.
    rows_N, starts_N: int32, each prompt's row among those of its lane, and the
      index of its first token in this row.
  """

  tokens_RP: np.ndarray
  lengths_RK: np.ndarray
  rows_N: np.ndarray
  starts_N: np.ndarray


def pack(prompts_SN: Sequence[Sequence[np.ndarray]],
         plans: Sequence[Sequence[Sequence[int]]], rows: int, length: int,
         most: int) -> Packed:
  """Puts the prompts of every lane into its rows, one after the other.

  Args:
    prompts_SN: the token ids of each lane's prompts, equally many in each.
    plans: for each lane the indices of the prompts of every row.
    rows, length: rows of a lane, and tokens of a row.
    most: K, the most prompts of a row.
  """
  lanes, count = len(prompts_SN), len(prompts_SN[0])
  tokens_SRP = np.zeros((lanes, rows, length), np.int32)
  lengths_SRK = np.zeros((lanes, rows, most), np.int32)
  rows_SN, starts_SN = np.zeros((2, lanes, count), np.int32)
  for lane, plan in enumerate(plans):
    for row, indices in enumerate(plan):
      end = 0
      for number, index in enumerate(indices):
        prompt = prompts_SN[lane][index]
        start, end = end, end + len(prompt)
        tokens_SRP[lane, row, start:end] = prompt
        lengths_SRK[lane, row, number] = len(prompt)
        rows_SN[lane, index], starts_SN[lane, index] = row, start
  return Packed(tokens_SRP.reshape(-1, length), lengths_SRK.reshape(-1, most),
                rows_SN.reshape(-1), starts_SN.reshape(-1))


class Prompts:
  """Prefills the prompts whose samples begin next, `count` per lane at a time.

  If prompts are shared, their caches are kept beside the rows until their last
  samples have ended; K is the prompts of a lane that there is room for.

  Attributes:
    count: prompts of each lane in one prefill.
    cache: the KV cache of the latest prefill; None before the first one and
      after the last, and if prompts are shared.
    kept, kept_SK: the KV cache of shared prompts, and the question of each, -1
      for none; None before the first prefill, and if no prompts are shared.
    begin_S: int, each lane's first question in the latest prefill; S is lanes.
    slots: slots of a new row that hold its prompt, padding included; 1 if it is
      shared, since its last token is read by decoding.
  """

  def __init__(self, programs: Programs, place: Callable[[Any], Any],
               asked: Asked, harvest: Harvest, count: int, shared: bool):
    """Prefills nothing yet.

    Args:
      programs: the engine's.
      place: puts the rows of all processes on the devices.
      asked: what the call wants.
      harvest: gets the experts of the prompts, if they are recorded.
      count: see the class.
      shared: whether rows share prompts.
    """
    self._programs, self._place = programs, place
    self._asked, self._harvest, self.count = asked, harvest, count
    self.cache, self.begin_S, self.slots = None, None, 0
    self._shared, self.kept, self.kept_SK = shared, None, None

  def ready(self, params: Params, bias_LE: jax.Array, slots: Slots) -> None:
    """Prefills prompts if the prompt of a lane's next sample is missing."""
    # A lane without waiting samples needs none.
    next_S = np.where(slots.waiting_S > 0, slots.next_S, -1)
    next_S = np.where(next_S < 0, -1, next_S // self._asked.samples)
    if self.begin_S is not None:
      missing_S = (next_S >= 0) & (next_S >= self.begin_S + self.count)
      if not processes.largest(int(missing_S.any()))[0]:
        return
    if self.kept_SK is not None:
      # All lanes read when one needs a prompt. A lane whose present question is
      # kept reads the next one.
      next_S = next_S + (next_S[:, None] == self.kept_SK).any(1)
    # The old cache is freed first.
    self.cache, self.begin_S = None, np.maximum(next_S, 0)
    questions_SN = np.minimum(
        self.begin_S[:, None] + np.arange(self.count),
        len(self._asked.lengths_Q) - 1)
    questions, run = questions_SN.reshape(-1), self._programs
    lengths_N = self._asked.lengths_Q[questions]
    self.slots = padded(processes.largest(int(lengths_N.max()))[0])
    packed = self._packed(questions_SN) if run.packs else None
    if packed is None:
      cache, experts = run.prefill(params, bias_LE, *self._place((
          self._asked.tokens_QP[questions, :self.slots], lengths_N)))
    else:
      tokens_RP, lengths_RK, *at = self._place(packed)
      cache, experts = run.unpack(
          *run.prefill(params, bias_LE, tokens_RP, lengths_RK), *at,
          length=tokens_RP.shape[1], width=self.slots)
    if experts is not None:
      self._harvest.prompts(questions, processes.own_rows(experts))
    if self._shared:
      self._keep(self._programs.apart(cache), slots)
      self.slots = 1
    else:
      self.cache = cache

  def _packed(self, questions_SN: np.ndarray) -> Packed | None:
    """The prompts in rows; None if they take no fewer tokens than padded ones.
    """
    length = max(self.slots, ROW)
    plans = [fitting.best_fit(lengths_N, length)
             for lengths_N in self._asked.lengths_Q[questions_SN]]
    rows = bucket(processes.largest(max(map(len, plans)))[0])
    if rows * length >= self.count * self.slots:
      return None
    return pack([[self._asked.prompts[question] for question in lane]
                 for lane in questions_SN], plans, rows, length, self.count)

  def drop(self) -> None:
    """Frees the cache, when no sample waits."""
    self.cache = None

  def _keep(self, cache: Any, slots: Slots) -> None:
    """Keeps what was prefilled, in the places of prompts of no use any more."""
    lanes, size = slots.held_SR.shape
    used = [slots.questions(lane, self._asked.samples) for lane in range(lanes)]
    if self.kept_SK is None:
      self.kept_SK = np.full((lanes, 0), -1)
    kept = [[q if q in used[lane] else -1 for q in self.kept_SK[lane].tolist()]
            for lane in range(lanes)]
    new = [[q for q in range(first, first + self.count)
            if q in used[lane] and q not in kept[lane]]
           for lane, first in enumerate(self.begin_S.tolist())]
    (need,) = processes.largest(max(
        len(new[lane]) + sum(q >= 0 for q in kept[lane])
        for lane in range(lanes)))
    room, most = self.kept_SK.shape[1], len(self._asked.prompts)
    if not room:
      room = min(-(-size // self._asked.samples) + self.count, most)
    while room < need:
      room = min(2 * room, most)
    self._grow(cache, room)
    fill_SK, sources_SK = (np.zeros((lanes, room), t) for t in (bool, np.int32))
    self.kept_SK = np.full((lanes, room), -1)
    for lane in range(lanes):
      self.kept_SK[lane, :len(kept[lane])] = kept[lane]
      free = np.flatnonzero(self.kept_SK[lane] < 0)[:len(new[lane])]
      self.kept_SK[lane, free], fill_SK[lane, free] = new[lane], True
      sources_SK[lane, free] = new[lane] - self.begin_S[lane]
    self.kept = self._programs.keep(self.kept, cache, *self._place((
        fill_SK.reshape(-1), sources_SK.reshape(-1))))

  def _grow(self, cache: Any, room: int) -> None:
    """Makes room for `room` prompts of each lane, layer by layer.

    What is in new places is undefined.
    """
    lanes, before = self.kept_SK.shape
    if room == before:
      return
    layers, last = self.kept or cache, max(before, 1) - 1
    chosen_B = self._place(np.tile(
        np.minimum(np.arange(room, dtype=np.int32), last), lanes))
    grown = []
    for layer in layers:
      grown.append(self._programs.move(
          layer, chosen_B, slots=self._asked.tokens_QP.shape[1]))
      for leaf in jax.tree.leaves(layer) if self.kept else ():
        leaf.delete()
    self.kept = tuple(grown)


def bucket(size: int) -> int:
  """Rounded up to a quarter of a power of two, if above 8."""
  quarter = 2**max(0, size.bit_length() - 3)
  return -(-size // quarter) * quarter
