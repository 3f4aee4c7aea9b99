"""The parent's end of the child that renders chat templates (`jinja`).

A template comes with somebody's files and may loop for ever or ask for all
memory: it costs a child process, of which there is one in each process that
renders, started at first need and again after a death.
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

SECONDS = 5.0  # of computing, for one text; published templates take 0.001


def render(source: str, variables: Mapping[str, Any], date: str = "") -> str:
  """The text that a template makes of its variables.

  Args:
    source: Jinja.
    variables: by name, of what JSON has.
    date: YYYY-MM-DD that it is taken for; by default the machine's.

  Raises:
    ValueError: it fails, refuses the variables, leaves the sandbox, or takes
      more than `SECONDS` of computing, `jinja.MEMORY` or
      `jinja.LONGEST`; says why.
  """
  # A forked process must not speak with its parent's child.
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
  """One process at a time; threads take turns."""

  def __init__(self):
    self._lock = threading.Lock()
    self._owner = os.getpid()
    self._process: subprocess.Popen | None = None

  def ask(self, request: Mapping[str, Any]) -> tuple[str | None, str | None]:
    """(text, None) or (None, what is wrong)."""
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
          return None, f"it computed for more than {request['seconds']:g} s"
        return None, f"the process that rendered it died ({status})"
      text, error = json.loads(reply)
      if error and error.startswith("MemoryError"):
        self._end()  # what it still holds is the template's
        error = f"it took more than {jinja.MEMORY >> 20} MiB of memory"
      return text, error

  def stop(self) -> None:
    """Ends the process, in the program that started it."""
    if os.getpid() == self._owner:
      with self._lock:
        self._end()

  def _started(self) -> subprocess.Popen:
    if self._process is None or self._process.poll() is not None:
      self._end()
      path = os.pathsep.join(os.path.abspath(p) for p in sys.path)
      # Its own session: a Ctrl-C in the terminal reaches the parent alone.
      self._process = subprocess.Popen(
          [sys.executable, "-P", "-m", "r1jax.data.text.jinja"],
          stdin=subprocess.PIPE, stdout=subprocess.PIPE,
          start_new_session=True, env=os.environ | {"PYTHONPATH": path})
    return self._process

  def _end(self) -> int | None:
    """Kills and reaps the process, if there is one; its exit status."""
    process, self._process = self._process, None
    if process is None:
      return None
    process.kill()  # changes nothing for one that died of something else
    with contextlib.suppress(BrokenPipeError):
      process.stdin.close()
    process.stdout.close()
    return process.wait()
