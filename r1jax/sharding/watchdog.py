"""Ends a run whose processes can no longer go on together, and says who failed.

A collective waits for ever for a process that is dead, stopped or stuck. So
each process tells the others, through the key-value store of jax.distributed,
that it lives and how far it has come. Process 0 listens to all, the others to
process 0. Who learns that one is missing tells the rest, and all leave:

- silent for `heartbeat_timeout` seconds: dead, stopped, cut off;
- the farthest behind, and no mark for `stall_timeout` seconds: stuck; in both
  cases with the status `AGAIN`, for a scheduler to start them again;
- failed with an error of its own: at once, with the status 1, as it would fail
  again.

All have left 15 seconds later at the latest. Where process 0 is killed, JAX may
end the others before they can say so; who started them knows.

A process has one watchdog, as it has one jax.distributed; `mark` and `failed`
do nothing where none was started.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import socket
import threading
import time
from collections.abc import Mapping
from typing import NamedTuple

import jax
from jax._src import distributed as jax_distributed  # its store is not public

AGAIN = 75  # EX_TEMPFAIL of sysexits.h
_LIVES, _END = "r1jax/lives/", "r1jax/end"  # keys of the store
_GRACE = 2.0  # seconds for what needs no waiting
_LONGEST = 500  # characters of an error that is passed on
# Errors of the device that no other process is to blame for.
_OWN = ("RESOURCE_EXHAUSTED", "INVALID_ARGUMENT", "UNIMPLEMENTED")


class Heard(NamedTuple):
  """What is known of a process.

  Attributes:
    host: its machine.
    beat: grows while it lives.
    marks: things it has finished so far.
    last: the latest of them.
    at: when `beat` changed, by this process's clock.
    moved: when `marks` changed.
  """

  host: str
  beat: int
  marks: int
  last: str
  at: float
  moved: float


def verdict(heard: Mapping[int, Heard], now: float, heartbeat_timeout: float,
            stall_timeout: float) -> str | None:
  """Who keeps the others from going on, in words; None if nobody does.

  Args:
    heard: by process, those that this one listens to.
    now: the time.
    heartbeat_timeout: seconds of silence that are too many.
    stall_timeout: seconds without a mark that are too many.
  """
  silent = [p for p, h in heard.items() if now - h.at > heartbeat_timeout]
  if silent:
    return _said(heard, silent,
                 f"stopped answering {heartbeat_timeout:g} s ago")
  least = min(h.marks for h in heard.values())
  behind = [p for p, h in heard.items() if h.marks == least]
  if all(now - heard[p].moved > stall_timeout for p in behind):
    return _said(heard, behind, f"got no further for {stall_timeout:g} s")
  return None


def _said(heard: Mapping[int, Heard], who: list[int], what: str) -> str:
  return " and ".join(f"process {p} ({heard[p].host}) {what}, after"
                      f" {heard[p].last}" for p in sorted(who))


class Watchdog:
  """Two threads: one talks to the store, the other looks at the clock."""

  def __init__(self, heartbeat_timeout: float, stall_timeout: float):
    self._client = jax_distributed.global_state.client
    self._me, self._host = jax.process_index(), socket.gethostname()
    # What others do is known to process 0 alone.
    self._limits = (
        heartbeat_timeout, stall_timeout if self._me == 0 else float("inf"))
    self._interval = min(5.0, heartbeat_timeout / 8)
    self._marks, self._last = 0, "the start"
    unheard = Heard("host unknown", -1, -1, self._last, *[time.monotonic()] * 2)
    self._heard = dict.fromkeys(
        range(jax.process_count() if self._me == 0 else 1), unheard)
    self._told: str | None = None  # JSON [status, reason], or "": all is done
    self._over = threading.Event()  # all is done, or this process has failed
    self._threads = [threading.Thread(target=work, daemon=True)
                     for work in (self._talk, self._watch)]
    for thread in self._threads:
      thread.start()

  def mark(self, what: str) -> None:
    """This process has finished something that all finish."""
    self._marks += 1
    self._last = what or self._last

  def stop(self) -> None:
    """Ends the watch; all processes do so together."""
    self._over.set()
    if self._me == 0:
      self._client.key_value_set(_END, "")  # wakes the others
    for thread in self._threads:
      thread.join(2 * self._interval)

  def blame(self, error: BaseException) -> None:
    """Does not return where an error here is the end of another process."""
    if _of_connection(error) and not self._over.is_set():
      wait = self._limits[0] + 2 * self._interval + 4 * _GRACE
      _say("a connection to another process broke; looking for it, at most"
           f" {wait:.0f} s")
      self._threads[1].join(wait)  # it leaves when it knows
    self._over.set()

  def failed(self, error: BaseException) -> None:
    """Tells the others of an error here."""
    self.blame(error)
    text = " ".join(f"{type(error).__name__}: {error}".split())[:_LONGEST]
    self._tell(1, f"process {self._me} ({self._host}) failed after"
                  f" {self._last}: {text}")

  def _talk(self) -> None:
    """Says that this process lives, listens, and waits for word of an end."""
    for beat in itertools.count():
      try:
        self._client.key_value_set(
            f"{_LIVES}{self._me}",
            json.dumps([self._host, beat, self._marks, self._last]),
            allow_overwrite=True)
        self._listen()
        self._told = self._client.blocking_key_value_get(
            _END, int(1000 * self._interval))
        return
      except jax.errors.JaxRuntimeError as error:
        if str(error).startswith("UNAVAILABLE") and not self._over.is_set():
          # JAX is about to abort this process for the same reason.
          self._leave(AGAIN, f"process 0 ({self._heard[0].host}) is gone,"
                             f" after {self._heard[0].last}")
        # Else no word came; or the store is silent, which `_watch` will see.
        if not str(error).startswith("DEADLINE_EXCEEDED"):
          self._over.wait(self._interval)
      if self._over.is_set():
        return

  def _listen(self) -> None:
    if self._me == 0:
      entries = self._client.key_value_dir_get(_LIVES)
    else:
      key = f"{_LIVES}0"
      entries = [(key, self._client.key_value_try_get(key))]
    now = time.monotonic()
    for key, value in entries:
      process = int(key.rpartition("/")[2])
      host, beat, marks, last = json.loads(value)
      old = self._heard[process]
      self._heard[process] = Heard(
          host, beat, marks, last, old.at if beat == old.beat else now,
          old.moved if marks == old.marks else now)

  def _watch(self) -> None:
    """Leaves when it is time to."""
    before = time.monotonic()
    while not self._over.wait(self._interval / 2):
      now = time.monotonic()
      if now - before > self._limits[0] / 2:  # this process was stopped itself
        self._heard = {p: h._replace(at=now, moved=now)
                       for p, h in self._heard.items()}
      before = now
      if self._told is None:
        reason = verdict(self._heard, now, *self._limits)
        if reason:
          self._leave(AGAIN, reason, tell=True)
      elif not self._told:
        return
      # This process may be about to fail in the same way, and to say so.
      elif not self._over.wait(_GRACE):
        self._leave(*json.loads(self._told))

  def _tell(self, status: int, reason: str) -> None:
    """Tells the other processes; process 0 lives until they have left."""
    def put() -> None:
      # Another may have been first; or there is nobody left to tell.
      with contextlib.suppress(jax.errors.JaxRuntimeError):
        self._client.key_value_set(_END, json.dumps([status, reason]))

    thread = threading.Thread(target=put, daemon=True)
    thread.start()
    thread.join(_GRACE)
    if self._me == 0:
      time.sleep(2 * _GRACE)

  def _leave(self, status: int, reason: str, tell: bool = False) -> None:
    resumes = "; the same command resumes" if status == AGAIN else ""
    _say(f"{reason}. Process {self._me} ({self._host}) stops here{resumes}")
    if tell:
      self._tell(status, reason)
    os._exit(status)


def _say(text: str) -> None:
  os.write(2, f"\nerror: {text}.\n".encode())


def _of_connection(error: BaseException | None) -> bool:
  """Whether an error may come of another process's end."""
  while error is not None:
    # What gloo says of a lost peer comes as a ValueError.
    if "Gloo" in str(error) or isinstance(
        error, jax.errors.JaxRuntimeError) and not str(error).startswith(_OWN):
      return True
    error = error.__cause__ or error.__context__
  return False


_running: list[Watchdog] = []


def start(heartbeat_timeout: float, stall_timeout: float) -> None:
  """Starts this process's watchdog, after jax.distributed."""
  _running.append(Watchdog(heartbeat_timeout, stall_timeout))


def mark(what: str = "") -> None:
  """Says that this process has finished `what`, as all processes do in turn."""
  for watchdog in _running:
    watchdog.mark(what)


def blame(error: BaseException) -> None:
  """Ends this process if its error is but the end of another process."""
  for watchdog in _running:
    watchdog.blame(error)


def failed(error: BaseException) -> None:
  """Says that this process ends with an error, after `blame`."""
  while _running:
    _running.pop().failed(error)


def stop() -> None:
  """Ends the watch when all processes have done their work."""
  while _running:
    _running.pop().stop()
