"""Runs a program that a model wrote, under limits; the inside of a sandbox.

A sandbox starts with the concatenated texts of exchange.py, this file and
examiner.py (`sandbox.command`). So they import only the standard library and
each other's names, and run on any Python from 3.10. They import as little as
possible, because start-up is most of the cost of most programs.

The harness serves one request, a line of JSON, and replies with lines of JSON
that begin with the request's nonce. It is not trusted: the program that it runs
could take it over (same user, same process tree), but would gain nothing,
because only inputs are in the sandbox. A reply says what a program returned or
printed, never whether that is right. There are three modes:

  tests    each test in a forked child under its own limits: one line per test
  serve    the program is loaded once; one reply per requested operation
  examine  the test code of a data set, with stand-ins for the names of a
           program in another sandbox: requests operations, ends with a verdict
"""

from __future__ import annotations

import _signal  # importing signal is slow, as it creates enumerations
import _thread
import atexit
import builtins
import math
import posix as os  # importing os takes a tenth of the start-up time
import resource
import select
import sys
import time
from _frozen_importlib_external import SourceFileLoader  # importlib's

from r1jax.rewards.programs.inside.exchange import (
  TooLarge,
  decode,
  dumps,
  encode,
  loads,
)

ONLY_AST = 0x400  # ast.PyCF_ONLY_AST, without the slow import of ast
_TOLD = ("status", "error", "base", "value")
_PACKAGES = "/packages"  # sandbox.INSIDE; may not exist
_POLL = 0.1  # seconds between two checks of the memory
# Imported once in the parent if there are several tests. None of these has
# random state.
_COMMON = ("bisect", "collections", "functools", "heapq", "itertools", "json",
           "math", "operator", "re", "string", "typing")


class Loader(SourceFileLoader):
  """Imports a module from a source text."""

  def __init__(self, name, source, rewrite=None):
    super().__init__(name, f"/{name}.py")
    self._source = source
    self._rewrite = rewrite
    self._code = None

  def get_source(self, fullname):
    return self._source

  def get_code(self, fullname):
    if self._code is None:
      tree = self._source.encode("utf-8", "surrogatepass")
      if self._rewrite is not None:
        tree = self._rewrite(compile(
            tree, self.path, "exec", ONLY_AST, dont_inherit=True))
      self._code = compile(tree, self.path, "exec", dont_inherit=True)
    return self._code


def module(name):
  """A new, empty module in `sys.modules`."""
  made = sys.modules[name] = type(sys)(name)
  return made


def _load(request, name):
  """The program as a module, executed after the reference's setup.

  The setup has imports and helpers that a program may use. It may also use the
  program (to build inputs of the tests); an error in it is then ignored,
  because it is not the program's fault.
  """
  program = module(name)
  if request.get("setup"):
    try:
      Loader(name, request["setup"]).exec_module(program)
    except Exception:
      pass
  Loader(name, request["program"]).exec_module(program)
  return program


def _entry(program, name):
  """The function to call, which may be a method of a class Solution."""
  function = getattr(program, name, None)
  if function is None and hasattr(program, "Solution"):
    function = getattr(program.Solution(), name, None)
  if function is None:
    raise NameError(name)
  return function


def tell(error):
  """An exception as a reply: its class and its nearest builtin base class."""
  kind = type(error)
  base = next(k.__name__ for k in kind.__mro__
              if getattr(builtins, k.__name__, None) is k)
  return {"status": "error", "error": str(kind.__name__)[:40], "base": base}


def limit(limits, cpu):
  """Sets the limits of this process and its children; they cannot be raised.

  Also makes the sandbox's packages importable.
  """
  if os.access(_PACKAGES, 0):
    sys.path.append(_PACKAGES)
    import os as whole
    whole.environ["OPENBLAS_NUM_THREADS"] = "1"  # each thread reserves memory
  _cap_stacks(int(limits["megabytes"]) << 20)
  memory = int(limits["megabytes"]) << 20
  for what, value in (
      (resource.RLIMIT_AS, memory), (resource.RLIMIT_CPU, math.ceil(cpu)),
      (resource.RLIMIT_FSIZE, limits["file_bytes"]),
      (resource.RLIMIT_NPROC, limits["processes"]),
      (resource.RLIMIT_NOFILE, 64), (resource.RLIMIT_CORE, 0)):
    _lower(what, value)
  _lower(resource.RLIMIT_STACK, 64 << 20)


def _lower(what, value):
  _, hard = resource.getrlimit(what)
  value = value if hard == resource.RLIM_INFINITY else min(value, hard)
  resource.setrlimit(what, (value, value))


def write(descriptor, data):
  view = memoryview(data)
  while view:
    view = view[os.write(descriptor, view):]


def tests(request, lines, reply):
  """Runs every test in a child process of its own and replies its outcome."""
  if len(request["tests"]) > 1:
    text = request["program"] + request.get("setup", "")
    for name in _COMMON:
      if name in text:
        __import__(name)
  for number, test in enumerate(request["tests"]):
    outcome = _run(request, test)
    if outcome.pop("starved", False):  # the machine was busy: try once more
      outcome = _run(request, test)
      outcome.pop("starved", None)
    reply(dict(outcome, test=number))


def _run(request, test):
  limits = request["limits"]
  result_read, result_write = os.pipe()
  out_read, out_write = os.pipe()
  start = time.monotonic()
  before = _used()
  child = os.fork()
  if not child:
    try:
      _child(request, test, out_write, result_write)
    finally:
      os._exit(70)
  os.close(result_write)
  os.close(out_write)
  captured = {result_read: bytearray(), out_read: bytearray()}
  verdict = _watch(child, captured, limits, start + limits["wall"])
  _kill_others()
  _, status, usage = os.wait4(child, 0)
  _reap()
  os.close(result_read)
  os.close(out_read)
  cpu = usage.ru_utime + usage.ru_stime
  tree = _used() - before  # includes all processes that it started
  outcome = {"seconds": time.monotonic() - start, "status": verdict,
             "stdout": captured[out_read].decode("utf-8", "replace")}
  if verdict == "time" and tree < limits["seconds"] / 4:
    outcome["starved"] = True
  code = os.waitstatus_to_exitcode(status)
  if verdict == "ended":
    # The kernel's count of CPU time, by which it kills, may exceed this one.
    if max(cpu, tree) > limits["seconds"] + 0.05 or (
        code == -_signal.SIGXCPU
        or code == -_signal.SIGKILL and cpu > limits["seconds"] / 2):
      outcome["status"] = "time"
    else:
      outcome.update(_outcome(request, bytes(captured[result_read]), code))
  return outcome


def _used():
  """CPU seconds of all child processes that were waited for."""
  used = resource.getrusage(resource.RUSAGE_CHILDREN)
  return used.ru_utime + used.ru_stime


def _watch(child, captured, limits, give_up):
  """Collects a child's output until it ends or exceeds a limit; says which."""
  ended = os.pidfd_open(child)
  look = time.monotonic() + _POLL  # time of the next check of the memory
  poll = select.poll()
  for descriptor in (ended, *captured):
    poll.register(descriptor, select.POLLIN)
    os.set_blocking(descriptor, False)
  try:
    while True:
      left = give_up - time.monotonic()
      if left <= 0:
        return "time"
      ready = {d for d, _ in poll.poll(min(left, _POLL) * 1000)}
      for descriptor in captured:
        while descriptor in ready or ended in ready:
          try:
            data = os.read(descriptor, 1 << 16)
          except BlockingIOError:
            break
          if not data:
            if descriptor in ready:  # else it is unregistered already
              poll.unregister(descriptor)
            break
          captured[descriptor] += data
          if len(captured[descriptor]) > limits["output"]:
            return "output"
      if ended in ready:
        return "ended"
      if time.monotonic() >= look:
        if _memory() > 2 * limits["megabytes"] << 20:
          return "memory"
        look = time.monotonic() + _POLL
  finally:
    os.close(ended)


def _memory():
  """Bytes that the sandbox's other processes hold, also in unmapped files."""
  total = 0
  with open("/proc/sysvipc/shm") as file:
    total += sum(int(line.split()[3]) for line in file.readlines()[1:])
  for name in os.listdir("/proc"):
    if not name.isdigit() or name == "1":  # this process
      continue
    try:
      with open(f"/proc/{name}/status") as file:
        total += sum(int(line.split()[1]) << 10 for line in file
                     if line.startswith(("RssAnon:", "RssShmem:")))
      for path in [f"/proc/{name}/fd/{n}" for n in os.listdir(
          f"/proc/{name}/fd")]:
        if os.readlink(path).startswith("/memfd:"):
          total += os.stat(path).st_blocks * 512
    except OSError:  # it has ended, or may not be inspected
      continue
  return total


def _kill_others():
  """Kills all processes of the sandbox but this one, its first."""
  try:
    os.kill(-1, _signal.SIGKILL)
  except ProcessLookupError:
    pass


def _reap():
  """Waits for killed processes whose parents are gone."""
  while True:
    try:
      os.waitpid(-1, 0)
    except ChildProcessError:
      return


def _outcome(request, result, code):
  if result:
    try:
      told = loads(result.decode())
      return {key: told[key] for key in _TOLD if key in told}
    except (ValueError, RecursionError, TypeError):
      return {"status": "error", "error": "forged result"}
  if code == 0 and "function" not in request:
    return {"status": "ok"}
  if code >= 0:
    return {"status": "error", "error": f"exit {code}"}
  import signal
  return {"status": "error", "error": signal.Signals(-code).name}


def _child(request, test, out, result):
  """Runs one test in a forked child; does not return."""
  source = os.memfd_create("stdin")
  write(source, test.get("stdin", "").encode("utf-8", "surrogatepass"))
  os.lseek(source, 0, 0)
  os.dup2(source, 0)
  os.dup2(out, 1)
  if result != 3:
    os.dup2(result, 3)
  os.closerange(4, 256)
  limits = request["limits"]
  os.nice(5)  # a program that forks must not starve the harness
  limit(limits, limits["seconds"])
  if hasattr(sys, "set_int_max_str_digits"):
    sys.set_int_max_str_digits(0)  # print(10**5000); time is limited anyway
  name = "__main__" if "function" not in request else "program"
  outcome = {"status": "ok"}
  try:
    program = _load(request, name)
    if "function" in request:
      arguments = [decode(a) for a in test["arguments"]]
      value = _entry(program, request["function"])(*arguments)
      outcome["value"] = encode(value, lambda _: 0)
  except SystemExit as end:
    if end.code not in (None, 0) or "function" in request:
      outcome = tell(end)
  except TooLarge:
    outcome = {"status": "output"}
  except BaseException as error:
    outcome = tell(error)
  try:
    if "function" not in request:
      _finish()
    sys.stdout.flush()
  except BaseException as error:
    outcome = tell(error) if outcome["status"] == "ok" else outcome
  if outcome != {"status": "ok"}:
    write(3, dumps(outcome).encode())
  os._exit(0)


def _cap_stacks(memory):
  """Bounds `threading.stack_size`, so that threads fit into the limits.

  Programs request half a gigabyte for deep recursion. They use little of it,
  but all of it counts as address space. From Python 3.11 on, calls of Python
  functions do not need a large stack.
  """
  stack_size = _thread.stack_size

  def capped(size=0, /):
    return stack_size(min(size, memory // 4))

  _thread.stack_size = capped


def _finish():
  """Waits for threads and runs exit functions, as an interpreter does."""
  threading = sys.modules.get("threading")
  if threading is not None:
    threading._shutdown()
  atexit._run_exitfuncs()


def serve(request, lines, reply):
  """Loads the program, then executes one operation per line.

  An operation is [operation, target, ...] with encoded values: "call" target,
  arguments, keywords; "get" target, name; "set" target, name, value. A target
  is a handle: a name in the program, or the number of an earlier result.
  """
  limits = request["limits"]
  kept = []

  def keep(value):
    kept.append(value)
    return len(kept) - 1

  def resolve(handle, match):
    del match
    if type(handle) is int:
      return kept[handle]
    return _entry(program, handle)

  def operate(operation, *rest):
    target, *rest = [decode(r, resolve, iter) for r in rest]
    if operation == "call":
      arguments, keywords = rest
      return target(*arguments, **keywords)
    if operation == "get":
      return getattr(target, rest[0])
    return setattr(target, *rest)

  def attempt(work, *arguments):
    used = resource.getrusage(resource.RUSAGE_SELF)
    soft = used.ru_utime + used.ru_stime + limits["seconds"]
    resource.setrlimit(resource.RLIMIT_CPU, (
        min(math.ceil(soft), hard), hard))
    try:
      return {"status": "ok", "value": encode(work(*arguments), keep)}
    except TooLarge:
      return {"status": "output"}
    except BaseException as error:
      return tell(error)

  hard = math.ceil(limits["total"])
  program = None

  def load():
    nonlocal program
    program = _load(request, "program")

  child = os.fork()
  if not child:
    try:
      limit(limits, hard)
      reply(attempt(load))
      for line in lines:
        reply(attempt(operate, *loads(line.decode())))
    finally:
      os._exit(0)
  verdict = _watch(child, {}, limits, time.monotonic() + limits["total"])
  _kill_others()
  _, status = os.waitpid(child, 0)
  _reap()
  late = os.waitstatus_to_exitcode(status) in (
      -_signal.SIGXCPU, -_signal.SIGKILL)
  reply({"status": "time" if verdict == "ended" and late else verdict})
