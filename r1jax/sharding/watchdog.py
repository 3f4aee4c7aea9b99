"""Ends all processes of a run when one is lost, and names the one that failed.

A collective waits for ever for a process that is dead, suspended or stuck. So
each process writes a heartbeat and its progress into the key-value store of
jax.distributed. Process 0 reads those of all processes, the others that of
process 0. A process that finds another one missing tells the rest, and all
exit. A process is missing if

- it sent no heartbeat for `heartbeat_timeout` seconds: it is dead, suspended or
  cut off. The exit status is `AGAIN`, on which a scheduler should restart it;
- it is the straggler, and made no progress for `stall_timeout` seconds: it is
  stuck. The exit status is `AGAIN` too;
- it failed with an error of its own. The others exit at once, with status 1,
  because it would fail again.

All processes have exited 15 seconds later at the latest. If process 0 is
killed, JAX may abort the others before they can print the reason.

A process has one watchdog; `mark` and `failed` do nothing if none was started.
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
_GRACE = 2.0  # seconds given to calls that should return at once
_LONGEST = 500  # most characters of an error that is passed on
# Errors of this process's own device, not caused by another process.
_OWN = ("RESOURCE_EXHAUSTED", "INVALID_ARGUMENT", "UNIMPLEMENTED")


class Heard(NamedTuple):
  """What is known of a process.

  Attributes:
    host: name of its machine.
    beat: heartbeat counter, which grows while the process lives.
    marks: number of units of work that it has finished.
    last: description of the latest of them.
    at: when `beat` last changed, seconds of this process's monotonic clock.
    moved: when `marks` last changed, on the same clock.
  """

  host: str
  beat: int
  marks: int
  last: str
  at: float
  moved: float


def verdict(heard: Mapping[int, Heard], now: float, heartbeat_timeout: float,
            stall_timeout: float) -> str | None:
  """Which processes are missing or stuck, in words; None if none is.

  Args:
    heard: by index, the processes that this one listens to.
    now: seconds of the monotonic clock.
    heartbeat_timeout: seconds without a heartbeat until a process is lost.
    stall_timeout: seconds without progress until a straggler is stuck.
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
  """Two threads: one talks to the store, the other checks the timeouts."""

  def __init__(self, heartbeat_timeout: float, stall_timeout: float):
    self._client = jax_distributed.global_state.client
    self._me, self._host = jax.process_index(), socket.gethostname()
    # Only process 0 knows the progress of all processes.
    self._limits = (
        heartbeat_timeout, stall_timeout if self._me == 0 else float("inf"))
    self._interval = min(5.0, heartbeat_timeout / 8)
    self._marks, self._last = 0, "the start"
    unheard = Heard("host unknown", -1, -1, self._last, *[time.monotonic()] * 2)
    self._heard = dict.fromkeys(
        range(jax.process_count() if self._me == 0 else 1), unheard)
    self._told: str | None = None  # JSON [status, reason]; "": the run is done
    self._over = threading.Event()  # the run is done or this process failed
    self._threads = [threading.Thread(target=work, daemon=True)
                     for work in (self._talk, self._watch)]
    for thread in self._threads:
      thread.start()

  def mark(self, what: str) -> None:
    """Counts a unit of work that every process does as finished."""
    self._marks += 1
    self._last = what or self._last

  def stop(self) -> None:
    """Ends the watchdog; all processes call it together."""
    self._over.set()
    if self._me == 0:
      self._client.key_value_set(_END, "")  # wakes the others
    for thread in self._threads:
      thread.join(2 * self._interval)

  def blame(self, error: BaseException) -> None:
    """Does not return if the error is a consequence of another one's end."""
    if _of_connection(error) and not self._over.is_set():
      wait = self._limits[0] + 2 * self._interval + 4 * _GRACE
      _say("a connection to another process broke; finding out which, for at"
           f" most {wait:.0f} s")
      self._threads[1].join(wait)  # that thread exits the process if it knows
    self._over.set()

  def failed(self, error: BaseException, status: int = 1) -> None:
    """Tells the other processes of an error in this one, and their status."""
    self.blame(error)
    text = " ".join(f"{type(error).__name__}: {error}".split())[:_LONGEST]
    self._tell(status, f"process {self._me} ({self._host}) failed after"
                  f" {self._last}: {text}")

  def _talk(self) -> None:
    """Writes the heartbeat, reads the others', waits for the end message."""
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
        # Else there was no message yet, or the store does not answer, which
        # `_watch` will notice.
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
    """Exits the process when a timeout is over or another process says so."""
    before = time.monotonic()
    while not self._over.wait(self._interval / 2):
      now = time.monotonic()
      if now - before > self._limits[0] / 2:  # this process was suspended
        self._heard = {p: h._replace(at=now, moved=now)
                       for p, h in self._heard.items()}
      before = now
      if self._told is None:
        reason = verdict(self._heard, now, *self._limits)
        if reason:
          self._leave(AGAIN, reason, tell=True)
      elif not self._told:
        return
      # This process may be about to fail in the same way: let it report that.
      elif not self._over.wait(_GRACE):
        self._leave(*json.loads(self._told))

  def _tell(self, status: int, reason: str) -> None:
    """Tells the others; process 0, the store, waits until they have exited."""
    def put() -> None:
      # Another process may have been first, or the store may be gone.
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
  """Whether an error may be due to the end of another process."""
  while error is not None:
    # Gloo's error about a lost peer comes as a ValueError.
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
  """Records progress: this process has finished `what`, as all have to."""
  for watchdog in _running:
    watchdog.mark(what)


def blame(error: BaseException) -> None:
  """Exits if the error is only a consequence of another process's end."""
  for watchdog in _running:
    watchdog.blame(error)


def failed(error: BaseException, status: int = 1) -> None:
  """Tells the others that this process fails, unless `blame` exits first.

  Args:
    error: why.
    status: the exit status of the others.
  """
  while _running:
    _running.pop().failed(error, status)


def stop() -> None:
  """Ends the watchdog when all processes have done their work."""
  while _running:
    _running.pop().stop()
