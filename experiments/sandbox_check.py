"""Tests the sandbox of the code rewards with programs that try to break out.

  python -m experiments.sandbox_check
  python -m experiments.sandbox_check --only=sleep --rounds=100

Exit status 1 if anything got out, or if there is no sandbox.
"""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import secrets
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from absl import flags

from r1jax.rewards.programs import sandbox, trials

from . import sandbox_probes, start

ONLY = flags.DEFINE_list(
    "only", [], "Names of the probes to run; default: all.")
ROUNDS = flags.DEFINE_integer(
    "rounds", 0, "How often to run an honest program beside eight hostile ones"
    " afterwards.")
_VARIABLE = "R1JAX_SANDBOX_PROBE"
LIMITS = trials.Limits(seconds=1.0, megabytes=256, total=10.0, output=1 << 20)


_SPINS = """
import os
for _ in range(14):
  if not os.fork():
    break
while True:
  pass
"""


class Result(NamedTuple):
  """How a probe ended: whether it escaped, how it was stopped, wall seconds."""

  escaped: bool
  reason: str
  seconds: float


@contextlib.contextmanager
def target() -> Iterator[dict[str, Any]]:
  """Creates things on this machine that a program must not reach.

  Yields:
    Their names, for the probes.
  """
  mark = secrets.token_hex(8)
  with contextlib.ExitStack() as stack:
    tcp = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
    local = stack.enter_context(
        socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
    local.bind(f"\0r1jax-{mark}")
    local.listen()
    folder = stack.enter_context(tempfile.TemporaryDirectory())
    file = pathlib.Path(folder, "host-file")
    file.write_text("of the host")
    # World-readable, so that only the sandbox keeps programs out.
    os.chmod(folder, 0o755)
    file.chmod(0o666)
    os.environ[_VARIABLE] = mark
    stack.callback(os.environ.pop, _VARIABLE, None)
    yield {"port": tcp.getsockname()[1], "socket": f"r1jax-{mark}",
           "file": str(file), "variable": _VARIABLE, "pid": os.getpid(),
           "mark": f"r1jax-left-{mark}"}


def attempt(name: str, host: Mapping[str, Any], *,
            command: Sequence[str] | None = None,
            environment: Mapping[str, str] | None = None,
            limits: trials.Limits = LIMITS,
            extra: Mapping[str, Any] | None = None,
            filtered: bool = True) -> Result:
  """Runs one probe in a sandbox.

  Args:
    name: the probe's name.
    host: what `target` yielded.
    command: the sandbox's command; by default `sandbox.command()`.
    environment: environment of bubblewrap; by default empty.
    limits: of the probe.
    extra: further fields of the request to the harness.
    filtered: whether system calls are filtered.

  Raises:
    SandboxError: the sandbox did not start.
  """
  request = {
      "mode": "tests", "program": sandbox_probes.source(name),
      "tests": [{"stdin": json.dumps(host) + "\n"}],
      "limits": limits.request(), **(extra or {})}
  with contextlib.closing(sandbox.Sandbox(
      command or sandbox.command(), environment=environment,
      filtered=filtered)) as box:
    box.ready()
    begin = time.monotonic()  # without the start, slow on a busy machine
    until = begin + limits.total
    try:
      box.ask(request, until)
      reply = box.reply(until)
    except (EOFError, ValueError):
      reply = {"status": "sandbox ended"}
    except TimeoutError:
      reply = {"status": "ESCAPED its time limit"}
  seconds = time.monotonic() - begin
  escaped = (
      "ESCAPED" in json.dumps(reply) or seconds > limits.total + 5
      or "value" in reply  # scripts return no value
      or left_behind(host["mark"]))
  reason = " ".join(filter(None, [reply["status"], reply.get("error")]))
  return Result(escaped, reason, seconds)


def left_behind(mark: str) -> bool:
  """Whether a process that a probe marked is still alive after 50 ms."""
  time.sleep(0.05)
  for path in pathlib.Path("/proc").glob("[0-9]*/cmdline"):
    with contextlib.suppress(OSError):
      if mark.encode() in path.read_bytes():
        return True
  return False


def beside(hostile: int, rounds: int) -> int:
  """Number of rounds in which an honest program passes beside hostile ones."""
  stop = threading.Event()

  def spin() -> None:
    while not stop.is_set():
      for _ in trials.run(_SPINS, [{"stdin": ""}], LIMITS):
        pass

  threads = [threading.Thread(target=spin) for _ in range(hostile)]
  for thread in threads:
    thread.start()
  try:
    return sum(
        outcome.reason == "ok" and outcome.stdout == "42\n"
        for _ in range(rounds)
        for outcome in trials.run(
            "print(int(input()) + 1)", [{"stdin": "41\n"}], trials.Limits()))
  finally:
    stop.set()
    for thread in threads:
      thread.join()


def main() -> None:
  names = ONLY.value or list(sandbox_probes.PROBES)
  for name in names:
    if name not in sandbox_probes.PROBES:
      raise ValueError(
          f"--only: {name!r} is not a probe; the probes are"
          f" {', '.join(sandbox_probes.PROBES)}")
  sandbox.check()
  python, _ = sandbox.interpreter()
  print(f"programs run on {python}")
  width = max(map(len, names))
  escaped = []
  with target() as host:
    for name in names:
      result = attempt(name, host)
      escaped += [name] * result.escaped
      verdict = "ESCAPED" if result.escaped else "contained"
      print(f"{name:{width}}  {verdict:9}  {result.seconds:5.2f} s"
            f"  {result.reason}", flush=True)
  print(f"{len(names) - len(escaped)} of {len(names)} contained")
  if ROUNDS.value:
    passed = beside(8, ROUNDS.value)
    print(f"an honest program beside 8 that fork and spin: {passed} of"
          f" {ROUNDS.value} passed")
  if escaped:
    print("do not run code rewards on this machine", file=sys.stderr)
    raise SystemExit(1)


if __name__ == "__main__":
  start.run(main)
