from __future__ import annotations

import contextlib
import ctypes
import json
import math
import os
import pathlib
import re
import resource
import select
import signal
import subprocess
import sys
import time

import pytest

from r1jax.rewards.programs import boot, sandbox, trials
from r1jax.rewards.programs.inside import exchange
from tests.rewards import sandboxed

ROOT = pathlib.Path(__file__).parents[3]
LIMITS = trials.Limits(seconds=1.0, megabytes=200, total=10.0, output=1 << 16)


@pytest.fixture
def box():
  sandboxed.require()


def outcomes(program, *inputs, limits=LIMITS):
  tests = [{"stdin": text} for text in inputs or ("",)]
  return list(trials.run(program, tests, limits))


def test_runs_programs(box):
  program = "import sys\nn = int(input())\nprint(n ** 2)\nsys.exit(n == 4)"
  first, second, third = outcomes(program, "3\n", "x", "4")
  assert first[:3] == ("ok", None, "9\n")
  assert second.reason == "error: ValueError"
  assert third.reason == "error: SystemExit"


@pytest.mark.parametrize("program,reason", [
    ("while True: pass", "time limit"),
    ("import time; time.sleep(60)", "time limit"),
    ("import signal\nsignal.signal(signal.SIGXCPU, signal.SIG_IGN)\n"
     "while True: pass", "time limit"),
    ("x = bytearray(300 << 20)", "memory limit"),
    ("import os\nfor _ in range(6):\n  if not os.fork(): break\n"
     "x = b'x' * (100 << 20)\nimport time; time.sleep(3)", "memory limit"),
    ("print('x' * (1 << 17))", "output limit"),
    ("import sys; sys.stdout.write('x' * 10 ** 9)", "memory limit"),
    ("open('/tmp/x', 'w').write('x' * (20 << 20))", "error: OSError"),
    ("def f(): f()\nf()", "error: RecursionError"),
    ("import os; os.abort()", "error: SIGABRT"),
    ("import os; os._exit(3)", "error: exit 3"),
    ("class Odd(Exception): pass\nraise Odd", "error: Odd"),
    ("x = (", "error: SyntaxError"),
    ("import numpy", "error: ModuleNotFoundError"),
    ("import r1jax", "error: ModuleNotFoundError"),
    ("x = '\ud800'", "error: SyntaxError"),
])
def test_limits_and_errors(box, program, reason):
  bad, good = outcomes(
      f"if input() == '2':\n  print('fine'); raise SystemExit\n{program}",
      "1", "2")
  assert bad.reason == reason
  # The next test of the same program does not suffer, if it compiles.
  assert (good.reason, good.stdout) == (
      (reason, "") if reason == "error: SyntaxError" else ("ok", "fine\n"))


@pytest.mark.parametrize("program", [
    "import threading\n"
    "def work():\n  import time; time.sleep(0.2); print('done')\n"
    "threading.Thread(target=work).start()",
    "import atexit\natexit.register(print, 'done')",
    "import os\nos.write(1, os.read(0, os.fstat(0).st_size)[:4] + b'\\n')",
    "import sys\nprint(sys.stdin.buffer.read()[:4].decode())",
    "import os\nprint(open(0).read()[:4], flush=True)\nos._exit(0)",
    "print('done')\nexit()\nprint('not reached')",
    "if __name__ == '__main__':\n  print(input()[:4])",
    "import dataclasses\n@dataclasses.dataclass\nclass A:\n  x: 'int' = 4\n"
    "print('done' if A().x == 4 else '')",
    *(f"import sys, threading\nthreading.stack_size({size})\n"
      "sys.setrecursionlimit(10 ** 6)\n"
      "def f(n): return n and 1 + f(n - 1)\n"
      "def main(): print('done' if f(20000) == 20000 else '')\n"
      "t = threading.Thread(target=main); t.start(); t.join()"
      for size in ("1 << 26", "1 << 29", "10 ** 9")),
])
def test_programs_as_people_write_them(box, program):
  (outcome,) = outcomes(program, "done\n")
  assert (outcome.reason, outcome.stdout) == ("ok", "done\n")


def test_nothing_passes_from_program_to_program(box):
  write = ("open('/tmp/note', 'w').write('x')\nimport os\n"
           "if not os.fork():\n  import time; time.sleep(9)")
  look = ("import os\nprint(os.path.exists('/tmp/note'),"
          " sum(n.isdigit() for n in os.listdir('/proc')), dict(os.environ))")
  outcomes(write)
  (outcome,) = outcomes(look)
  # Two processes: the harness and the test.
  assert outcome.stdout.startswith("False 2 {"), outcome
  names = re.findall(r"'(\w+)':", outcome.stdout)
  assert set(names) <= {"PWD", "LC_CTYPE"}


def test_processes_of_a_test_end_with_it(box):
  program = (
      "import os\nprint(sum(n.isdigit() for n in os.listdir('/proc')),"
      " flush=True)\nos.fork() or os.setsid() or os.fork()\n"
      "if os.getppid() != 1: __import__('time').sleep(9)")
  first, second = outcomes(program, "", "")
  assert first.stdout.startswith("2\n") and second.stdout.startswith("2\n")


def processor_seconds():
  used = [resource.getrusage(whose) for whose in (
      resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
  return sum(one.ru_utime + one.ru_stime for one in used)


def test_processor_time_of_a_program(box):
  sandbox.pool().take().close()
  begin = processor_seconds()
  for _ in range(20):
    assert outcomes("print(1)")[0].stdout == "1\n"
  # 25 ms on two idle cores (measured: docs/log/rewards.md): 80 a second.
  assert (processor_seconds() - begin) / 20 < 0.1


def test_leaves_no_process_to_the_system(box):
  # As the subreaper this process inherits whatever loses its parent.
  libc = ctypes.CDLL(None)
  assert libc.prctl(36, 1, 0, 0, 0) == 0
  try:
    spare = sandbox.Sandboxes(spare=1)
    programs = ["print(1)", "import os; os.kill(os.getppid(), 9)",
                "import os; os.fork(); os.setsid(); os._exit(0)", "1/0"]
    for program in programs * 3:
      with contextlib.closing(spare.take()) as one:
        until = time.monotonic() + 20
        one.ask({"mode": "tests", "program": program, "tests": [{}],
                 "limits": LIMITS.request()}, until)
        one.reply(until)
    spare.close()
    known = {box._process.pid for box in sandbox.pool()._waiting}
    assert children() <= known
  finally:
    libc.prctl(36, 0, 0, 0, 0)


def children():
  found = set()
  for path in pathlib.Path("/proc").glob("[0-9]*/stat"):
    with contextlib.suppress(OSError):
      name, _, rest = path.read_text().rpartition(")")
      if "bwrap" in name or "python3" in name:
        found |= {int(path.parent.name)} if (
            int(rest.split()[1]) == os.getpid()) else set()
  return found


def test_dies_with_its_killed_parent(box):
  mark = f"r1jax-orphan-{os.getpid()}"
  code = (
      "import time\nfrom r1jax.rewards.programs import trials\n"
      f"program = '''import os, sys\nos.execv(sys.executable, [sys.executable,"
      f" '-c', 'import time; time.sleep(50)', '{mark}'])'''\n"
      "list(trials.run(program, [{}], trials.Limits(seconds=30)))\n")
  parent = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT)

  def running():
    found = []
    for path in pathlib.Path("/proc").glob("[0-9]*/cmdline"):
      with contextlib.suppress(OSError):
        words = path.read_bytes().split(b"\0")
        found += [path] if mark.encode() in words else []
    return found

  def until(condition):
    end = time.monotonic() + 30
    while not condition() and time.monotonic() < end:
      time.sleep(0.02)
    return condition()

  assert until(running)
  parent.send_signal(signal.SIGKILL)
  parent.wait()
  assert until(lambda: not running())


@pytest.fixture
def unchecked():
  """`check` forgets what it found, before and after."""
  caches = (sandbox._problem, sandbox.interpreter)
  for cache in caches:
    cache.cache_clear()
  yield
  for cache in caches:
    cache.cache_clear()


def test_missing_bubblewrap_is_said(unchecked, monkeypatch, tmp_path):
  monkeypatch.setenv("PATH", str(tmp_path))
  with pytest.raises(sandbox.SandboxError, match="apt-get install bubblewrap"):
    sandbox.check()
  with pytest.raises(sandbox.SandboxError, match="apt-get install bubblewrap"):
    sandbox.Sandboxes()


@pytest.mark.parametrize("said,remedy", [
    ("bwrap: Unknown option --disable-userns", "0.8 or later"),
    ("bwrap: No permissions to create new namespace", "max_user_namespaces"),
    ("bwrap: setting up uid map: Permission denied", "apparmor_restrict"),
])
def test_unusable_bubblewrap_is_said(
    unchecked, monkeypatch, tmp_path, said, remedy):
  path = tmp_path / "bwrap"
  path.write_text(f"#!/bin/sh\necho '{said}' >&2\nexit 1\n")
  for folder in (tmp_path, *tmp_path.parents):
    with contextlib.suppress(PermissionError):
      folder.chmod(folder.stat().st_mode | 0o055)
  path.chmod(0o755)
  monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
  with pytest.raises(sandbox.SandboxError) as error:
    sandbox.check()
  assert said in str(error.value) and remedy in str(error.value)


def test_python_that_nobody_can_read(unchecked, monkeypatch):
  monkeypatch.setattr(sandbox, "_readable", lambda path: False)
  with pytest.raises(sandbox.SandboxError, match="install python3|install one"):
    sandbox.interpreter()


def test_readable_looks_at_every_folder(monkeypatch, tmp_path):
  monkeypatch.setattr(sandbox, "_user", lambda: sandbox.NOBODY)
  assert sandbox._readable("/bin/sh")
  file = tmp_path / "file"
  file.write_text("")
  file.chmod(0o644)
  tmp_path.chmod(0o700)
  assert not sandbox._readable(str(file))
  assert not sandbox._readable("/no/such/file")


@pytest.mark.parametrize("ci,outcome", [
    ("true", pytest.fail.Exception), ("", pytest.skip.Exception)])
def test_ci_fails_without_a_sandbox(
    unchecked, monkeypatch, tmp_path, ci, outcome):
  monkeypatch.setenv("PATH", str(tmp_path))
  monkeypatch.setenv("CI", ci)
  with pytest.raises(outcome, match="bubblewrap"):
    sandboxed.require()


def test_harness_runs_nowhere_else():
  # Between tests it ends every other process: here, all of the user's.
  done = subprocess.run(
      boot.command(sys.executable), input=b"{}\n", capture_output=True)
  assert done.returncode == 1 and b"first process" in done.stderr
  assert not done.stdout


def test_inside_json_is_json(monkeypatch):
  # Its coders stand on private parts of CPython, and can do without.
  value = {"a": [1, -2.5e-9, True, None, "ü\ud800\n\"", {}], "b": 1 << 70}
  for blocked in ({}, {"_json": None}):
    with monkeypatch.context() as patch:
      for name, module in blocked.items():
        patch.setitem(sys.modules, name, module)
      read, written = exchange.coders()
    assert written(value) == json.dumps(value)
    assert read(f" {json.dumps(value)}\n") == value
    assert math.isnan(read("NaN")) and read("-Infinity") == -math.inf
    for text in ("", "{", "[1] 2", "nan", "{'a': 1}", "\"a\nb\""):
      with pytest.raises(ValueError):
        read(text)
    with pytest.raises(TypeError):
      written({"a": object()})


def test_replies_are_hostile(box):
  with contextlib.closing(sandbox.Sandbox(sandbox.command())) as one:
    one.ready()
    nonce = one._nonce.encode()
    until = time.monotonic()
    for line in (b"x", nonce + b"[1]", nonce + b"[" * 10 ** 5, b"", nonce,
                 b"ff" + nonce + b"{}"):
      one._buffer += line + b"\n"
      with pytest.raises(ValueError):
        one.reply(until)
    one._buffer += nonce + b'{"a": 1}\n'
    assert one.reply(until) == {"a": 1}
    with pytest.raises(TimeoutError):
      one.reply(until)


@pytest.mark.parametrize("limits", [
    dict(seconds=0), dict(megabytes=-1), dict(seconds=math.nan)])
def test_limits_are_positive(limits):
  with pytest.raises(ValueError, match="positive"):
    trials.Limits(**limits)


PLAIN = [
    None, True, 1, -(1 << 70), 1 << 53, 2.5, math.inf, "é\ud800", b"\0\xff",
    1 + 2j, [], [1, [2, (3,)]], (), (1,), {1, 2}, frozenset({(1, "a")}),
    {1: [2], (3, 4): {5: "6"}}, range(1, 9, 2), int, {"opaque": ["opaque", 1]},
]


@pytest.mark.parametrize("value", PLAIN)
def test_values_cross_with_their_types(value):
  tree = json.loads(json.dumps(exchange.encode(value, pytest.fail)))
  got = exchange.decode(tree)
  assert got == value and repr(got) == repr(value)


class Sly(int):
  def __eq__(self, other):
    return True
  __hash__ = int.__hash__


@pytest.mark.parametrize("value", [
    Sly(1), object(), type("L", (list,), {})(), len, Sly, type("int", (), {})])
def test_what_is_no_plain_value_becomes_a_handle(value):
  kept = []
  tree = exchange.encode([value], lambda v: kept.append(v) or 7)
  assert tree == ["list", [["opaque", 7, False]]]
  assert kept[0] is value
  got = exchange.decode(json.loads(json.dumps(tree)))
  assert type(got[0]) is exchange.Opaque and got[0].handle == 7


def test_iterators_and_subclasses_that_compare_alike():
  import collections
  encode = exchange.encode
  assert exchange.decode(encode((i for i in "ab"), None)) == ["a", "b"]
  assert exchange.decode(encode(map(str, [1]), None)) == ["1"]
  counter = exchange.decode(encode(collections.Counter("aab"), None))
  assert type(counter) is dict and counter == {"a": 2, "b": 1}


def endless():
  while True:
    yield 0


def nested(depth):
  value = []
  for _ in range(depth):
    value = [value]
  return value


@pytest.mark.parametrize("value", [
    endless, lambda: nested(100), lambda: "x" * (8 * exchange.MAX_NODES + 8),
    lambda: [0] * exchange.MAX_NODES,
    lambda: 1 << (64 * exchange.MAX_NODES + 64)])
def test_values_too_large(value):
  value = value()
  with pytest.raises(exchange.TooLarge):
    exchange.encode(value, pytest.fail)


@pytest.mark.parametrize("tree", [
    {}, {"a": 1}, [], ["what", 1], [[], 1], ["list"], ["list", 3], ["set", [[
        "list", []]]], ["dict", [[1]]], ["dict", [[["list", []], 1]]],
    ["int", "x"], ["int", 3], ["range", 1, 2, 0], ["range", "a"],
    ["complex", []], ["bytes", "xyz"], ["opaque"], ["opaque", 1, 2, 3],
    ["type", "object"], ["type", []], nested(100),
])
def test_forged_values(tree):
  with pytest.raises(ValueError):
    exchange.decode(tree)


def test_closing_in_the_middle_of_a_start_leaves_nothing(box):
  # As the subreaper this process inherits what would stay for ever.
  libc = ctypes.CDLL(None)
  assert libc.prctl(36, 1, 0, 0, 0) == 0
  try:
    before = children()
    for i in range(30):
      one = sandbox.Sandbox(sandbox.command())
      time.sleep(i * 2e-4)
      one.close()
    assert children() <= before
  finally:
    libc.prctl(36, 0, 0, 0, 0)


@pytest.mark.parametrize("started", [False, True])
def test_a_spare_that_died_is_replaced(box, started):
  with contextlib.closing(sandbox.Sandboxes(spare=2)) as spare:
    for waiting in spare._waiting:
      if started:
        assert select.select([waiting._process.stdout], [], [], 20)[0]
      waiting._process.kill()
      waiting._process.wait()
    with contextlib.closing(spare.take()) as one:
      until = time.monotonic() + 20
      one.ask({"mode": "tests", "program": "print(1)", "tests": [{}],
               "limits": LIMITS.request()}, until)
      assert one.reply(until)["stdout"] == "1\n"
    assert len(spare._waiting) == 2
