"""A pool of killable child processes that apply the rules.

  with Pool(rules.RULES) as pool:
    handle = pool.submit(items)        # returns at once
    ...                                # the device goes on
    scores = handle.result()           # one {rule: Score} per item, in order

One thread per child feeds it chunks and reads one line per verdict, so a child
that dies (an alarm at the deadline, a crash) costs the one task it was at; the
rest of its chunk goes to its successor.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import json
import os
import queue
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from r1jax.core.types import Prompt
from r1jax.rewards.score import Rule, Score

Item = tuple[Prompt, str, str]  # (prompt, end of the rendered prompt, text)
Task = tuple[str, Prompt, str, str]
CHUNK = 128  # tasks sent at once
GRACE = 60.0  # seconds beyond the deadline before the parent kills by itself


class Pool:
  """Applies rules to completions in child processes.

  Args:
    rules: name to rule; each a function at the top of an importable module.
    workers: child processes, at least 1.
    deadline: seconds that one rule may take on one completion. Imports that
      the rule makes inside `score.clock_stopped` do not count.

  Raises:
    ValueError: no rules, a rule that a child cannot import by name, fewer than
      one worker, or a deadline that is not positive.
  """

  def __init__(self, rules: Mapping[str, Rule], *, workers: int = 2,
               deadline: float = 2.0):
    if workers < 1:
      raise ValueError(f"workers={workers}: at least 1 is needed")
    if not deadline > 0:
      raise ValueError(f"deadline={deadline}: seconds must be positive")
    if not rules:
      raise ValueError("rules is empty: give at least one {name: rule}")
    self._names = tuple(rules)
    header = {"rules": {n: _address(n, r) for n, r in rules.items()},
              "deadline": deadline}
    self._chunks: queue.SimpleQueue[tuple[_Job, int, list[Task]] | None]
    self._chunks = queue.SimpleQueue()
    self._jobs: set[_Job] = set()
    self._lock = threading.Lock()
    self._closed = False
    self._children = [_Child(header, deadline) for _ in range(workers)]
    self._threads = [
        threading.Thread(target=self._serve, args=(child,), daemon=True)
        for child in self._children]
    for thread in self._threads:
      thread.start()

  def submit(self, items: Sequence[Item]) -> concurrent.futures.Future:
    """Starts scoring; returns at once.

    Args:
      items: (prompt, prompt_tail, completion) each; `prompt.metadata` must be
        JSON-ready (NumPy scalars and arrays may be in it).

    Returns:
      A future whose `result()` is a list, one {rule name: Score} per item, in
      order. A deadline, a crash or an exception in a rule is
      `Score(0, False, reason)`. `result()` raises ValueError for a prompt that
      cannot be sent and RuntimeError if children cannot start or the pool is
      closed first.
    """
    tasks = [(name, *item) for item in items for name in self._names]
    job = _Job(len(tasks), self._names)
    if not tasks:
      job.future.set_result([])
      return job.future
    size = max(1, min(CHUNK, -(-len(tasks) // (4 * len(self._threads)))))
    with self._lock:
      if self._closed:
        raise RuntimeError("the pool is closed; submit inside its `with` block")
      self._jobs.add(job)
      for start in range(0, len(tasks), size):
        self._chunks.put((job, start, tasks[start:start + size]))
    job.future.add_done_callback(lambda _: self._jobs.discard(job))
    return job.future

  def close(self) -> None:
    """Kills and reaps the children; fails what is still pending."""
    with self._lock:
      self._closed = True
      for _ in self._threads:
        self._chunks.put(None)
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

  def _serve(self, child: _Child) -> None:
    with contextlib.suppress(OSError, RuntimeError):
      child.start()  # ahead of the first chunk; a failure is reported with it
    while (chunk := self._chunks.get()) is not None and not self._closed:
      job, start, tasks = chunk
      if job.future.done():
        continue
      try:
        for at, score in enumerate(child.judge(tasks), start):
          job.put(at, score)
      except Exception as error:  # to be raised by whoever waits for it
        job.fail(error)
    child.stop()


class _Job:
  """The verdicts of one submission, gathered from several threads."""

  def __init__(self, size: int, names: tuple[str, ...]):
    self.future: concurrent.futures.Future = concurrent.futures.Future()
    self.future.set_running_or_notify_cancel()  # no longer to be cancelled
    self._scores: list[Score | None] = [None] * size
    self._names = names
    self._missing = size
    self._lock = threading.Lock()

  def put(self, at: int, score: Score) -> None:
    with self._lock:
      self._scores[at] = score
      self._missing -= 1
      if self._missing or self.future.done():
        return
      width = len(self._names)
      self.future.set_result([
          dict(zip(self._names, self._scores[i:i + width]))
          for i in range(0, len(self._scores), width)])

  def fail(self, error: Exception) -> None:
    with self._lock:
      if not self.future.done():
        self.future.set_exception(error)


class _Child:
  """One process at a time, replaced when it dies. Used by one thread."""

  def __init__(self, header: Mapping[str, Any], deadline: float):
    self._header = header
    self._deadline = deadline
    self._process: subprocess.Popen | None = None
    self._buffer = b""
    self._lock = threading.Lock()
    self._closed = False

  def judge(self, tasks: list[Task]):
    """Yields one Score per task, in order."""
    while tasks:
      done, late = 0, False
      try:
        self.start()
        self._send(_request(tasks))
        while done < len(tasks):
          yield Score(*json.loads(self._line()))
          done += 1
      except TimeoutError:
        late = True
      except (EOFError, BrokenPipeError):
        pass
      if done < len(tasks):
        status = self.stop()
        if self._closed:
          raise RuntimeError("the pool was closed before the result")
        late = late or status == -signal.SIGALRM
        yield Score(0.0, False, "deadline" if late else _death(status))
        done += 1
      tasks = tasks[done:]

  def start(self) -> None:
    """Starts the process unless it runs; returns once its rules are loaded."""
    if self._process is not None:
      return
    path = os.pathsep.join(os.path.abspath(p) for p in sys.path)
    with self._lock:
      if self._closed:
        raise RuntimeError("the pool was closed before the result")
      # exec, never a bare fork: JAX has threads. Its own session, so that a
      # Ctrl-C in the terminal reaches the parent only.
      self._process = subprocess.Popen(
          [sys.executable, "-P", "-m", "r1jax.rewards.worker"],
          stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0,
          start_new_session=True, env=os.environ | {"PYTHONPATH": path})
    self._buffer = b""
    try:
      self._send(self._header)
      self._line()
    except (EOFError, BrokenPipeError, TimeoutError):
      status = self.stop()
      raise RuntimeError(
          f"a reward worker could not load its rules ({_death(status)}); its"
          " standard error says why") from None

  def stop(self) -> int | None:
    """Kills the process and what it started; reaps it; its exit status."""
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
    """Kills the process for good; its own thread reaps it."""
    with self._lock:
      self._closed = True
      if self._process is not None:
        _kill(self._process)

  def _send(self, value: Any) -> None:
    data = memoryview(json.dumps(value).encode() + b"\n")
    while data:
      data = data[self._process.stdin.write(data):]

  def _line(self) -> bytes:
    give_up = time.monotonic() + self._deadline + GRACE
    while b"\n" not in self._buffer:
      poll = select.poll()
      poll.register(self._process.stdout, select.POLLIN)
      if not poll.poll(max(0.0, give_up - time.monotonic()) * 1000):
        raise TimeoutError
      data = os.read(self._process.stdout.fileno(), 1 << 16)
      if not data:
        raise EOFError
      self._buffer += data
    line, _, self._buffer = self._buffer.partition(b"\n")
    return line


def _address(name: str, rule: Rule) -> list[str]:
  """[module, function] by which a child finds the rule."""
  module = getattr(rule, "__module__", None)
  function = getattr(rule, "__name__", "")
  if module == "__main__" or (
      getattr(sys.modules.get(module), function, None) is not rule):
    raise ValueError(
        f"rule {name!r} is {rule!r}: a child process cannot import it; make it"
        " a function at the top of a module that can be imported")
  return [module, function]


def _request(tasks: list[Task]) -> dict[str, Any]:
  """One chunk, each prompt sent once however many completions it has."""
  index: dict[int, int] = {}
  prompts = []
  rows = []
  for name, prompt, tail, completion in tasks:
    if id(prompt) not in index:
      index[id(prompt)] = len(prompts)
      prompts.append(_fields(prompt))
    rows.append((name, index[id(prompt)], tail, completion))
  return {"prompts": prompts, "tasks": rows}


def _fields(prompt: Prompt) -> dict[str, Any]:
  fields = vars(prompt) | {"metadata": dict(prompt.metadata)}
  try:
    return json.loads(json.dumps(fields, default=_from_numpy))
  except TypeError as error:
    raise ValueError(
        f"prompt {prompt.id} cannot be sent to a rule: {error}; its metadata"
        " must be made of JSON values") from error


def _from_numpy(value: Any) -> Any:
  if isinstance(value, np.generic | np.ndarray):
    return value.tolist()
  raise TypeError(f"{type(value).__name__} {value!r}")


def _death(status: int | None) -> str:
  if status is not None and status < 0:
    return f"crash: {signal.Signals(-status).name}"
  return f"crash: exit {status}"


def _kill(process: subprocess.Popen) -> None:
  if process.returncode is None:
    with contextlib.suppress(ProcessLookupError):
      os.killpg(process.pid, signal.SIGKILL)
