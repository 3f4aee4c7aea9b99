"""Completions for many who come and go, through rows that never stop.

`Engine` knows all samples of a call; here wishes arrive at any time, each with
its own temperature, top-p and seed, take a free row, and are told their tokens
as they are drawn. A completion depends on its wish alone: it is that of
`Engine.generate` under `jax.random.key(seed)` for the prompt of address 0.
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import threading
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from r1jax.core.config import check
from r1jax.models.model import Model, Params
from r1jax.rollout.programs import NO_DRAFTS, Drawn, Fill, Programs
from r1jax.rollout.sampling import SamplingConfig
from r1jax.sharding import rules

# Tokens that a run samples of a row before those who wait are told: a run costs
# a turn of the host.
CHUNK = 8
FIRST_SLOTS = 128  # of the cache; it doubles with the longest live row
PROMPT_BUCKET = 64  # prompts are padded to this, or this doubled
STOP, LENGTH, CANCELLED = "stop", "length", "cancelled"


class Told(NamedTuple):
  """What has come of a wish.

  Attributes:
    tokens, logprobs: new ones, with the end-of-sequence id if that is drawn;
      log-probabilities under the distribution drawn from.
    finished: "" if more will come, else STOP (an end-of-sequence id), LENGTH
      or CANCELLED.
    error: why nothing more comes, or "".
  """

  tokens: list[int]
  logprobs: list[float]
  finished: str = ""
  error: str = ""


@dataclasses.dataclass(eq=False, kw_only=True)
class Wish:
  """One completion that somebody wants.

  Attributes:
    prompt: its ids, at least one.
    limit: most tokens to sample.
    temperature: 0 is greedy.
    top_p: in (0, 1].
    seed: below 2**32; with `number` it addresses the randomness.
    number: of the completion among those of one prompt.
    tell: called with every `Told`, in the thread that works; must not wait.
    cancelled: set it, and its row is freed at the next turn.
  """

  prompt: np.ndarray
  limit: int
  temperature: float
  top_p: float
  seed: int
  number: int
  tell: Callable[[Told], None]
  cancelled: bool = False


class Full(Exception):
  """More wait than may."""


class Serving:
  """A model that completes for many at once.

      serving = Serving(model, params, bias_LE, eos_ids)
      serving.ask([wish])    # from any thread
      serving.work()         # in a thread of its own, until `close`

  Attributes:
    failure: what ended the work, if something did.
  """

  def __init__(self, model: Model, params: Params, bias_LE: jax.Array,
               eos_ids: frozenset[int], *, max_rows: int, max_waiting: int,
               context: int, vocab: int = 0, speculate: bool = False,
               mesh: jax.sharding.Mesh | None = None):
    """Prepares, without compiling yet.

    Args:
      model: what to sample from.
      params: of it, ready to decode (`Model.unstack`).
      bias_LE: its router bias.
      eos_ids: a completion ends with the first of these.
      max_rows: completions that live at once.
      max_waiting: that may wait beside them.
      context: most tokens of a prompt with its completion.
      vocab: ids below this are drawn; 0 for all.
      speculate: let multi-token prediction draft, see `Engine`.
      mesh: rows are split over its batch axes; None for one device.

    Raises:
      ValueError: rows that do not divide over the mesh, a context that is
        longer than the model's, or nothing that can draft.
    """
    model.cfg.check_length(context, f"context={context}")
    lanes = 1 if mesh is None else rules.batch_shards(mesh, "decode")
    check(max_rows > 0 and max_rows % lanes == 0, f"max_rows={max_rows} must be"
          f" a positive multiple of {lanes}, the parts that devices split rows"
          " into")
    check(max_waiting >= 0, f"max_waiting={max_waiting} must not be negative")
    check(model.cfg.n_mtp > 0 or not speculate, NO_DRAFTS)
    self.failure: BaseException | None = None
    self.context, self._mesh, self._max_waiting = context, mesh, max_waiting
    self._programs = Programs(
        dataclasses.replace(model, layout="decode"),
        SamplingConfig(vocab=vocab), np.array(sorted(eos_ids), np.int32), lanes,
        drafts=speculate)
    self._ahead = int(speculate)  # tokens that a step reads beyond the latest
    self._end = jax.jit(_end, donate_argnums=0)
    self._weights = params, bias_LE
    self._rows: Any = None
    self._slots = 0
    self._held: list[Wish | None] = [None] * max_rows
    self._lengths = np.zeros(max_rows, np.int64)  # prompt and completion
    self._sampled = np.zeros(max_rows, np.int64)
    self._lanes = lanes
    self._waiting: collections.deque[Wish] = collections.deque()
    self._changed, self._closed = threading.Condition(), False

  def compilations(self) -> int:
    """Programs compiled so far."""
    return self._programs.compilations()

  @property
  def live(self) -> int:
    """Completions that have a row."""
    return sum(wish is not None for wish in self._held)

  @property
  def waiting(self) -> int:
    """Completions that wait for one."""
    return len(self._waiting)

  def ask(self, wishes: Iterable[Wish]) -> None:
    """Adds wishes, all or none.

    Raises:
      Full: so many cannot wait; nothing was added.
      ValueError: a prompt that is empty, or too long with its limit.
    """
    wishes = list(wishes)
    for wish in wishes:
      tokens = len(wish.prompt)
      check(tokens > 0, "the prompt is empty")
      check(wish.limit > 0 and tokens + wish.limit <= self.context,
            f"a prompt of {tokens} tokens and {wish.limit} new ones do not fit"
            f" into {self.context}")
    with self._changed:
      free = self._held.count(None)
      if self._closed:
        raise Full("the service has ended")
      if len(self._waiting) + len(wishes) > self._max_waiting + free:
        raise Full(f"{len(self._waiting)} completions wait already")
      self._waiting.extend(wishes)
      self._changed.notify()

  def close(self) -> None:
    """Lets `work` return; what is not done is told that it is cancelled."""
    with self._changed:
      self._closed = True
      self._changed.notify()

  def work(self) -> None:
    """Samples until `close`; sleeps while nobody wants anything."""
    error = "the service has ended"
    place = (contextlib.nullcontext() if self._mesh is None
             else jax.set_mesh(self._mesh))
    try:
      with place:
        while self._wanted():
          self._turn()
    except BaseException as failure:
      self.failure, error = failure, "the model failed; see the server's log"
      raise
    finally:
      self.close()
      left = [*filter(None, self._held), *self._waiting]
      self._held = [None] * len(self._held)
      self._waiting.clear()
      for wish in left:
        wish.tell(Told([], [], CANCELLED, error))

  def _wanted(self) -> bool:
    """Waits for something to do; False if there will be nothing more."""
    with self._changed:
      if not (self.live or self._waiting) and self._slots > FIRST_SLOTS:
        self._rows = None  # a long cache is not kept for nobody
      self._changed.wait_for(
          lambda: self._closed or self._waiting or self.live)
      return not self._closed

  def _turn(self) -> None:
    """Frees rows that nobody wants, fills free ones, samples of all."""
    self._free()
    self._fill()
    live = [row for row, wish in enumerate(self._held) if wish]
    if not live:
      return
    longest = int(self._lengths[live].max()) + self._ahead
    self._make_room(longest + 1)
    room = self._slots - longest + 1
    # A row that ends makes place for one who waits.
    floors_S = np.full(self._lanes, -1)
    if self._waiting:
      held_SR = np.array([w is not None for w in self._held]).reshape(
          self._lanes, -1)
      floors_S = held_SR.sum(1) - 1
    each = [wish or _NOBODY for wish in self._held]
    self._rows, found = self._programs.decode(
        *self._weights, self._rows, np.int32(min(CHUNK, room)), np.int32(0),
        self._place(floors_S.astype(np.int32)), self._place(Drawn(
            np.array([wish.temperature for wish in each], np.float32),
            np.array([wish.top_p for wish in each], np.float32))))
    self._tell(live, *jax.device_get((
        found.tokens, found.logprobs, self._rows.sampled_B,
        self._rows.done_B, self._rows.ended_B)))

  def _free(self) -> None:
    """Ends what was cancelled."""
    with self._changed:
      gone = [wish for wish in self._waiting if wish.cancelled]
      for wish in gone:
        self._waiting.remove(wish)
    for wish in gone:
      wish.tell(Told([], [], CANCELLED))
    gone_B = np.array([bool(w and w.cancelled) for w in self._held])
    for row in np.flatnonzero(gone_B):
      self._held[row].tell(Told([], [], CANCELLED))
      self._held[row] = None
    if gone_B.any():
      self._rows = self._end(self._rows, self._place(gone_B))

  def _fill(self) -> None:
    """Gives free rows to those who wait, one of each lane at a time."""
    while new := self._next():
      most = max(len(wish.prompt) for wish in new.values())
      padded = PROMPT_BUCKET
      while padded < most:
        padded *= 2
      padded = min(padded, self.context)
      tokens_SP = np.zeros((self._lanes, padded), np.int32)
      lengths_S = np.ones(self._lanes, np.int32)
      each = len(self._held) // self._lanes
      for row, wish in new.items():
        tokens_SP[row // each, :len(wish.prompt)] = wish.prompt
        lengths_S[row // each] = len(wish.prompt)
        self._lengths[row], self._sampled[row] = len(wish.prompt), 0
        self._held[row] = wish
      prompts, _ = self._programs.prefill(
          *self._weights, *self._place((tokens_SP, lengths_S)))
      self._make_room(padded, prompts)
      self._rows = self._programs.insert(
          self._rows, prompts, *self._seated(new))

  def _next(self) -> dict[int, Wish]:
    """For each lane with a free row, the row and who comes next."""
    each, new = len(self._held) // self._lanes, {}
    with self._changed:
      for first in range(0, len(self._held), each):
        free = [row for row in range(first, first + each)
                if self._held[row] is None]
        if free and self._waiting:
          new[free[0]] = self._waiting.popleft()
    return new

  def _seated(self, new: dict[int, Wish]) -> tuple[jax.Array, Fill]:
    """Keys of all rows, and what `Programs.insert` is to do."""
    rows = len(self._held)
    each = [new.get(row, _NOBODY) for row in range(rows)]
    zeros_B = np.zeros(rows, np.int32)
    seeds_B, fill = self._place((
        np.array([wish.seed for wish in each], np.uint32), Fill(
            np.array([row in new for row in range(rows)]), zeros_B,
            np.array([len(wish.prompt) for wish in each], np.int32),
            np.array([wish.prompt[-1] for wish in each], np.int32),
            np.array([wish.limit for wish in each], np.int32),
            zeros_B.astype(np.uint32),
            np.array([wish.number for wish in each], np.uint32))))
    return jax.vmap(jax.random.key)(seeds_B), fill

  def _make_room(self, need: int, prompts: Any = None) -> None:
    """A cache of at least `need` slots for every row."""
    slots = FIRST_SLOTS if self._rows is None else self._slots
    while slots < need:
      slots *= 2
    slots = max(min(slots, self.context + self._ahead), need)
    if self._rows is None:
      self._rows = self._programs.empty(
          prompts, jax.random.key(0), rows=len(self._held), slots=slots)
    elif slots > self._slots:
      each = len(self._held) // self._lanes
      kept_B = self._place(np.tile(np.arange(each, dtype=np.int32),
                                   self._lanes))
      cache = []
      for layer in self._rows.cache:  # so that two caches never meet
        cache.append(self._programs.move(layer, kept_B, slots=slots))
        for leaf in jax.tree.leaves(layer):
          leaf.delete()
      self._rows = self._rows._replace(cache=tuple(cache))
    self._slots = slots

  def _tell(self, live: list[int], tokens, logprobs, sampled_B, done_B, ended_B
            ) -> None:
    """Hands over what a run gave and frees the rows that are done."""
    for row in live:
      wish, new = self._held[row], int(sampled_B[row] - self._sampled[row])
      self._sampled[row] += new
      self._lengths[row] += new
      finished = ""
      if done_B[row]:
        finished = STOP if ended_B[row] else LENGTH
        self._held[row] = None
      wish.tell(Told(tokens[row, :new].tolist(), logprobs[row, :new].tolist(),
                     finished))

  def _place(self, tree: Any) -> Any:
    if self._mesh is None:
      return jax.tree.map(jnp.asarray, tree)
    return jax.device_put(tree, rules.batch_sharding(self._mesh, "decode"))


_NOBODY = Wish(prompt=np.zeros(1, np.int32), limit=1, temperature=1.0,
               top_p=1.0, seed=0, number=0, tell=lambda told: None)


def _end(rows, which_B):
  """The rows, of which some are done."""
  return rows._replace(done_B=rows.done_B | which_B)
