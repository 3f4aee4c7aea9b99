"""Ctrl-C and SIGTERM set a flag that the loop polls, so that it saves first.

    with signals.Preemption() as preemption:
      for step in range(state.step, steps):
        ...
        if preemption.requested():
          manager.save(step + 1, arrays, host, force=True)
          break
      manager.wait()  # still inside: a signal must not end the write
"""

from __future__ import annotations

import contextlib
import itertools
import os
import signal
import threading
import time
import types
from collections.abc import Callable
from typing import Any

import jax
from jax._src import distributed as jax_distributed  # its store is not public

from r1jax.sharding import processes

_WAIT = 10_000  # milliseconds that one request to the store may block
_AGREE = 300_000  # ms within which all processes must have heard of a signal
_CLEANING = 10.0  # seconds in which a further SIGTERM disturbs no clean-up
_count = itertools.count()  # all processes enter their blocks in the same order
_told = threading.Event()  # set when a loop of this process was told to stop


def stopped() -> bool:
  """Whether any loop of this process was told to stop by a signal."""
  return _told.is_set()


class Terminated(BaseException):
  """SIGTERM while no loop was there to save first."""


def end_cleanly() -> None:
  """From now on SIGTERM raises `Terminated` where no `Preemption` catches it.

  Without a handler it would end the process at once, and leave half-written
  files and a status that says nothing of running the command again.
  """
  process, last = os.getpid(), -_CLEANING

  def catch(number: int, frame: types.FrameType | None) -> None:
    nonlocal last
    if os.getpid() != process:  # a fork ends as without a handler
      signal.signal(number, signal.SIG_DFL)
      os.kill(os.getpid(), number)
    elif time.monotonic() - last > _CLEANING:
      last = time.monotonic()
      raise Terminated("SIGTERM: stopped; what is complete stays, the same"
                       " command does the rest")

  signal.signal(signal.SIGTERM, catch)


class Preemption:
  """Catches SIGINT and SIGTERM while its `with` block runs.

  The first signal only sets a flag, and prints what a kill would lose now. A
  second SIGINT raises KeyboardInterrupt at once. The previous handlers are
  restored at the end of the block. Enter it in the main thread (Python's rule
  for signal handlers).
  """

  def __init__(self, lost: Callable[[], str] = lambda: "") -> None:
    """Installs no handlers yet.

    Args:
      lost: returns a sentence about what would be lost if the process ended at
        this moment. It is called in a signal handler, so it must not block.
    """
    self._lost = lost
    self._name: str | None = None
    self._former: dict[signal.Signals, Any] = {}
    self._others: _Agreement | None = None

  def __enter__(self) -> Preemption:
    if jax.process_count() > 1:
      self._others = _Agreement(f"r1jax/signal/{next(_count)}")
    for number in (signal.SIGINT, signal.SIGTERM):
      self._former[number] = signal.signal(number, self._catch)
    return self

  def __exit__(self, *exc: object) -> None:
    for number, former in self._former.items():
      signal.signal(number, former)
    if self._others:
      self._others.close()

  def requested(self) -> bool:
    """Whether to save and stop; once True it stays True.

    In a multi-process run all processes must call it at the same points, and
    get the same answer: True some time after any of them received a signal.
    """
    stop = self._others.ask() if self._others else self._name is not None
    if stop:
      _told.set()
    return stop

  @property
  def name(self) -> str:
    """Name of the signal that this or another process received, or ""."""
    return self._name or (self._others and self._others.name) or ""

  def _catch(self, number: int, frame: types.FrameType | None) -> None:
    first, self._name = self._name is None, signal.Signals(number).name
    if not first and number == signal.SIGINT:
      raise KeyboardInterrupt(f"second Ctrl-C: stopped at once; {self._lost()}")
    if first and processes.is_writer():
      # The signal may have interrupted `print`, which is not reentrant.
      os.write(2, f"\n{self._name}: will save and stop at the next opportunity."
                  " If it is ended before that (a second Ctrl-C does it):"
                  f" {self._lost()}\n".encode())
    if self._others:
      self._others.tell(self._name)


class _Agreement:
  """Agreement of all processes on the call of `ask` at which they stop.

  It needs no device and, before a signal, no communication: each process counts
  its calls of `ask`, and a thread waits for a message in the key-value store of
  jax.distributed. When a signal is announced, each process blocks its next call
  and publishes its count; they all stop at the first call that none of them has
  made. (JAX's own preemption sync manager works in the same way.)

  Attributes:
    name: of the signal, or None.
  """

  def __init__(self, key: str) -> None:
    """Starts the thread that listens.

    Args:
      key: prefix in the store; the same in all processes, and used only once.
    """
    self.name: str | None = None
    self._client = jax_distributed.global_state.client
    self._key, self._lock = key, threading.Lock()
    self._asked, self._stop_at = 0, None
    self._error: Exception | None = None
    self._over = threading.Event()
    self._thread = threading.Thread(target=self._listen, daemon=True)
    self._thread.start()

  def ask(self) -> bool:
    """Whether to stop at this call, the process's next one."""
    with self._lock:
      if self._error:
        raise self._error
      self._asked += 1
      return self._stop_at is not None and self._asked >= self._stop_at

  def tell(self, name: str) -> None:
    """Announces a signal to all processes; does not wait."""
    threading.Thread(target=self._put, args=(name,), daemon=True).start()

  def close(self) -> None:
    """Stops listening; all processes call it after their last `ask`."""
    self._over.set()
    if processes.is_writer():
      self._put("")  # wakes the others
    self._thread.join(1.0)  # the store may not answer: do not wait for ever

  def _put(self, name: str) -> None:
    with contextlib.suppress(jax.errors.JaxRuntimeError):  # all have exited
      self._client.key_value_set(self._key, name, allow_overwrite=True)

  def _listen(self) -> None:
    while not self._over.is_set():
      try:
        name = self._client.blocking_key_value_get(self._key, _WAIT)
      except jax.errors.JaxRuntimeError:
        # No message yet, or the store is lost, which the watchdog will notice.
        self._over.wait(0.1)
        continue
      if name and not self._over.is_set():
        self._agree(name)
      return

  def _agree(self, name: str) -> None:
    with self._lock:
      try:
        me = f"{self._key}/asked/{jax.process_index()}"
        self._client.key_value_set(me, str(self._asked))
        self._client.wait_at_barrier(f"{self._key}/told", _AGREE)
        asked = self._client.key_value_dir_get(f"{self._key}/asked/")
      except jax.errors.JaxRuntimeError as error:
        self._error = error
        return
      self._stop_at = max(int(count) for _, count in asked) + 1
      self.name = name
