from __future__ import annotations

import math
import signal
import time
import types

import pytest

from r1jax.rewards import response
from r1jax.rewards.programs import sandbox, solutions, trials
from r1jax.rewards.programs.inside.exchange import Opaque
from tests.rewards import sandboxed

SQUARE = "def square(x):\n  return x * x\n"
FUNCTION = {"kind": "function", "entry_point": "square",
            "cases": [[[3], 9], [[-2], 4], [[5], 25]]}
STDIN = {"kind": "stdin", "inputs": ["3\n", "-2\n"], "outputs": ["9\n", "4\n"]}
ASSERTS = {"kind": "asserts", "entry_point": "square", "setup": "",
           "test": "assert square(3) == 9\nassert square(-2) == 4\n"}
CHECK = ASSERTS | {"test": (
    "def check(candidate):\n  for x in range(5):\n"
    "    assert candidate(x) == x ** 2\n  assert candidate(-2) == 4\n")}


@pytest.fixture
def box():
  sandboxed.require()


def judge(reference, program, rule=solutions.all_passed):
  return whole(reference, f"So:\n```python\n{program}\n```\n", rule)


def whole(reference, answer, rule=solutions.all_passed):
  prompt = types.SimpleNamespace(reference=reference)
  return rule(prompt, response.split("", f"<think> hm </think> {answer}"))


PRINTS = "print(int(input()) ** 2)"


@pytest.mark.parametrize("reference,right,wrong", [
    (FUNCTION, SQUARE, "def square(x):\n  return 3 * abs(x)"),
    (STDIN, PRINTS, "print(9)"),
    (ASSERTS, SQUARE, "def square(x):\n  return 9"),
    (CHECK, SQUARE, "def square(x):\n  return 4 if x < 0 else x * 2"),
])
def test_right_and_wrong(box, reference, right, wrong):
  score = judge(reference, right)
  assert (score.value, score.valid, score.reason) == (1, True, "correct")
  tests = 3 if reference is FUNCTION else 2
  assert score.parts.pop("seconds") < 20
  assert score.parts == {"passed": tests, "tests": tests, "fraction": 1}
  score = judge(reference, wrong)
  assert (score.value, score.valid, score.reason) == (0, True, "wrong answer")
  assert score.parts["fraction"] < 1


@pytest.mark.parametrize("reference,share", [
    (FUNCTION, 2 / 3), (STDIN, 1 / 2), (ASSERTS, 1 / 2), (CHECK, 1 / 2)])
@pytest.mark.parametrize("last", [False, True])
def test_fraction(box, reference, share, last):
  # Fails the negative case only, by its value or by an exception.
  bad = "1 / 0" if last else "5"
  program = (PRINTS.replace("print(", "n = int(input())\nprint(").replace(
      "int(input()) **", f"n ** 2 if n > 0 else {bad} **")
      if reference is STDIN else
      f"def square(x):\n  return x * x if x >= 0 else {bad}\n")
  score = judge(reference, program, solutions.fraction_passed)
  assert score.value == pytest.approx(share)
  assert score.valid and score.reason == (
      "error: ZeroDivisionError" if last else "wrong answer")
  assert judge(reference, program).value == 0
  full = judge(reference, PRINTS if reference is STDIN else SQUARE,
               solutions.fraction_passed)
  assert full.value == 1


@pytest.mark.parametrize("program,reason", [
    ("def square(x):\n  while True: pass", "time limit"),
    ("def square(x):\n  import time; time.sleep(99)", "time limit"),
    ("def square(x):\n  return [0] * (1 << 30)", "memory limit"),
    ("def square(x):\n  return 'x' * 5_000_000", "output limit"),
    ("def square(x):\n  return (0 for _ in iter(int, 1))", "output limit"),
    ("def square(x):\n  return x + ''", "error: TypeError"),
    ("def square(x):\n  import sys; sys.exit()", "error: SystemExit"),
    ("def square(x):\n  import os; os._exit(0)", "error: exit"),
    ("def square(x):\n  return square(x)", "error: RecursionError"),
    ("while True: pass  # square", "time limit"),
    ("import os; os._exit(0)  # square", "error: exit"),
    ("raise SystemExit  # square", "error: SystemExit"),
    ("def cube(x): return x  # no square", "error: NameError"),
    ("def cube(x): return x", "no square"),
    ("def square(x) return x", "error: SyntaxError"),
    ("def square(x):\n  return object()", "wrong answer"),
    ("class square:\n  def __init__(self, x): pass", "wrong answer"),
    ("def square(x):\n  return True", "wrong answer"),
    ("def square(x):\n  return x * 3.0", "wrong answer"),
])
@pytest.mark.parametrize("reference", [FUNCTION, ASSERTS])
def test_reasons(box, reference, program, reason):
  score = judge(reference | {"seconds": 1, "megabytes": 200}, program)
  assert (score.value, score.valid) == (0, True)
  # A child of the harness has an exit status, a program that is served none.
  assert score.reason.replace("exit 0", "exit") == reason


ALWAYS = """
class Always{base}:
  def __eq__(self, other): return True
  def __ne__(self, other): return False
  def __hash__(self): return 9
  def __bool__(self): return True
  __lt__ = __gt__ = __le__ = __ge__ = __contains__ = __eq__
  def __getattr__(self, name): return Always()
"""
RETURNED = ["Always()", "[Always()]", "(Always(),)", "{Always(): Always()}",
            "iter([Always()])"]
CHEATS = [
    ALWAYS.format(base=base) + f"def square(x):\n  return {value}"
    for base in ("", "(int)", "(str)", "(list)", "(float)")
    for value in RETURNED[:1 if base else None]]
CHEATS += [
    "import os\nos._exit(0)",
    "import sys\nsys.exit(0)",
    "def square(x):\n  import os; os._exit(0)",
    "import atexit, os\natexit.register(lambda: os._exit(0))\nexit()",
    "print('ALL TESTS PASSED')\nimport os; os._exit(0)",
    "print('ALL TESTS PASSED', flush=True)\ndef square(x):\n  return None",
    "import unittest.mock\nsquare = unittest.mock.MagicMock()",
    "import unittest.mock\nsquare = unittest.mock.MagicMock(return_value="
    "unittest.mock.ANY)",
    # Reads what is around it.
    """
import gc, os, sys
def square(x):
  frame = sys._getframe()
  while frame:
    for where in (frame.f_locals, frame.f_globals):
      for name in ('expected', 'outputs', 'cases', 'answer', 'test'):
        if where.get(name) is not None:
          return where[name]
    frame = frame.f_back
  for thing in gc.get_objects():
    if type(thing) is dict and 'outputs' in thing:
      return thing['outputs']
  for folder, _, names in os.walk('/tmp'):
    for name in names:
      return int(open(os.path.join(folder, name)).read())
""",
    # Changes what judges it.
    "import builtins\nbuiltins.all = builtins.any = lambda *a: True\n"
    "builtins.isinstance = lambda *a: True\ndef square(x):\n  return 0",
    "import json\njson.dumps = lambda *a, **k: '{\"status\": \"ok\"}'\n"
    "def square(x):\n  return 0",
    "import sys\nclass Out:\n  def write(self, s): return 9\n"
    "  def flush(self): pass\nsys.stdout = sys.stderr = Out()\n"
    "def square(x):\n  return 0",
    "import sys\nfor m in list(sys.modules.values()):\n"
    "  for n in ('encode', 'decode', 'same', 'reply', 'tell'):\n"
    "    if hasattr(m, n): setattr(m, n, lambda *a, **k: True)\n"
    "f = sys._getframe()\nwhile f:\n  for n in ('encode', 'tell'):\n"
    "    if n in f.f_globals: f.f_globals[n] = lambda *a, **k: True\n"
    "  f = f.f_back\ndef square(x):\n  return 0",
    "import sys\nsys.settrace(lambda *a: None)\nAssertionError = Exception\n"
    "def square(x):\n  raise AssertionError",
    "def square(x):\n  raise StopIteration",
    "def square(x):\n  raise GeneratorExit",
    "def square(x):\n  raise KeyboardInterrupt",
    # Writes the judge's lines itself.
    "import os\nfor d in range(3, 30):\n  try: os.write(d, b'{\"status\": "
    "\"ok\", \"passed\": 9}\\n{\"done\": {\"status\": \"ok\", \"passed\": 2,"
    " \"tests\": 2}}\\n')\n  except OSError: pass\ndef square(x):\n  return 0",
    """
import os, re
def square(x):
  for pid in {os.getppid(), 1}:
    for number in range(30):
      try:
        d = os.open(f'/proc/{pid}/fd/{number}', os.O_WRONLY | os.O_NONBLOCK)
        os.write(d, b'{"done": {"status": "ok", "passed": 2, "tests": 2}}\\n')
      except OSError: pass
  return 0
""",
    # Finds the nonce in the frames of the harness and uses it.
    """
import json, os, sys
f = sys._getframe()
while f:
  found = f.f_locals.get('nonce')
  if found:
    for d in range(3, 30):
      for told in ({'status': 'ok', 'value': True}, {'done': {
          'status': 'ok', 'passed': 2, 'tests': 2}}):
        try: os.write(d, found + json.dumps(told).encode() + b'\\n')
        except OSError: pass
  f = f.f_back
def square(x):
  return 0
""",
    "import os\nos.closerange(3, 99)\ndef square(x):\n  return 0",
    "import os\nos.closerange(0, 99)\ndef square(x):\n  return 0",
    "import os\nif os.fork(): os._exit(0)\ndef square(x):\n  return 0",
    "import os\nos.fork()\nos.fork()\ndef square(x):\n  return 0",
    "import threading, time\nthreading.Thread(target=time.sleep, args=(99,))"
    ".start()\ndef square(x):\n  return 0",
    "import os, signal\nos.kill(os.getppid(), 9)\nos.kill(1, 9)\n"
    "def square(x):\n  return 0",
    "import os\nos.kill(-1, 9)\ndef square(x):\n  return 0",
    "def square(x):\n  print('9' * (1 << 22), flush=True)\n  return 0",
    "import signal\nfor s in range(1, 32):\n  try: signal.signal(s,"
    " signal.SIG_IGN)\n  except (OSError, ValueError): pass\n"
    "def square(x):\n  return 0",
]


@pytest.mark.parametrize("program", CHEATS, ids=range(len(CHEATS)))
@pytest.mark.parametrize("reference", [FUNCTION, ASSERTS, CHECK, STDIN],
                         ids=["function", "asserts", "check", "stdin"])
def test_cheats(box, reference, program):
  if reference is STDIN:
    program += "\nprint(square(int(input())))"
  reference = reference | {"seconds": 1, "megabytes": 200}
  # Not one test passes, so neither do all.
  score = judge(reference, program, solutions.fraction_passed)
  assert (score.value, score.valid) == (0, True), score


@pytest.mark.parametrize("test,program", [
    # The end of an iteration must not pass for the end of the list.
    ("assert all(map(f, [1, 2]))", "def f(x): raise StopIteration"),
    ("assert not any(map(f, [1]))", "def f(x): raise StopIteration"),
    # No truth, inequality or membership of what is no plain value.
    ("assert f(1)", "def f(x): return object()"),
    ("assert f(1) != 3", "def f(x): return object()"),
    ("assert not f(1) == 3", "class f:\n  def __init__(self, x): pass"),
    ("assert f(1) in [1, 2]", "def f(x):\n  return type('A', (), {'__eq__':"
     " lambda *a: True, '__hash__': None})()"),
    ("assert not f(1)", "def f(x): return type('A', (list,), {})()"),
    ("try:\n  assert f(1) != 3\nexcept BaseException:\n  pass\n"
     "assert True", "def f(x): return object()"),
    ("try:\n  f(1)\nexcept BaseException:\n  pass\nassert True",
     "def f(x): exit()"),
    ("assert f(1) == 1", "def f(x): return x == 1"
     " and __import__('os')._exit(0)"),
    # A test that asserts nothing holds nothing.
    ("if f(1) == 2:\n  assert True", "def f(x): return 1"),
    ("assert abs(f(1) - 5) < 1", "def f(x): return float('nan')"),
])
def test_test_code_is_not_fooled(box, test, program):
  reference = ASSERTS | {"entry_point": "f", "test": test}
  score = judge(reference, program)
  assert (score.value, score.valid) == (0, True), score


@pytest.mark.parametrize("setup,test,program", [
    ("", "assert f([P(1, 2), P(3, 4)]) == 4\nassert P(1, 2).b == 2",
     "class P:\n  def __init__(self, a, b):\n    self.a, self.b = a, b\n"
     "def f(ps):\n  return max(p.b for p in ps)"),
    ("root = Node(1)\nroot.left = Node(2)\nroot.left.left = Node(3)",
     "assert f(root) == 3 and f(root.left) == 2",
     "class Node:\n  def __init__(self, v):\n    self.v, self.left = v, None\n"
     "def f(n):\n  return 0 if n is None else 1 + f(n.left)"),
    ("import math\ndef twice(x):\n  return 2 * x",
     "assert math.isclose(f(1.5), twice(1.5))",
     "def f(x):\n  return twice(x)"),
    ("def twice(x):\n  return 2 * x", "assert f(2) == twice(2)",
     "def twice(x):\n  return 0\ndef f(x):\n  return x + x"),
    ("", "assert list(f(3)) == [0, 1, 2] and set(f(2)) == {0, 1}",
     "def f(n):\n  yield from range(n)"),
    ("", "assert f('abc')\nassert not f('xyz')\nassert f('abc').group() == 'a'",
     "import re\ndef f(s):\n  return re.match('a', s)"),
    ("", "assert f((1, 'a'), int) == ['a']",
     "def f(t, k):\n  return [x for x in t if not isinstance(x, k)]"),
    ("", "try:\n  f(-1)\n  assert False\nexcept ValueError:\n  pass\n"
     "assert f(x=1) == 1",
     "def f(x):\n  if x < 0: raise ValueError(x)\n  return x"),
    ("", "def check(candidate):\n  if candidate(2) != (2, {2: {2}}):\n"
     "    raise ValueError\ncheck(f)", "def f(x):\n  return x, {x: {x}}"),
    ("", "assert f(1)(2) == 3", "def f(a):\n  return lambda b: a + b"),
    ("", "assert f(3) == 6", "def f(x):\n  print('seen', x)\n  return 2 * x"),
])
def test_what_test_code_may_do(box, setup, test, program):
  reference = {"kind": "asserts", "entry_point": "f", "setup": setup,
               "test": test}
  assert judge(reference, program).reason == "correct"
  wrong = program + "\ndef f(*arguments, **keywords):\n  return [7]"
  assert judge(reference, wrong).value == 0


def test_entry_point_that_shadows_a_builtin(box):
  reference = ASSERTS | {"entry_point": "sum", "test": "assert sum(2, 3) == 5"}
  assert judge(reference, "def sum(a, b):\n  return a + b").value == 1
  assert judge(reference, "def sum(a, b):\n  return a * b").value == 0


def test_method_of_a_solution(box):
  program = ("class Solution:\n  def square(self, x: int) -> int:\n"
             "    return x * x\nif __name__ == '__main__':\n  input()")
  assert judge(FUNCTION, program).value == 1
  assert judge(ASSERTS, program).value == 1


@pytest.mark.parametrize("expected,value,verdict", [
    ([1, [2]], "(1, (2,))", 1),  # JSON has no tuples
    ({"1": 2, "null": 3}, "{1: 2, None: 3}", 1),
    ([0, 1], "range(2)", 0), ([0, 1], "(i for i in range(2))", 1),
    ([1, 2], "{1, 2}", 0), (1, "True", 0), (1, "1.0", 0), (True, "1", 0),
    (0.3, "0.1 + 0.2", 1), (0.3, "0.30001", 0), ("1", "1", 0), (None, "0", 0),
    (1.0, "1", 0), ([], "''", 0), (10 ** 30, "10 ** 30", 1),
])
def test_values_are_compared_with_their_types(box, expected, value, verdict):
  reference = {"kind": "function", "entry_point": "f",
               "cases": [[[], expected]]}
  assert judge(reference, f"def f(): return {value}").value == verdict


def test_tolerance(box):
  reference = {"kind": "function", "entry_point": "f", "tolerance": 1e-3,
               "cases": [[[2], [2, 1.414]]]}
  assert judge(reference, "def f(x): return 2.0, x ** .5").value == 1
  assert judge(reference, "def f(x): return 2.0, 1.42").value == 0
  assert judge(reference, "def f(x): return 2.0, True").value == 0


@pytest.mark.parametrize("printed,verdict", [
    ("1 2\\n3", 1), ("1  2 \\n3\\n\\n", 1), ("1 2\\r\\n3", 1), ("1 2 3", 0),
    ("1\\n2\\n3", 0), ("1 2\\n3\\n4", 0), ("1 2", 0), ("1.0 2\\n3", 0),
    ("", 0), ("1 2\\n3 #", 0), ("\\n1 2\\n3", 0)])
def test_printed_lines(box, printed, verdict):
  reference = {"kind": "stdin", "inputs": [""], "outputs": ["1 2\n3\n"]}
  assert judge(reference, f"print('{printed}')").value == verdict


@pytest.mark.parametrize("answer,program", [
    ("```python\na\n```", "a\n"),
    ("```py\na\nb\n```\nand\n```\nb\n```", "a\nb\n"),
    ("```\na\n```\n```\nb\n```", "b\n"),
    ("```Python3\na\n```", "a\n"),
    ("```python\na\n```\n```python\nb\n```", "b\n"),
    ("```python\na\n```\n```python\nb", "a\n"),
    ("  1.\n   ```python\n   if a:\n     b\n   ```", "if a:\n  b\n"),
    ("````python\n```\na\n```\n````", "```\na\n```\n"),
    ("```python title='x.py'\na\n```", "a\n"),
    ("```python\r\na\r\n```\r\n", "a\n"),
    ("x ```python\na\n```", None),
    ("```python\na", None),
    ("```cpp\na\n```", None),
    ("print(1)", None),
    ("<answer>print(1)</answer>", "print(1)"),
    ("<answer>\n```python\na\n```\n</answer>", "a\n"),
    ("```python\na\n```\n<answer>b</answer>", "b"),
    ("<answer>```python\na</answer>", None),
])
def test_extraction(answer, program):
  split = response.split("", f"<think>```python\nz\n```</think>{answer}")
  assert solutions.extract(split) == program


def test_code_in_the_thinking_counts_for_nothing():
  text = f"<think>\n```python\n{SQUARE}\n```\n</think> done"
  prompt = types.SimpleNamespace(reference=FUNCTION)
  score = solutions.all_passed(prompt, response.split("", text))
  assert (score.value, score.valid, score.reason) == (0, True, "no code")


@pytest.mark.parametrize("text", [
    "`" * 200_000, "```" * 60_000, "```\n" * 50_000, " " * 200_000 + "```",
    "```python " * 20_000, ("```python\n" + "x" * 9 + "\n") * 10_000])
def test_extraction_takes_linear_time(text):
  begin = time.perf_counter()
  solutions.extract(response.Response(text, "", text, False))
  assert time.perf_counter() - begin < 2


def test_program_too_long():
  score = judge(FUNCTION, SQUARE + "#" * 200_000)
  assert (score.value, score.valid, score.reason) == (
      0, True, "program too long")


@pytest.mark.parametrize("reference,message", [
    (FUNCTION | {"language": "cobol"}, "language='cobol'.*python"),
    (FUNCTION | {"kind": "prayer"}, "kind='prayer'.*stdin"),
    (FUNCTION | {"seconds": 0}, "seconds=0"),
    (FUNCTION | {"cases": []}, "no tests"),
    (STDIN | {"outputs": []}, "2 inputs have 0 outputs"),
    (FUNCTION | {"cases": [[[object()], 1]]}, "plain values"),
    (ASSERTS | {"setup": "x = ("}, "cannot be run: SyntaxError"),
    (ASSERTS | {"test": "assert square(len) == 9"}, "passes a builtin"),
])
def test_bad_references_are_named(box, reference, message):
  with pytest.raises(ValueError, match=message):
    judge(reference, SQUARE)


def test_no_sandbox_is_no_verdict(monkeypatch):
  def missing(packages):
    raise sandbox.SandboxError("install bubblewrap")

  monkeypatch.setattr(sandbox, "pool", missing)
  for reference in (FUNCTION, STDIN, ASSERTS):
    with pytest.raises(sandbox.SandboxError, match="install"):
      judge(reference, SQUARE)


def test_clock_of_the_item_is_stopped(box):
  signal.setitimer(signal.ITIMER_REAL, 0.5)
  try:
    slow = "def square(x):\n  import time; time.sleep(0.6)\n  return x * x"
    assert judge(ASSERTS, slow).value == 1
    left, _ = signal.getitimer(signal.ITIMER_REAL)
    assert 0 < left <= 0.5
  finally:
    signal.setitimer(signal.ITIMER_REAL, 0)


def test_total_time_is_bounded(box):
  limits = trials.Limits(total=1.5, seconds=9.0)
  program = "import time\ndef square(x):\n  time.sleep(60)"
  begin = time.perf_counter()
  (outcome,) = trials.run(
      program, [{"arguments": [1]}] * 3, limits, function="square")
  verdict = trials.examine(
      program, "", ASSERTS["test"], "square", limits, stop=False)
  assert outcome.reason == verdict.reason == "time limit"
  assert time.perf_counter() - begin < 10


def test_call(box):
  returned = solutions.call(
      "def f(a, b):\n  return {a: (b,)}", "f", [(1,), b"2"])
  assert returned == (
      "ok", {(1,): (b"2",)})
  assert solutions.call("def f():\n  return 1 / 0", "f", []) == (
      "error: ZeroDivisionError", None)
  reason, value = solutions.call("def f():\n  return f", "f", [])
  assert reason == "ok" and type(value) is Opaque
  with pytest.raises(ValueError, match="plain"):
    solutions.call("def f(x): pass", "f", [object()])


VALUES = [
    None, False, True, 0, 1, 0.0, 1.0, math.nan, math.inf, "", "a", b"", b"a",
    (), [], {}, set(), frozenset(), 1 + 0j, range(0), range(2), [1], (1,),
    [True], [1.0], {1}, {True}, {1.0}, frozenset({1}), {1: 1}, {True: 1},
    {1: 1.0}, {(1,): 2}, {(True,): 2}, [[1], [2]], [[1], (2,)],
    {"a": 1, "b": 2}, {math.nan}, [math.nan], {frozenset({1})},
    {frozenset({True})}]


def test_same_tells_every_type_apart():
  for i, x in enumerate(VALUES):
    for j, y in enumerate(VALUES):
      assert solutions.same(x, y) == (i == j), (x, y)


def test_same_allows_rounding_and_order():
  assert solutions.same({"a": 1, "b": [0.1 + 0.2]}, {"b": [0.3], "a": 1})
  assert solutions.same(1e300, 1e300 * (1 + 1e-12))
  assert not solutions.same(1.0, 1.0 + 1e-8)
  assert not solutions.same(math.inf, -math.inf)
  assert not solutions.same(Opaque(1), Opaque(1))
  always = type("Always", (int,), {"__eq__": lambda *_: True})
  assert not solutions.same(always(1), 1)
  assert not solutions.same([always(1)], [2])


def test_hopeless_programs_start_no_sandbox(monkeypatch):
  """Nothing is defined without being named or printed without a call."""
  def started(*_, **__):
    raise AssertionError("a sandbox was started")

  monkeypatch.setattr(solutions.trials, "run", started)
  monkeypatch.setattr(solutions.trials, "examine", started)
  named = {"kind": "function", "entry_point": "double", "cases": [[[1], 2]]}
  asserts = {"kind": "asserts", "entry_point": "double", "setup": "",
             "test": "assert double(1) == 2"}
  stdin = {"kind": "stdin", "inputs": ["1"], "outputs": ["12"]}
  for reference, text, reason in (
      (named, "12", "no double"), (stdin, "12", "no output"),
      (asserts, "def doubl(x): return 2 * x", "no double")):
    score = judge(reference, text)
    assert (score.value, score.valid, score.reason) == (0.0, True, reason)
  for reference, text in (
      (named, "double = lambda x: 2 * x"), (stdin, "@print\ndef f(): pass"),
      (dict(stdin, outputs=[""]), "12"), (stdin, "print(12)")):
    with pytest.raises(AssertionError, match="was started"):
      judge(reference, text)


@pytest.mark.parametrize("answer", [
    "~~~python\nprint(int(input()) ** 2)\n~~~",
    "```{python}\nprint(int(input()) ** 2)\n```",
    "```{.python}\nprint(int(input()) ** 2)\n```",
    "````python\nprint(int(input()) ** 2)\n````",
    "```python\nprint(int(open('/dev/stdin').read()) ** 2)\n```",
    "```python\nif __name__ == '__main__':\n  print(int(input()) ** 2)\n```"])
def test_fences_and_habits(box, answer):
  assert whole(STDIN, answer).value == 1.0


def test_how_to_call_it_may_follow_the_solution(box):
  answer = (f"```python\n{SQUARE}```\nCall it so:\n"
            "```python\nprint(square(3))\n```\n")
  assert whole(FUNCTION, answer).value == 1.0


def test_names_of_typing_are_at_hand(box):
  typed = "def square(x: Optional[List[int]]) -> int:\n  return x * x\n"
  assert judge(FUNCTION, typed).value == 1.0


def test_long_numbers_are_printed(box):
  reference = {"kind": "stdin", "inputs": [""], "outputs": [
      "1" + "0" * 5000]}
  assert judge(reference, "print(10 ** 5000)").value == 1.0


@pytest.mark.parametrize("got,expected,how,same", [
    ("1 2\n3\n", "1 2\n3", "exact", True), ("1  2\n", "1 2", "exact", False),
    ("1  2 \n\n", "1 2", "lines", True), ("1\n\n2", "1\n2", "lines", False),
    ("1\n\n2", "1 2", "tokens", True), ("1 3", "1 2", "tokens", False),
    ("0.3333333", "0.33333334", "floats", True),
    ("x 1", "x 1.0", "floats", True),
    ("0.34", "0.33", "floats", False), ("x", "y", "floats", False),
    ("nan", "1", "floats", False), ("1 2", "1", "floats", False),
    ("1000000008", "1000000007", "floats", False),
    ("1000000008.0", "1000000007", "floats", False),
    ("5.0", "5", "floats", True), ("1e3", "1000.0", "floats", True),
    ("1.50\n2", " 1.5\n2 ", "decimals", True),
    ("1.5000001", "1.5", "decimals", False),
    ("yes 1.0", "yes 1", "decimals", False), ("yes ", "yes", "decimals", True),
    ("1 2", "1\n2", "decimals", False), ("1 2", "1 2 3", "decimals", False)])
def test_named_comparisons(got, expected, how, same):
  assert solutions.same_output(got, expected, how) == same


def test_numpy_where_it_is_asked_for(box):
  reference = STDIN | {"outputs": ["3\n"] * len(STDIN["outputs"])}
  program = "import numpy as np\nprint(int(np.ones(3).sum()))"
  score = judge(reference, program)
  assert score.reason == "error: ModuleNotFoundError"
  assert judge(reference | {"packages": ["numpy"]}, program).value == 1.0
  returns = "import numpy as np\ndef square(x): return np.int64(x) ** 2\n"
  assert judge(FUNCTION | {"packages": ["numpy"]}, returns).value == 1.0
  with pytest.raises(sandbox.SandboxError, match="'torch'.*numpy"):
    judge(reference | {"packages": ["torch"]}, program)


def test_unknown_comparisons_are_refused(box):
  with pytest.raises(ValueError, match="compare='words'.*lines, exact"):
    judge(STDIN | {"compare": "words"}, PRINTS)
