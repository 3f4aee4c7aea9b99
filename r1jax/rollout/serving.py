"""Continuous batching: requests come and go while the batch keeps decoding.

`Engine` knows all samples of a call in advance; here requests (`Wish`) arrive
at any time, each with its own temperature, top-p and seed, take a free row, and
receive their tokens as they are sampled (`Told`). A completion depends on its
request alone: it equals that of `Engine.generate` under `jax.random.key(seed)`
for a prompt of id 0.
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
from r1jax.rollout import room
from r1jax.rollout.programs import Drawn, Fill, Programs, Rows
from r1jax.rollout.prompts import pack
from r1jax.rollout.sampling import SamplingConfig
from r1jax.sharding import rules

# Tokens sampled per row between two host syncs: clients receive tokens, and
# free rows are filled, only at a sync.
CHUNK = 8
FIRST_SLOTS = 128  # of the KV cache at first; doubled for longer live rows
PROMPT_BUCKET = 64  # prompts are padded to this times a power of two
MOST = 32  # rows, unless another number is asked for
PACKED = 512  # the most tokens of a lane's prompts that are prefilled together
STOP, LENGTH, CANCELLED = "stop", "length", "cancelled"


class Told(NamedTuple):
  """An update on a request.

  Attributes:
    tokens: newly sampled ids, including the end-of-sequence id.
    logprobs: their log-probabilities under the distribution sampled from.
    finished: "" if more tokens follow, else STOP (an end-of-sequence id),
      LENGTH or CANCELLED.
    error: why it was cancelled, if the service failed or ended; else "".
  """

  tokens: list[int]
  logprobs: list[float]
  finished: str = ""
  error: str = ""


@dataclasses.dataclass(eq=False, kw_only=True)
class Wish:
  """A request for one completion.

  Attributes:
    prompt: int32 ids, at least one.
    limit: the most tokens to sample.
    temperature: 0 is greedy.
    top_p: in (0, 1].
    seed: below 2**32; with `number` it addresses the randomness.
    number: index of the completion among those of one prompt.
    tell: called with every `Told` in the thread of `work`; must not block.
    cancelled: set it to free the row at the next host sync.
  """

  prompt: np.ndarray
  limit: int
  temperature: float
  top_p: float
  seed: int
  number: int
  tell: Callable[[Told], None]
  cancelled: bool = False


class _Group(NamedTuple):
  """Requests that get rows, those of a lane with one prompt.

  Attributes:
    new: the requests by row.
    prompts_S: each lane's prompt; empty if it has none.
  """

  new: dict[int, Wish]
  prompts_S: list[np.ndarray]


class Full(Exception):
  """The queue has no room for a request."""


class Ended(RuntimeError):
  """The service has ended, after `close` or a failure."""


class Serving:
  """Completes the prompts of many clients in one batch.

      serving = Serving(model, params, bias_LE, eos_ids, max_rows=8, ...)
      serving.ask([wish])    # from any thread
      serving.work()         # in a thread of its own, until `close`

  Attributes:
    failure: the exception that ended `work`, or None.
  """

  def __init__(self, model: Model, params: Params, bias_LE: jax.Array,
               eos_ids: frozenset[int], *, max_waiting: int, context: int,
               max_rows: int = 0, vocab: int = 0, speculate: int = 0,
               mesh: jax.sharding.Mesh | None = None):
    """Checks the settings; nothing is compiled yet.

    Args:
      model: the model to sample from.
      params: its parameters in the decode layout (`Model.unstack`).
      bias_LE: its router bias.
      eos_ids: a completion ends with the first of these.
      max_waiting: the most completions that wait for a row.
      context: the most tokens of a prompt with its completion.
      max_rows: the most completions decoded at once; 0 for MOST, or as many as
        fit into the devices' free memory if all are as long as `context`.
      vocab: only ids below this are sampled; 0 for all.
      speculate: tokens that the multi-token prediction module drafts, see
        `Engine`.
      mesh: rows are split over its batch axes; None for one device.

    Raises:
      ValueError: the rows do not divide over the mesh or do not fit into the
        devices' memory, the context is longer than the model's, `speculate` is
        out of range, or the model has no module that can draft.
    """
    model.cfg.check_length(context, f"context={context}")
    lanes = 1 if mesh is None else rules.batch_shards(mesh, "decode")
    check(max_rows >= 0 and max_rows % lanes == 0, f"max_rows={max_rows} must"
          f" be a multiple of {lanes}, the parts that devices split rows into;"
          " 0 is for as many as fit")
    check(max_waiting >= 0, f"max_waiting={max_waiting} must not be negative")
    self.failure: BaseException | None = None
    self.context, self._mesh, self._max_waiting = context, mesh, max_waiting
    platform = (jax.default_backend() if mesh is None
                else mesh.devices.flat[0].platform)
    model = dataclasses.replace(model, layout="decode")
    self._programs = Programs(
        model, SamplingConfig(vocab=vocab), np.array(sorted(eos_ids), np.int32),
        lanes, depth=speculate, platform=platform)
    self._ahead = self._programs.ahead
    self._packed = PACKED * self._programs.packs
    self._weights = params, bias_LE
    self._rows: Any = None
    self._slots = 0
    # Else the first completions that are long would end the service.
    fit = room.rows_each(
        model, self._programs, lanes, mesh, params, bias_LE, PROMPT_BUCKET,
        context + self._ahead, False)
    check(fit is None or max_rows <= fit * lanes, f"max_rows={max_rows}"
          f" completions of context={context} tokens do not fit into the"
          f" devices' free memory, {(fit or 0) * lanes} may: lower one of the"
          " two")
    self._lanes, self._most = lanes, max_rows // lanes or min(
        max(1, MOST // lanes), fit or MOST)
    self._sizes = sizes(platform, self._most)
    rows = self._sizes[0] * lanes
    self._held: list[Wish | None] = [None] * rows
    self._lengths = np.zeros(rows, np.int64)  # prompt and completion
    self._sampled = np.zeros(rows, np.int64)
    self._waiting: collections.deque[Wish] = collections.deque()
    self._changed, self._closed = threading.Condition(), False

  def compilations(self) -> int:
    """Programs compiled so far."""
    return self._programs.compilations()

  @property
  def capacity(self) -> int:
    """The most completions that have a row or wait for one."""
    return self._most * self._lanes + self._max_waiting

  @property
  def live(self) -> int:
    """Completions that have a row."""
    return sum(wish is not None for wish in self._held)

  @property
  def waiting(self) -> int:
    """Completions that wait for a row."""
    return len(self._waiting)

  def ask(self, wishes: Iterable[Wish]) -> None:
    """Enqueues requests, all or none.

    Raises:
      Full: the queue has no room for all of them; none was added.
      Ended: nobody answers any more.
      ValueError: a prompt is empty, or too long with its limit.
    """
    wishes = list(wishes)
    for wish in wishes:
      tokens = len(wish.prompt)
      check(tokens > 0, "the prompt is empty")
      check(wish.limit > 0 and tokens + wish.limit <= self.context,
            f"a prompt of {tokens} tokens and {wish.limit} new ones do not fit"
            f" into the context of {self.context}")
    with self._changed:
      if self._closed:
        raise Ended("the service has ended")
      if self.live + len(self._waiting) + len(wishes) > self.capacity:
        raise Full(f"{len(self._waiting)} completions are already waiting")
      self._waiting.extend(wishes)
      self._changed.notify()

  def warm(self) -> None:
    """Compiles what short requests need; `work` must be running.

    It asks for a token of a prompt, as often as there may be rows, so that no
    client waits for these programs.
    """
    with self._on_mesh():
      self._compile()
    for each in self._sizes:
      count = each * self._lanes
      left = threading.Semaphore(0)
      self.ask(dataclasses.replace(
          _NOBODY, tell=lambda told, left=left: left.release())
               for _ in range(count))
      for _ in range(count):
        left.acquire()

  def _compile(self) -> None:
    """Compiles the prefill of short prompts that come together."""
    length = PROMPT_BUCKET
    while length <= self._packed:
      cache, _ = self._programs.prefill(*self._weights, *self._place((
          np.zeros((self._lanes, length), np.int32),
          np.ones((self._lanes, self._most), np.int32))))
      self._programs.unpack(cache, None, *self._place(
          2 * [np.zeros(self._lanes, np.int32)]), length=length,
                            width=PROMPT_BUCKET)
      length *= 2

  def close(self) -> None:
    """Makes `work` return; unfinished requests are told CANCELLED."""
    with self._changed:
      self._closed = True
      self._changed.notify()

  def work(self) -> None:
    """Samples until `close`; sleeps while there is no request."""
    error = "the service has ended"
    try:
      with self._on_mesh():
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
    """Waits for a request; False after `close`."""
    with self._changed:
      if not (self.live or self._waiting) and self._slots > FIRST_SLOTS:
        self._rows = None  # frees a long cache while the service is idle
      self._changed.wait_for(
          lambda: self._closed or self._waiting or self.live)
      return not self._closed

  def _turn(self) -> None:
    """Frees cancelled rows, fills free ones, samples for all live rows."""
    self._free()
    self._resize()
    self._fill()
    live = [row for row, wish in enumerate(self._held) if wish]
    if not live:
      return
    longest = int(self._lengths[live].max()) + self._ahead
    self._make_room(longest + 1)
    room = self._slots - longest + 1
    # If somebody waits, decoding stops as soon as a row is free.
    floors_S = np.full(self._lanes, -1)
    if self._waiting:
      floors_S = self._live_SR().sum(1) - 1
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
    """Removes cancelled requests from the queue and from their rows."""
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
      self._rows = self._programs.end(self._rows, self._place(gone_B))

  def _live_SR(self) -> np.ndarray:
    return np.array([wish is not None for wish in self._held]).reshape(
        self._lanes, -1)

  def _resize(self) -> None:
    """Gives the lanes as many rows as are wanted, live ones first."""
    live_SR = self._live_SR()
    counts_S = live_SR.sum(1)
    wanted = max(int(counts_S.max()), -(
        -(int(counts_S.sum()) + len(self._waiting)) // self._lanes))
    each = next(n for n in self._sizes if n >= min(wanted, self._most))
    if each == live_SR.shape[1]:
      return
    # New rows begin as copies, which are marked as done.
    order_SR = np.argsort(~live_SR, 1, kind="stable")
    kept_SR = np.pad(order_SR, ((0, 0), (0, each)))[:, :each]
    empty_SR = np.arange(each) >= counts_S[:, None]

    def kept(x):
      return np.take_along_axis(x.reshape(self._lanes, -1), kept_SR, 1)

    held_SR = kept(np.array(self._held, object))
    held_SR[empty_SR] = None
    self._held = held_SR.reshape(-1).tolist()
    self._lengths, self._sampled = (
        kept(x).reshape(-1) for x in (self._lengths, self._sampled))
    if self._rows is not None:
      kept_B = self._place(kept_SR.reshape(-1).astype(np.int32))
      state = self._programs.pick(tuple(self._rows[1:]), kept_B)
      self._rows = self._programs.end(
          Rows(self._moved(kept_B, self._slots), *state),
          self._place(empty_SR.reshape(-1)))

  def _moved(self, kept_B: jax.Array, slots: int) -> Any:
    """The cache of the rows `kept_B`; the former one is freed."""
    cache = []
    for layer in self._rows.cache:  # one layer at a time exists twice
      cache.append(self._programs.move(layer, kept_B, slots=slots))
      for leaf in jax.tree.leaves(layer):
        leaf.delete()
    return tuple(cache)

  def _fill(self) -> None:
    """Gives free rows to waiting requests; short prompts are read together."""
    some, total_S = [], np.zeros(self._lanes, int)
    while (group := self._next()).new:
      lengths_S = np.array([len(prompt) for prompt in group.prompts_S])
      if some and np.max(total_S + lengths_S) > self._packed:
        self._insert(some)
        some, total_S = [], 0 * total_S
      some, total_S = [*some, group], total_S + lengths_S
    if some:
      self._insert(some)

  def _next(self) -> _Group:
    """The next waiting requests, which get rows."""
    each, new, prompts_S = len(self._held) // self._lanes, {}, []
    with self._changed:
      for first in range(0, len(self._held), each):
        prompt = None
        for row in range(first, first + each):
          if self._held[row] is not None or not self._waiting:
            continue
          following = self._waiting[0].prompt
          if prompt is not None and not np.array_equal(prompt, following):
            break
          new[row] = self._held[row] = self._waiting.popleft()
          self._lengths[row], self._sampled[row] = len(following), 0
          prompt = following
        prompts_S.append(_NOBODY.prompt[:0] if prompt is None else prompt)
    return _Group(new, prompts_S)

  def _insert(self, groups: list[_Group]) -> None:
    """Prefills the prompts of all groups, and puts each into its rows.

    A lane's prompts are packed into one row. A single one is only padded.
    """
    count, run = len(groups), self._programs
    prompts_SN = list(zip(*(group.prompts_S for group in groups)))
    lengths_SN = np.array([[len(p) for p in lane] for lane in prompts_SN])
    padded_N = [min(_padded(n), self.context) for n in lengths_SN.max(0)]
    tokens_SP, lengths_SK, *at = pack(
        prompts_SN, [[range(count)]] * self._lanes, 1,
        _padded(lengths_SN.sum(1).max()) if count > 1 else padded_N[0],
        self._most)
    cache, _ = run.prefill(
        *self._weights, *self._place((tokens_SP, lengths_SK)))
    for number, (group, padded) in enumerate(
        zip(groups, padded_N, strict=True)):
      prompts = cache if count == 1 else run.unpack(
          cache, None, *self._place([x[number::count] for x in at]),
          length=tokens_SP.shape[1], width=padded)[0]
      self._make_room(padded, prompts)
      self._rows = run.insert(self._rows, prompts, *self._seated(group.new))

  def _seated(self, new: dict[int, Wish]) -> tuple[jax.Array, Fill]:
    """(keys of all rows, the `Fill` for `Programs.insert`)."""
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
    """Makes the cache at least `need` slots long, doubling it."""
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
      self._rows = self._rows._replace(cache=self._moved(kept_B, slots))
    self._slots = slots

  def _tell(self, live: list[int], tokens, logprobs, sampled_B, done_B, ended_B
            ) -> None:
    """Passes new tokens to their requests and frees the rows that are done."""
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

  def _on_mesh(self) -> contextlib.AbstractContextManager[Any]:
    return (contextlib.nullcontext() if self._mesh is None
            else jax.set_mesh(self._mesh))

  def _place(self, tree: Any) -> Any:
    if self._mesh is None:
      return jax.tree.map(jnp.asarray, tree)
    return jax.device_put(tree, rules.batch_sharding(self._mesh, "decode"))


def sizes(platform: str, most: int) -> list[int]:
  """Numbers of rows that a lane may have, at most `most`: each is compiled.

  A CPU takes longer for every row; an accelerator computes 8 in the time of
  one.
  """
  all_sizes, factor = ([1, 4], 2) if platform == "cpu" else ([8], 4)
  while all_sizes[-1] < most:
    all_sizes.append(all_sizes[-1] * factor)
  return [rows for rows in all_sizes if rows < most] + [most]


def _padded(tokens: int) -> int:
  """Length of a row of so many tokens: every length is compiled."""
  length = PROMPT_BUCKET
  while length < tokens:
    length *= 2
  return length


_NOBODY = Wish(prompt=np.zeros(1, np.int32), limit=1, temperature=1.0,
               top_p=1.0, seed=0, number=0, tell=lambda told: None)
