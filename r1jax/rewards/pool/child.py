"""The parent's side of a child process (`worker` is the child's side)."""

from __future__ import annotations

import collections
import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from r1jax.rewards.score import LATE

GRACE = 120.0  # seconds after the deadline until the parent kills the child
_NAP = 0.001  # seconds to let replies accumulate before reading them
_READ = 1 << 20
_CLOSED = "the pool was closed before the result"


class Sent(NamedTuple):
  """An item that is sent to a child.

  Attributes:
    owner: the caller's identification of the item.
    prompt: the prompt's fields as JSON; equal texts in one `put` are sent once.
    tail, completion: text that the template prefilled, and the model's text.
  """

  owner: Any
  prompt: str
  tail: str
  completion: str


class Child:
  """A child process, replaced when it dies; for use by one thread.

  Args:
    header: the first line that a worker reads.
    deadline: seconds that the worker may spend on one item.
  """

  def __init__(self, header: Mapping[str, Any], deadline: float):
    self._header = header
    self._deadline = deadline
    self._process: subprocess.Popen | None = None
    self._flying: collections.deque[Sent] = collections.deque()
    self._outgoing = memoryview(b"")
    self._incoming = b""
    self._lock = threading.Lock()
    self._closed = False

  def __len__(self) -> int:
    """Number of items put and not yet taken."""
    return len(self._flying)

  def put(self, items: Sequence[Sent]) -> None:
    """Adds items; they are sent while `take` waits."""
    if self._process is not None and not self._flying and self._ended():
      self.stop()  # it died while idle, so no item is to blame
    if self._process is not None:
      self._send(_request(items))
    self._flying.extend(items)

  def take(self) -> list[tuple[Sent, list[Any] | str]]:
    """Waits for at least one reply; replies are in the order of `put`.

    Returns:
      (item, reply) pairs. The reply is the worker's, or the reason why the
      worker died at this item. Later items are sent to a new worker.

    Raises:
      ValueError: no item is on its way.
      RuntimeError: a worker could not start, or the child was closed.
    """
    if not self._flying:
      raise ValueError("no item is on its way; put some first")
    taken: list[tuple[Sent, list[Any] | str]] = []
    while not taken:
      self.start()
      try:
        lines = self._lines(gather=len(self._flying) > 1)
      except (EOFError, TimeoutError) as error:
        status = self.stop()
        if self._closed:
          raise RuntimeError(_CLOSED) from None
        late = (isinstance(error, TimeoutError)
                or status == -signal.SIGALRM)
        reason = LATE if late else _death(status)
        return [(self._flying.popleft(), reason)]
      for line in lines:
        reply = json.loads(line)
        if reply == "retired":
          self.stop()
        else:
          taken.append((self._flying.popleft(), reply))
    return taken

  def drop(self) -> list[Sent]:
    """Kills the process and returns the items that had no reply."""
    self.stop()
    dropped = list(self._flying)
    self._flying.clear()
    return dropped

  def start(self) -> None:
    """Starts the process unless it runs; waits until its rules are loaded.

    Raises:
      RuntimeError: it dies or hangs before that, or the child is closed.
    """
    if self._process is not None:
      return
    path = os.pathsep.join(os.path.abspath(p) for p in sys.path)
    with self._lock:
      if self._closed:
        raise RuntimeError(_CLOSED)
      # exec, not a mere fork, because JAX has threads. Its own session, so that
      # Ctrl-C in the terminal only reaches the parent.
      self._process = subprocess.Popen(
          [sys.executable, "-P", "-m", "r1jax.rewards.pool.worker"],
          stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0,
          start_new_session=True, env=os.environ | {"PYTHONPATH": path})
    os.set_blocking(self._process.stdin.fileno(), False)
    self._incoming = b""
    self._outgoing = memoryview(json.dumps(self._header).encode() + b"\n")
    try:
      self._lines(gather=False)
    except (EOFError, TimeoutError):
      status = self.stop()
      raise RuntimeError(
          f"a reward worker could not load its rules ({_death(status)}); its"
          " standard error says why") from None
    if self._flying:
      self._send(_request(self._flying))

  def stop(self) -> int | None:
    """Kills the process and its children and returns its exit status."""
    process = self._process
    if process is None:
      return None
    with self._lock:
      _kill(process)
      process.wait()
    process.stdin.close()
    process.stdout.close()
    self._process = None
    return process.returncode

  def close(self) -> None:
    """Kills the process without replacing it; its thread reaps it."""
    with self._lock:
      self._closed = True
      if self._process is not None:
        _kill(self._process)

  def _ended(self) -> bool:
    poll = select.poll()
    poll.register(self._process.stdout, 0)
    return bool(poll.poll(0))  # hung up, or an error

  def _send(self, data: bytes) -> None:
    self._outgoing = memoryview(bytes(self._outgoing) + data)

  def _lines(self, gather: bool) -> list[bytes]:
    """Reads at least one complete line, and writes pending data meanwhile.

    One loop for both directions, so that neither side waits for the other to
    read. `gather` lets replies accumulate for a moment, because waking up for
    each costs more than most rules take.

    Raises:
      EOFError: the process has ended and all its output was read.
      TimeoutError: nothing arrived for the deadline plus `GRACE`.
    """
    write, read = self._process.stdin.fileno(), self._process.stdout.fileno()
    give_up = time.monotonic() + self._deadline + GRACE
    while True:
      poll = select.poll()
      poll.register(read, select.POLLIN)
      if self._outgoing:
        poll.register(write, select.POLLOUT)
      ready = dict(poll.poll(max(0.0, give_up - time.monotonic()) * 1000))
      if not ready:
        raise TimeoutError
      if write in ready:
        try:
          self._outgoing = self._outgoing[os.write(write, self._outgoing):]
        except BrokenPipeError:  # dead, but its last replies may be unread
          self._outgoing = memoryview(b"")
      if read in ready:
        if gather:
          time.sleep(_NAP)
        data = os.read(read, _READ)
        if not data:
          raise EOFError
        *lines, self._incoming = (self._incoming + data).split(b"\n")
        if lines:
          return lines


def _request(items: Sequence[Sent]) -> bytes:
  index: dict[str, int] = {}
  rows = [(index.setdefault(item.prompt, len(index)), item.tail,
           item.completion) for item in items]
  return (f'{{"prompts": [{", ".join(index)}], "items": {json.dumps(rows)}}}\n'
          .encode())


def _death(status: int | None) -> str:
  if status is not None and status < 0:
    return f"crash: {signal.Signals(-status).name}"
  return f"crash: exit {status}"


def _kill(process: subprocess.Popen) -> None:
  if process.returncode is None:
    with contextlib.suppress(ProcessLookupError):
      os.killpg(process.pid, signal.SIGKILL)
