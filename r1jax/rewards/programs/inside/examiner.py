"""The examiner, which runs a data set's test code, and the harness's `main`.

The last of the files that a sandbox starts with (see harness.py).
"""

from __future__ import annotations

import builtins
import posix as os
import sys

from r1jax.rewards.programs.inside.exchange import (
  Opaque,
  decode,
  dumps,
  encode,
  loads,
)
from r1jax.rewards.programs.inside.harness import (
  ONLY_AST,
  Loader,
  limit,
  module,
  serve,
  tell,
  tests,
  write,
)


class _Fault(BaseException):
  """The program is at fault; the test fails even if its code catches this."""


class _Unsendable(BaseException):
  """The test passes a value that cannot be sent to another sandbox."""


def examine(request, lines, reply):
  """Runs test code against stand-ins for a program in another sandbox.

  Every assert statement is a test, passed if it held whenever it was executed;
  test code without any is one test, passed if it ends. A function `check` that
  the test code does not call itself is called with the entry point. Helpers of
  the setup take precedence over the program's of the same name; names that
  neither setup nor test define are the program's.
  """
  exam = _Exam(request["stop"])
  stub = _stubs(_asker(lines, reply, exam.fault), exam.fault)
  limit(request["limits"], request["limits"]["total"])
  made = module("test")
  names = vars(made)
  entry = request["entry_point"]
  setup = Loader("test", request["setup"])
  test = Loader("test", request["test"], exam.rewrite)
  try:
    for name in _names(setup.get_code("")) | _names(test.get_code("")):
      if not hasattr(builtins, name):
        names[name] = stub(name)
  except Exception as error:
    reply({"done": dict(tell(error), status="reference")})
    return
  try:
    setup.exec_module(made)
    names.update(__held__=exam.held, __broke__=exam.broke)
    if entry:
      names[entry] = stub(entry)
    test.exec_module(made)
    if exam.uncalled:
      names["check"](stub(entry))
  except BaseException as error:
    if isinstance(error, _Unsendable):
      reply({"done": {"status": "reference", "error": str(error)}})
      return
    exam.first = exam.first or error
  reply({"done": exam.verdict()})


class _Exam:
  """Counts the assert statements of a test's code."""

  def __init__(self, stop):
    self._stop = stop
    self._count = 0
    self._held, self._broken = set(), set()
    self.uncalled = False  # whether `check` is defined but not called
    self.first = None  # the first exception

  def rewrite(self, tree):
    """Wraps every assert statement."""
    self._wrap(tree)
    kinds = [(type(n).__name__, n) for n in tree.body]
    self.uncalled = any(
        k == "FunctionDef" and n.name == "check" for k, n in kinds
    ) and not any(
        k == "Expr" and type(n.value).__name__ == "Call"
        and getattr(n.value.func, "id", "") == "check" for k, n in kinds)
    return tree

  def _wrap(self, node):
    for field in node._fields:
      value = getattr(node, field, None)
      if not isinstance(value, list):
        continue
      for at, child in enumerate(value):
        if type(child).__name__ == "Assert":
          value[at] = compile(
              "try:\n  pass\nexcept BaseException as __error__:\n"
              f"  __broke__({self._count}, __error__)\n"
              f"else:\n  __held__({self._count})\n",
              "/test.py", "exec", ONLY_AST).body[0]
          value[at].body = [child]
          self._count += 1
        elif hasattr(child, "_fields"):
          self._wrap(child)

  def fault(self, reason):
    """A `_Fault` to raise, recorded even if the test code catches it."""
    self.first = self.first or _Fault(reason)
    return self.first

  def held(self, number):
    self._held.add(number)

  def broke(self, number, error):
    self._broken.add(number)
    self.first = self.first or error
    if self._stop or not isinstance(error, Exception):
      raise error

  def verdict(self):
    if self.first is None and self._count and not self._held:
      self.first = AssertionError("nothing was asserted")
    tests = max(self._count, 1)
    if self.first is None:
      return {"status": "ok", "tests": tests, "passed": tests}
    good = len(self._held - self._broken)
    told = tell(self.first)
    if isinstance(self.first, _Fault):
      told["error"] = str(self.first)
    return dict(told, status="failed", tests=tests, passed=min(good, tests - 1))


def _asker(lines, reply, fault):
  """A function that sends an operation to the program and returns its result.
  """
  def ask(*operation):
    reply({"ask": operation})
    answer = loads(lines.readline().decode() or '{"status": "ended"}')
    if answer["status"] == "error":
      kind = getattr(builtins, str(answer.get("base")), None)
      if not isinstance(kind, type) or not issubclass(kind, Exception):
        raise fault(str(answer.get("error")))
      if issubclass(kind, StopIteration | StopAsyncIteration):
        # Inside all(map(...)) it would look like the end of the iterator.
        kind = RuntimeError
      try:
        error = kind()
      except TypeError:  # UnicodeDecodeError and the like want arguments
        error = ValueError()
      raise error
    if answer["status"] != "ok":
      raise fault(answer["status"])
    return answer["value"]
  return ask


def _stubs(ask, fault):
  """A class whose objects stand for objects of the program.

  Calls and attributes are relayed. Operations that could make a test pass by
  themselves (equality, inequality, truth) are faults that test code cannot
  catch. Only the match of a regular expression has a truth value.
  """
  class Stub(Opaque):
    def __init__(self, handle, match=False):
      vars(self).update(handle=handle, match=match)

    def __call__(self, *arguments, **keywords):
      return relay("call", self, list(arguments), keywords)

    def __getattr__(self, name):
      if name[:2] == "__":  # copy and the like look for their protocols
        raise AttributeError(name)
      return relay("get", self, name)

    def __setattr__(self, name, value):
      relay("set", self, name, value)

    def _refuse(self, *_):
      raise fault("no plain value")

    def __bool__(self):
      return vars(self)["match"] or self._refuse()

    __eq__ = __ne__ = __hash__ = _refuse

  def keep(value):
    if isinstance(value, Stub):
      return vars(value)["handle"]
    raise _Unsendable(f"it passes a {type(value).__name__}")

  def relay(operation, *values):
    reply = ask(operation, *[encode(v, keep) for v in values])
    try:
      return decode(reply, Stub, iter)
    except (ValueError, RecursionError):
      raise fault("forged value") from None

  return Stub


def _names(code):
  """Global names and attributes that a code object uses, with nested ones."""
  names = set(code.co_names)
  for constant in code.co_consts:
    if isinstance(constant, type(code)):
      names |= _names(constant)
  return names


def main():
  """Serves one request, then waits for the end of its input."""
  if os.getpid() != 1:
    # It kills all other processes between tests: outside, all of the user's.
    raise SystemExit("a harness runs as the first process of a sandbox")
  requests, replies = os.dup(0), os.dup(1)
  null = os.open("/dev/null", os.O_RDWR)
  for descriptor in (0, 1, 2):
    os.dup2(null, descriptor)
  os.close(null)
  sys.dont_write_bytecode = True
  sys.argv = ["program"]
  builtins.exit = builtins.quit = sys.exit  # the site module's, left out
  write(replies, b"ready\n")
  with open(requests, "rb") as lines:
    request = loads(lines.readline().decode() or "null")
    if request is None:
      return
    nonce = request["nonce"].encode()

    def reply(value):
      write(replies, nonce + dumps(value).encode() + b"\n")

    modes = {"tests": tests, "serve": serve, "examine": examine}
    modes[request["mode"]](request, lines, reply)
    lines.read()


if __name__ == "__main__":
  main()
