"""Prefill of the prompts whose samples begin next."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from r1jax.models.model import Params
from r1jax.rollout.programs import Programs
from r1jax.rollout.slots import Asked, Harvest, Slots
from r1jax.sharding import processes

# Prompts are padded to a multiple of it, in tokens: every length is compiled.
PROMPT_BUCKET = 64


def padded(length: int) -> int:
  """Length of a prompt of `length` tokens after padding."""
  return -(-length // PROMPT_BUCKET) * PROMPT_BUCKET


class Prompts:
  """Prefills the prompts whose samples begin next, `count` per lane at a time.

  Attributes:
    count: prompts of each lane in one prefill.
    cache: their KV cache; None before the first prefill and after the last.
    begin_S: int, each lane's first question in it; S is lanes.
    padded: slots of each prompt in it, padding included.
  """

  def __init__(self, programs: Programs, place: Callable[[Any], Any],
               asked: Asked, harvest: Harvest, count: int):
    """Prefills nothing yet.

    Args:
      programs: the engine's.
      place: puts the rows of all processes on the devices.
      asked: what the call wants.
      harvest: gets the experts of the prompts, if they are recorded.
      count: see the class.
    """
    self._programs, self._place = programs, place
    self._asked, self._harvest, self.count = asked, harvest, count
    self.cache, self.begin_S, self.padded = None, None, 0

  def ready(self, params: Params, bias_LE: jax.Array, slots: Slots) -> None:
    """Prefills prompts if the prompt of a lane's next sample is missing."""
    # A lane without waiting samples needs none.
    next_S = np.where(slots.waiting_S > 0, slots.next_S, -1)
    next_S = np.where(next_S < 0, -1, next_S // self._asked.samples)
    if self.cache is not None:
      missing_S = (next_S >= 0) & (next_S >= self.begin_S + self.count)
      if not processes.largest(int(missing_S.any()))[0]:
        return
    # The old cache is freed first.
    self.cache, self.begin_S = None, np.maximum(next_S, 0)
    questions = np.minimum(
        self.begin_S[:, None] + np.arange(self.count),
        len(self._asked.lengths_Q) - 1).reshape(-1)
    lengths = self._asked.lengths_Q[questions]
    self.padded = padded(processes.largest(int(lengths.max()))[0])
    self.cache, experts = self._programs.prefill(
        params, bias_LE, *self._place((
            self._asked.tokens_QP[questions, :self.padded], lengths)))
    if experts is not None:
      self._harvest.prompts(questions, processes.own_rows(experts))

  def drop(self) -> None:
    """Frees the cache, when no sample waits."""
    self.cache = None
