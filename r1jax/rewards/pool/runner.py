"""A pool of killable child processes that apply the rules.

  with Pool(rules.RULES) as pool:
    handle = pool.submit(items)        # returns at once
    ...                                # the device goes on
    scores = handle.result()           # one {rule: Score} per item, in order

One thread per child sends it items: enough to keep it busy while earlier
replies are read, few enough that no child is idle while another has a queue.
The child replies line by line, so a child that dies (an alarm at the deadline,
a crash) costs only the item that it was working on.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import json
import queue
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from r1jax.core.prompt import Prompt
from r1jax.rewards.pool.child import Child, Sent
from r1jax.rewards.score import LATE, Rule, Score

Item = tuple[Prompt, str, str]  # (prompt, prefilled text, completion)
PENDING = 65_536  # items
_AHEAD = 0.02  # seconds of work that a child is sent at once
_MOST = 256  # most items that a child is sent at once


class Pool:
  """Applies rules to completions in child processes.

  Args:
    rules: {name: rule}, a rule being a top-level function of an importable
      module; or {name: {verifier: rule}}, from which the prompt's `verifier`
      chooses ("" if no rule of the table applies).
    workers: number of child processes, at least 1.
    deadline: seconds that all rules together may take on one completion. Time
      inside `score.clock_stopped` does not count, but must end within two
      minutes.
    pending: number of items submitted and not judged above which `submit`
      waits.

  Raises:
    ValueError: no rules, a rule that a child cannot import by name, fewer than
      one worker or pending item, or a deadline that is not positive.
  """

  def __init__(self, rules: Mapping[str, Rule | Mapping[str, Rule]], *,
               workers: int = 2, deadline: float = 2.0,
               pending: int = PENDING):
    for name, value in (("workers", workers), ("pending", pending)):
      if value < 1:
        raise ValueError(f"{name}={value}: at least 1 is needed")
    if not deadline > 0:
      raise ValueError(f"deadline={deadline}: seconds must be positive")
    if not rules:
      raise ValueError("rules is empty: give at least one {name: rule}")
    self._rules = dict(rules)
    header = {"rules": {n: _addresses(n, r) for n, r in rules.items()},
              "deadline": deadline}
    self._queue: queue.SimpleQueue[_Entry | None] = queue.SimpleQueue()
    self._jobs: set[_Job] = set()
    self._room = threading.Condition()
    self._limit, self._pending = pending, 0
    self._closed = False
    self._children = [Child(header, deadline) for _ in range(workers)]
    self._threads = [
        threading.Thread(target=self._serve, args=(child,), daemon=True)
        for child in self._children]
    for thread in self._threads:
      thread.start()

  def submit(self, items: Sequence[Item]) -> concurrent.futures.Future:
    """Starts scoring and returns, unless too many items are pending.

    Backpressure: it waits until these and the pending items are at most
    `pending`, or nothing is pending (so that any number can be scored).

    Args:
      items: (prompt, prompt_tail, completion) each; the prompt's reference and
        metadata must be JSON-serialisable, up to NumPy scalars and arrays.

    Returns:
      A future whose `result()` is a list with one {rule name: Score} per item,
      in order, without the rules that do not apply to its prompt. A rule that
      raises gives `Score(0, False, reason)`; a crash gives that for every rule
      of the item. An item whose deadline passes is judged once more in a fresh
      process; the second time it is `Score(0, True, "deadline")` for every
      rule. `result()` raises ValueError for a prompt that cannot be sent, and
      RuntimeError if children cannot start or the pool is closed first.

    Raises:
      ValueError: a prompt's verifier is in no table.
      RuntimeError: the pool is closed.
    """
    names: dict[str, tuple[str, ...]] = {}
    for prompt, _, _ in items:
      if prompt.verifier not in names:
        names[prompt.verifier] = _names(self._rules, prompt)
    job = _Job(len(items), names)
    if not items:
      job.future.set_result([])
      return job.future
    with self._room:
      self._room.wait_for(
          lambda: self._closed or not self._pending
          or self._pending + len(items) <= self._limit)
      if self._closed:
        raise RuntimeError("the pool is closed; submit inside its `with` block")
      self._pending += len(items)
      self._jobs.add(job)
      for at, item in enumerate(items):
        self._queue.put(_Entry(job, at, item))
    job.future.add_done_callback(lambda _: self._jobs.discard(job))
    return job.future

  def close(self) -> None:
    """Kills the children; futures that are pending fail."""
    with self._room:
      self._closed = True
      self._room.notify_all()
      for _ in self._threads:
        self._queue.put(None)
    for child in self._children:
      child.close()
    for thread in self._threads:
      thread.join()
    for job in list(self._jobs):
      job.fail(RuntimeError("the pool was closed before the result"))

  def __enter__(self) -> Pool:
    return self

  def __exit__(self, *exception: object) -> None:
    self.close()

  def _serve(self, child: Child) -> None:
    with contextlib.suppress(OSError, RuntimeError):
      child.start()  # before the first item, which would report a failure
    known: dict[int, tuple[Prompt, str]] = {}
    pace = _Pace()
    while not self._closed:
      entries = self._next(child, pace.most())
      if entries is None:
        break
      known = self._put(child, entries, known)
      if not len(child):
        continue
      pace.start()
      try:
        taken = child.take()
      except Exception as error:  # raised by the futures' `result`
        lost = child.drop()
        for sent in lost:
          sent.owner.job.fail(error)
        self._finished(len(lost))
        continue
      again = [sent.owner for sent, reply in taken
               if reply == LATE and not sent.owner.again]
      for sent, reply in taken:
        if sent.owner not in again:
          sent.owner.job.put(sent.owner, reply)
      for entry in again:  # the machine may have been too busy
        self._queue.put(entry._replace(again=True))
      pace.saw(len(taken), more=bool(len(child)))
      self._finished(len(taken) - len(again))
    child.stop()

  def _next(self, child: Child, most: int) -> list[_Entry] | None:
    """Items for a child that runs low; waits for one if it has none."""
    entries: list[_Entry] = []
    if 2 * len(child) > most:
      return entries
    # Each child gets a share of what is left, in decreasing portions.
    share = self._queue.qsize() // (2 * len(self._children))
    try:
      for _ in range(max(1, min(most, share))):
        entry = self._queue.get(block=not entries and not len(child))
        if entry is None:
          return None
        entries.append(entry)
    except queue.Empty:
      pass
    return entries

  def _put(self, child: Child, entries: list[_Entry],
           known: dict[int, tuple[Prompt, str]],
           ) -> dict[int, tuple[Prompt, str]]:
    """Sends entries; returns their prompts as JSON, for the next call."""
    sent, latest = [], {}
    for entry in entries:
      prompt, tail, completion = entry.item
      try:
        if entry.job.future.done():
          continue
        if id(prompt) not in latest:
          latest[id(prompt)] = known.get(id(prompt)) or (prompt, _json(prompt))
        sent.append(Sent(entry, latest[id(prompt)][1], tail, completion))
      except Exception as error:  # raised by the future's `result`
        entry.job.fail(error)
    if sent:
      child.put(sent)
    self._finished(len(entries) - len(sent))
    return latest or known

  def _finished(self, count: int) -> None:
    with self._room:
      self._pending -= count
      self._room.notify_all()


class _Entry(NamedTuple):
  job: _Job
  at: int
  item: Item
  again: bool = False  # its deadline has passed once


class _Job:
  """The scores of one submission, collected from several threads.

  Args:
    size: number of items.
    names: {verifier: names of the rules that it selects}.
  """

  def __init__(self, size: int, names: Mapping[str, tuple[str, ...]]):
    self.future: concurrent.futures.Future = concurrent.futures.Future()
    self.future.set_running_or_notify_cancel()  # it cannot be cancelled
    self._scores: list[dict[str, Score] | None] = [None] * size
    self._names = names
    self._missing = size
    self._lock = threading.Lock()

  def put(self, entry: _Entry, reply: list[Any] | str) -> None:
    """Stores a child's reply, or the reason why there is none."""
    names = self._names[entry.item[0].verifier]
    if isinstance(reply, str):
      scores = {name: Score(0.0, reply == LATE, reply) for name in names}
    else:
      scores = {name: Score(*verdict) for name, verdict in zip(names, reply)
                if verdict is not None}
    with self._lock:
      self._scores[entry.at] = scores
      self._missing -= 1
      if not self._missing and not self.future.done():
        self.future.set_result(self._scores)

  def fail(self, error: Exception) -> None:
    with self._lock:
      if not self.future.done():
        self.future.set_exception(error)


class _Pace:
  """How many items to send to a child at once."""

  def __init__(self):
    self._seconds = 1e-3  # per item, smoothed
    self._since: float | None = None

  def start(self) -> None:
    """Starts the clock, if it does not run already."""
    if self._since is None:
      self._since = time.monotonic()

  def most(self) -> int:
    return max(1, min(_MOST, int(_AHEAD / self._seconds)))

  def saw(self, count: int, more: bool) -> None:
    """Records that `count` items were judged, and whether more are sent."""
    now = time.monotonic()
    took = (now - self._since) / count
    self._seconds += 0.5 * (took - self._seconds)
    self._since = now if more else None


def _addresses(name: str, rule: Rule | Mapping[str, Rule]) -> Any:
  """[module, function] for a child to import a rule, or a table of these."""
  if isinstance(rule, Mapping):
    if "" in rule:
      raise ValueError(
          f"rule {name!r} has a verifier named '', which means none; give it a"
          " name")
    return {key: _addresses(f"{name}:{key}", r) for key, r in rule.items()}
  module = getattr(rule, "__module__", None)
  function = getattr(rule, "__name__", "")
  if module == "__main__" or (
      getattr(sys.modules.get(module), function, None) is not rule):
    raise ValueError(
        f"rule {name!r} is {rule!r}: a child process cannot import it; make it"
        " a function at the top of a module that can be imported")
  return [module, function]


def _names(rules: Mapping[str, Rule | Mapping[str, Rule]],
           prompt: Prompt) -> tuple[str, ...]:
  """The rules that the prompt's verifier selects."""
  names = []
  for name, rule in rules.items():
    if isinstance(rule, Mapping):
      if not prompt.verifier:
        continue
      if prompt.verifier not in rule:
        raise ValueError(
            f"prompt {prompt.id} of {prompt.source!r} has"
            f" verifier={prompt.verifier!r}, which is not one of rule"
            f" {name!r}; it has {', '.join(sorted(rule))}, and '' for none")
    names.append(name)
  return tuple(names)


def _json(prompt: Prompt) -> str:
  if not prompt.messages:
    raise ValueError(f"prompt {prompt.id} has no messages; give it a question")
  fields = vars(prompt) | {"metadata": dict(prompt.metadata)}
  try:
    return json.dumps(fields, default=_from_numpy)
  except (TypeError, ValueError) as error:
    raise ValueError(
        f"prompt {prompt.id} cannot be sent to a rule: {error}; its reference"
        " and metadata must be made of JSON values") from error


def _from_numpy(value: Any) -> Any:
  if isinstance(value, np.generic | np.ndarray):
    return value.tolist()
  raise TypeError(f"{type(value).__name__} {value!r}")
