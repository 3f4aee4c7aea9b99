"""Renders chat templates in a child process (`jinja`).

A template comes with a model's files and is untrusted: it may loop for ever or
exhaust the memory. Each process that renders has one child, started when it is
first needed and restarted when it has died.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping
from typing import Any

from r1jax.data.text import jinja

SECONDS = 5.0  # CPU time limit of a text; published templates take 0.001


def render(source: str, variables: Mapping[str, Any], date: str = "") -> str:
  """Renders a template.

  Args:
    source: Jinja source.
    variables: name -> JSON-ready value.
    date: YYYY-MM-DD that the template sees as today; "" for the machine's date.

  Raises:
    ValueError: the template fails, refuses the variables, violates the
      sandbox, or exceeds `SECONDS`, `jinja.MEMORY` or `jinja.LONGEST`; the
      message says which.
  """
  # Keyed by process id: a forked process must not use its parent's child.
  text, error = _child(os.getpid()).ask(
      {"source": source, "variables": dict(variables), "date": date,
       "seconds": SECONDS})
  if error is not None:
    raise ValueError(error)
  return text


@functools.lru_cache(maxsize=1)
def _child(pid: int) -> _Child:
  del pid
  child = _Child()
  atexit.register(child.stop)
  return child


class _Child:
  """The child process; threads use it one at a time."""

  def __init__(self):
    self._lock = threading.Lock()
    self._owner = os.getpid()
    self._process: subprocess.Popen | None = None

  def ask(self, request: Mapping[str, Any]) -> tuple[str | None, str | None]:
    """The reply to a request: (text, None) or (None, error message)."""
    line = json.dumps(request).encode() + b"\n"
    with self._lock:
      process = self._started()
      reply = b""
      with contextlib.suppress(BrokenPipeError):
        process.stdin.write(line)
        process.stdin.flush()
        reply = process.stdout.readline()
      if not reply.endswith(b"\n"):
        status = self._end()
        if status == -signal.SIGPROF:
          return None, f"it took more than {request['seconds']:g} s of CPU time"
        return None, f"the process that rendered it died (status {status})"
      text, error = json.loads(reply)
      if error and error.startswith("MemoryError"):
        self._end()  # the process may still hold the template's memory
        error = f"it took more than {jinja.MEMORY >> 20} MiB of memory"
      return text, error

  def stop(self) -> None:
    """Ends the process; does nothing in a fork of the one that started it."""
    if os.getpid() == self._owner:
      with self._lock:
        self._end()

  def _started(self) -> subprocess.Popen:
    if self._process is None or self._process.poll() is not None:
      self._end()
      path = os.pathsep.join(os.path.abspath(p) for p in sys.path)
      # In a session of its own, so Ctrl-C in the terminal does not reach it.
      self._process = subprocess.Popen(
          [sys.executable, "-P", "-m", "r1jax.data.text.jinja"],
          stdin=subprocess.PIPE, stdout=subprocess.PIPE,
          start_new_session=True, env=os.environ | {"PYTHONPATH": path})
    return self._process

  def _end(self) -> int | None:
    """Kills and reaps the process; returns its exit status, None if none."""
    process, self._process = self._process, None
    if process is None:
      return None
    process.kill()  # does nothing if it is already dead
    with contextlib.suppress(BrokenPipeError):
      process.stdin.close()
    process.stdout.close()
    return process.wait()
