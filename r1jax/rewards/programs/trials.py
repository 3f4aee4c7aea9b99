"""Runs the tests of a program in sandboxes.

Replies of a sandbox are untrusted: they are parsed with bounds, and only say
what a program returned or printed, never whether it is right.
"""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from r1jax.rewards.programs import sandbox


@dataclasses.dataclass(frozen=True, kw_only=True)
class Limits:
  """What a program may use.

  Attributes:
    seconds: CPU seconds of one test; the limit of wall time is twice that.
    megabytes: address space of a process; all together may hold twice that.
    total: wall seconds for all tests of a program.
    processes: number of processes and threads at a time.
    output: bytes that one test may print or return.
    file_bytes: largest size of a file in bytes.
  """

  seconds: float = 6.0
  megabytes: int = 512
  total: float = 30.0
  processes: int = 16
  output: int = 4 << 20
  file_bytes: int = sandbox.DISK

  def __post_init__(self):
    for name, value in vars(self).items():
      if not value > 0:
        raise ValueError(f"{name}={value}: a limit must be positive")

  def request(self) -> dict[str, float]:
    return vars(self) | {"wall": 2 * self.seconds}


class Outcome(NamedTuple):
  """The outcome of running a program on one test.

  Attributes:
    reason: "ok", or why there is no result ("error: TypeError", "time limit",
      "memory limit", "output limit").
    value: encoded return value of a function; None otherwise.
    stdout: the program's output.
    seconds: wall time.
  """

  reason: str
  value: Any = None
  stdout: str = ""
  seconds: float = 0.0


class Verdict(NamedTuple):
  """Numbers of tests passed and of all tests, reason ("ok" if all passed)."""

  passed: int
  tests: int
  reason: str
  seconds: float


def run(program: str, tests: Sequence[Mapping[str, Any]], limits: Limits, *,
        packages: Sequence[str] = (), **request: Any) -> Iterator[Outcome]:
  """Runs a program on tests one after the other, each in its own process.

  Args:
    program: source.
    tests: {"stdin": text} each, or {"arguments": [encoded]}.
    limits: of time and size.
    packages: those of `sandbox.PACKAGES` that the program may import.
    **request: function=NAME, the function to call (without it the program is a
      script), and setup=SOURCE.

  Yields:
    One outcome per test; fewer if the program ended the sandbox or the total
    time is over. Closing the iterator ends the sandbox.

  Raises:
    SandboxError: the sandbox failed.
  """
  until = time.monotonic() + limits.total
  with contextlib.closing(sandbox.pool(packages).take()) as box:
    try:
      box.ask({"mode": "tests", "program": program, "tests": list(tests),
               "limits": limits.request(), **request}, until)
      for _ in tests:
        reply = box.reply(until)
        yield Outcome(
            _reason(reply), reply.get("value"), str(reply.get("stdout", "")),
            _number(reply.get("seconds")))
    except (EOFError, ValueError, TimeoutError) as error:
      yield Outcome(_lost(error))


def examine(program: str, setup: str, test: str, entry_point: str,
            limits: Limits, *, stop: bool,
            packages: Sequence[str] = ()) -> Verdict:
  """Runs test code in one sandbox against a program in another.

  The test code uses stand-ins for the program's names; each use is relayed as
  encoded values, so the program sees its arguments but not the test.

  Args:
    program: source.
    setup: source of imports and helpers, for both.
    test: source with assert statements, or with a function `check` that has
      them.
    entry_point: name of the function to pass to `check`; "" for none.
    limits: of time and size; `seconds` holds for one call.
    stop: whether to stop at the first failure.
    packages: those of `sandbox.PACKAGES` that both may import.

  Raises:
    ValueError: setup or test cannot be compiled.
    SandboxError: a sandbox failed.
  """
  start = time.monotonic()
  until = start + limits.total
  common = {"setup": setup, "limits": limits.request()}

  def failed(reason: str) -> Verdict:
    return Verdict(0, 1, reason, time.monotonic() - start)

  boxes = sandbox.pool(packages)
  with contextlib.closing(boxes.take()) as box:
    try:
      box.ask({"mode": "serve", "program": program, **common}, until)
      loaded = box.reply(until)
    except (EOFError, ValueError, TimeoutError) as error:
      return failed(_lost(error))
    if loaded.get("status") != "ok":
      return failed(_reason(loaded))
    with contextlib.closing(boxes.take()) as examiner:
      try:
        examiner.ask({"mode": "examine", "test": test, "stop": stop,
                      "entry_point": entry_point, **common}, until)
        while "done" not in (asked := examiner.reply(until)):
          examiner.send(_answer(box, asked["ask"], until, limits), until)
      except (EOFError, ValueError, TimeoutError) as error:
        return failed(_lost(error))
  done = asked["done"]
  if done["status"] == "reference":
    raise ValueError(
        f"the reference's setup or test cannot be run: {done['error']}")
  reason = "ok" if done["status"] == "ok" else _NAMES.get(
      done["error"]) or _reason(done | {"status": "error"})
  return Verdict(
      done["passed"], done["tests"], reason, time.monotonic() - start)


def _answer(box: sandbox.Sandbox, asked: Any, until: float,
            limits: Limits) -> dict[str, Any]:
  """The reply of the program's sandbox to one operation."""
  until = min(until, time.monotonic() + 2 * limits.seconds)
  try:
    box.send(asked, until)
    return box.reply(until)
  except TimeoutError:
    return {"status": "time"}
  except (EOFError, ValueError):
    return {"status": "ended"}


_NAMES = {
    "time": "time limit", "memory": "memory limit", "output": "output limit",
    "ended": "error: exit", "MemoryError": "memory limit",
    "AssertionError": "wrong answer", "no plain value": "wrong answer",
    "forged value": "wrong answer"}


def _reason(reply: Mapping[str, Any]) -> str:
  status = reply.get("status")
  if status == "ok":
    return "ok"
  name = str(reply.get("error")) if status == "error" else str(status)
  if name in ("time", "memory", "output", "ended", "MemoryError"):
    return _NAMES[name]
  return f"error: {name}" if name.replace(" ", "_").isidentifier() else "error"


def _lost(error: Exception) -> str:
  return "time limit" if isinstance(error, TimeoutError) else "error: exit"


def _number(value: Any) -> float:
  return float(value) if type(value) in (int, float) else 0.0
