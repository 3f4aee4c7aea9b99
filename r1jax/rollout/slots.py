"""Host side of the engine: queue of samples, samples in rows, their tokens."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from r1jax.core.config import check
from r1jax.core.types import Rollout
from r1jax.rollout.programs import Fill, Sampled

# Free rows of a lane are refilled together, once they are this share of its
# rows: a refill is done by the host, for which all other rows wait.
REFILL = 1 / 8


class Deadline(NamedTuple):
  """How long a question's samples may take from the beginning of the first one.

  Attributes:
    tokens: decoding steps; 0 for no such deadline.
    seconds: wall time; 0 for no such deadline. What is truncated then depends
      on the machine's speed and cannot be reproduced.
  """

  tokens: int = 0
  seconds: float = 0.0

  @classmethod
  def parse(cls, text: str) -> Deadline:
    """Reads "2000" (tokens) or "30s" (seconds); "0" is for none.

    Raises:
      ValueError: it is neither.
    """
    found = re.fullmatch(r"(\d+)|(\d+(?:\.\d+)?)s", text)
    check(found is not None, f"rollout_deadline={text!r}: give a number of"
          " tokens (2000), a number of seconds (30s), or 0 for none")
    return cls(int(found[1] or 0), float(found[2] or 0))


class Asked(NamedTuple):
  """The samples that a call asks for, in NumPy arrays.

  Attributes:
    prompts: Q arrays of int32 ids.
    tokens_QP: int32, the same prompts, right-padded.
    lengths_Q: int32, their numbers of tokens.
    ids_Q, firsts_Q: uint32, the prompts' ids, which address randomness, and the
      number of each prompt's first sample.
    limits_QG: int32, the most tokens of each completion.
    deadline: from the beginning of a question's first sample to the end of its
      last.
  """

  prompts: tuple[np.ndarray, ...]
  tokens_QP: np.ndarray
  lengths_Q: np.ndarray
  ids_Q: np.ndarray
  firsts_Q: np.ndarray
  limits_QG: np.ndarray
  deadline: Deadline = Deadline()

  @property
  def samples(self) -> int:
    return self.limits_QG.shape[1]


class Slots:
  """Which sample of this process is in which row, and which ones wait.

  Samples are numbered question by question. Each lane has a contiguous range of
  them, which begin in order. S is this process's lanes, R the rows of a lane.

  Attributes:
    held_SR: int, the sample in each row, -1 for none.
    next_S, stop_S: int, each lane's first waiting sample, and the end of its
      range (exclusive).
    steps: decoding steps so far, in tokens of a row that was always live.
    lost: seconds so far that no deadline counts.
  """

  def __init__(self, lanes: int, rows: int, total: int,
               clock: Callable[[], float] = time.monotonic):
    """All samples wait; `clock` tells the seconds for deadlines."""
    ends = np.arange(lanes + 1) * total // lanes
    self.held_SR = np.full((lanes, rows), -1)
    self.next_S, self.stop_S = ends[:-1].copy(), ends[1:].copy()
    self.steps, self.lost, self._clock = 0, 0.0, clock
    # (steps, seconds) at which each question's first sample began.
    self._began: dict[int, tuple[int, float]] = {}

  @property
  def waiting_S(self) -> np.ndarray:
    return self.stop_S - self.next_S

  @property
  def live_S(self) -> np.ndarray:
    return (self.held_SR >= 0).sum(1)

  @property
  def floors_S(self) -> np.ndarray:
    """int32: a lane is refilled when it has this many live rows or fewer; -1 if
    no sample waits."""
    rows = self.held_SR.shape[1]
    enough_S = np.minimum(max(1, int(rows * REFILL)), self.waiting_S)
    return np.where(self.waiting_S > 0, rows - enough_S, -1).astype(np.int32)

  def questions(self, lane: int, samples: int) -> set[int]:
    """A lane's questions of which samples live or wait.

    `samples` is the number of each question's samples.
    """
    held = self.held_SR[lane]
    live = set((held[held >= 0] // samples).tolist())
    if self.next_S[lane] == self.stop_S[lane]:
      return live
    return live | set(range(self.next_S[lane] // samples,
                            (self.stop_S[lane] - 1) // samples + 1))

  def fill(self, asked: Asked, begin_S: np.ndarray, count: int,
           kept_SK: np.ndarray | None = None) -> Fill:
    """Puts the next samples of every lane into its free rows.

    Args:
      asked: the samples of the call.
      begin_S, count: each lane's first prefilled question, and the number of
        them; samples of later questions keep waiting.
      kept_SK: the question of each prompt that rows share, if they do.
    """
    lanes, rows = self.held_SR.shape
    sample_SR = np.full((lanes, rows), -1)
    for lane in range(lanes):
      free = np.flatnonzero(self.held_SR[lane] < 0)
      end = min(self.stop_S[lane], (begin_S[lane] + count) * asked.samples)
      new = np.arange(self.next_S[lane], end)[:len(free)]
      sample_SR[lane, free[:len(new)]] = new
      self.next_S[lane] += len(new)
    fill_SR = sample_SR >= 0
    self.held_SR = np.where(fill_SR, sample_SR, self.held_SR)
    sample_SR = np.maximum(sample_SR, 0)
    question_SR, number_SR = np.divmod(sample_SR, asked.samples)
    lengths_SR = asked.lengths_Q[question_SR]
    limits_SR = asked.limits_QG[question_SR, number_SR]
    if any(asked.deadline):
      limits_SR = np.minimum(
          limits_SR, self._left(asked.deadline, question_SR, fill_SR))
    if kept_SK is None:
      sources_SR = np.clip(question_SR - begin_S[:, None], 0, count - 1)
    else:
      sources_SR = (question_SR[..., None] == kept_SK[:, None]).argmax(-1)
    return Fill(*(x.reshape(-1) for x in (
        fill_SR, sources_SR.astype(np.int32), lengths_SR,
        asked.tokens_QP[question_SR, lengths_SR - 1],
        limits_SR.astype(np.int32), asked.ids_Q[question_SR],
        (asked.firsts_Q[question_SR] + number_SR).astype(np.uint32))))

  def _left(self, deadline: Deadline, question_SR: np.ndarray,
            fill_SR: np.ndarray) -> np.ndarray:
    """The most tokens of samples that begin now, by their questions' deadlines;
    at least 1."""
    now = self.steps, self._now()
    for question in question_SR[fill_SR].tolist():
      self._began.setdefault(question, now)
    began = np.array([[self._began.get(question, now) for question in row]
                      for row in question_SR.tolist()])
    left_SR = np.full(question_SR.shape, np.iinfo(np.int32).max)
    if deadline.tokens:
      left_SR = deadline.tokens - (self.steps - began[..., 0].astype(int))
    if deadline.seconds:
      late_SR = now[1] - began[..., 1] >= deadline.seconds
      left_SR = np.where(late_SR, 1, left_SR)
    return np.maximum(left_SR, 1)

  def late(self, asked: Asked) -> np.ndarray:
    """bool [S, R], the rows whose question's deadline in seconds has passed."""
    now = self._now()
    return np.array([[
        sample >= 0 and now - self._began[sample // asked.samples][1]
        >= asked.deadline.seconds for sample in row]
                     for row in self.held_SR.tolist()])

  def _now(self) -> float:
    return self._clock() - self.lost

  def free(self, which_SR: np.ndarray) -> list[int]:
    """Frees rows; returns the samples that were in them."""
    samples = self.held_SR[which_SR].tolist()
    self.held_SR = np.where(which_SR, -1, self.held_SR)
    return samples

  def keep(self, rows: int) -> np.ndarray:
    """Reduces every lane to `rows` rows, live ones first.

    Returns:
      int32 [lanes * rows], the former index in its lane of every row kept.
    """
    kept_SR = np.argsort(self.held_SR < 0, 1, kind="stable")[:, :rows]
    self.held_SR = np.take_along_axis(self.held_SR, kept_SR, 1)
    return kept_SR.astype(np.int32).reshape(-1)


class Harvest:
  """Collects the results of a call's N samples.

  Attributes:
    tokens_NT, logprobs_NT: int32 and float32, tokens and log-probabilities.
    lengths_N: int32, tokens so far.
    ended_N: bool, whether the last token is an end-of-sequence id.
    rounds_T: int, forward passes so far that gave more than t tokens, summed
      over rows.
  """

  def __init__(self, asked: Asked, new: int):
    total = asked.limits_QG.size
    self._asked = asked
    self.tokens_NT = np.zeros((total, new), np.int32)
    self.logprobs_NT = np.zeros((total, new), np.float32)
    self.lengths_N = np.zeros(total, np.int32)
    self.ended_N = np.zeros(total, bool)
    self.rounds_T = np.zeros(1, int)
    # Of every sample its prompt, padded to the longest one, and its tokens.
    self._prompt = asked.tokens_QP.shape[1]
    self._experts_NSLA: np.ndarray | None = None

  def prompts(self, questions: np.ndarray, experts_NPLA: np.ndarray) -> None:
    """Stores the experts of prefilled prompts, without what lies behind them.
    """
    if self._experts_NSLA is None:
      # Memory that nothing is written to is not taken: samples are mostly much
      # shorter than they may be.
      total, new = self.tokens_NT.shape
      self._experts_NSLA = np.zeros(
          (total, self._prompt + new, *experts_NPLA.shape[2:]), np.int32)
    for question, experts in zip(questions, experts_NPLA, strict=True):
      length = self._asked.lengths_Q[question]
      self._shaped(self._experts_NSLA)[question, :, :length] = experts[:length]

  def take(self, slots: Slots, found: Sampled, sampled_B: np.ndarray,
           done_B: np.ndarray, ended_B: np.ndarray) -> list[int]:
    """Adds the results of a decoding call and frees the rows that are done.

    Args:
      slots: the samples in the rows.
      found: what the call sampled, as NumPy arrays.
      sampled_B, done_B, ended_B: fields of `Rows` after the call.

    Returns:
      The samples that have ended or reached their limit.
    """
    held_B, done, steps = slots.held_SR.reshape(-1), [], 0
    self.rounds_T = self.rounds_T + found.rounds_BT.sum(0)
    for row in np.flatnonzero(held_B >= 0):
      sample = held_B[row]
      begin, end = self.lengths_N[sample], sampled_B[row]
      new = end - begin
      steps = max(steps, int(new))
      self.tokens_NT[sample, begin:end] = found.tokens[row, :new]
      self.logprobs_NT[sample, begin:end] = found.logprobs[row, :new]
      if found.experts is not None:
        # Experts belong to the token before the sampled one: before a sample's
        # first token that is the prompt's last.
        first, at = int(begin == 0), self._prompt + begin - 1
        self._experts_NSLA[sample, at + first:at + new] = (
            found.experts[row, first:new])
      self.lengths_N[sample] = end
      if done_B[row]:
        self.ended_N[sample] = ended_B[row]
        done.append(int(sample))
    slots.steps += steps
    slots.free(done_B.reshape(slots.held_SR.shape))
    return done

  def completion(self, sample: int) -> np.ndarray:
    """int32 ids of a sample so far; a copy."""
    return self.tokens_NT[sample, :self.lengths_N[sample]].copy()

  def rollout(self, begin: int = 0, end: int | None = None) -> Rollout:
    """The samples of questions `begin` (inclusive) to `end` (exclusive)."""
    of, experts = slice(begin, end), self._experts_NSLA
    return Rollout(
        prompt_tokens=self._asked.prompts[of],
        prompt_ids_Q=self._asked.ids_Q[of].astype(np.int64),
        tokens_QGT=self._shaped(self.tokens_NT)[of],
        lengths_QG=self._shaped(self.lengths_N)[of],
        truncated_QG=~self._shaped(self.ended_N)[of],
        logprobs_QGT=self._shaped(self.logprobs_NT)[of],
        experts_QGSLA=None if experts is None else self._shaped(experts)[of])

  def _shaped(self, x: np.ndarray) -> np.ndarray:
    """[N, ...] -> [Q, G, ...], without a copy."""
    return x.reshape(*self._asked.limits_QG.shape, *x.shape[1:])
