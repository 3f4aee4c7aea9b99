"""Accuracy reward: the program passes its tests (paper, code and bug fixing).

A program cannot pass by attacking its judge. It runs in a sandbox that holds
inputs but never an expected value; its output or result is returned as data and
compared here. Test code (asserts) runs in a second sandbox, with stand-ins for
the program's names. Exit codes, success messages and objects that equal
everything have no effect.

A reference is one of

  {"kind": "stdin", "inputs": [text], "outputs": [text]}
  {"kind": "function", "entry_point": name, "cases": [[arguments, expected]]}
  {"kind": "asserts", "entry_point": name or "", "setup": text, "test": text}

with the optional fields "language" (only "python" so far), "seconds" (CPU time
per test), "megabytes", "packages" (["numpy"]: what may be imported beside the
standard library; nothing by default), "tolerance" (for functions: absolute, for
every number in the value), and for printed outputs "compare" (see
`same_output`) with "tolerance" for its "floats". The setup has imports and
helpers that both program and test may use; the program can read it.
"""

from __future__ import annotations

import decimal
import math
import re
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from r1jax.rewards.programs import trials
from r1jax.rewards.programs.inside import exchange
from r1jax.rewards.response import Response
from r1jax.rewards.score import Score, clock_stopped

if TYPE_CHECKING:
  from r1jax.core.prompt import Prompt

LANGUAGES = ("python",)
MAX_CHARS = 200_000  # longest program
_FENCE = re.compile(
    r"([ \t]*)(`{3,}|~{3,})[ \t]*\{?[ \t]*\.?([^\s`~{}]*)[^`~]*")
_LABELS = ("python", "py", "python3")
_TYPES = re.compile(
    r"(?<![\w.])(?:List|Dict|Set|Tuple|Optional|Union|Deque|Callable|Iterable"
    r"|Iterator|Sequence|Any|DefaultDict|Counter)\[")
_NUMBER = re.compile(
    r"[+-]?(?:\d{1,40}\.?\d{0,40}|\.\d{1,40})(?:[eE][+-]?\d{1,3})?",
    re.ASCII)
# How printed outputs are compared: `same_output`.
COMPARISONS = ("lines", "exact", "tokens", "decimals", "floats")
# Differences of floats that a different order of summation may cause.
_RELATIVE, _ABSOLUTE = 1e-9, 1e-12


def all_passed(prompt: Prompt, response: Response) -> Score:
  """1 if the program passes every test of `prompt.reference`, else 0.

  Tests stop at the first that fails. Parts: "passed" (among the tests that were
  run), "tests" (their total number), "fraction" and "seconds" (wall time of the
  program). Reasons: "correct", "wrong answer", "error: TypeError" and the like,
  "time limit", "memory limit", "output limit", "no code", "program too long";
  "no f" and "no output" if a program cannot define the function f, or print.

  Raises:
    ValueError: the reference is of no kind above, or in an unsupported
      language.
    SandboxError: programs cannot be run here.
  """
  return _judge(prompt.reference, response, stop=True)


def fraction_passed(prompt: Prompt, response: Response) -> Score:
  """The share of tests passed; else as `all_passed`, but runs every test."""
  return _judge(prompt.reference, response, stop=False)


def call(program: str, function: str, arguments: list) -> tuple[str, object]:
  """Calls a function of a program in the sandbox.

  Args:
    program: Python source.
    function: its name.
    arguments: plain values, see `exchange.encode`.

  Returns:
    ("ok", value), or (reason, None). Objects that are no plain values are
    returned as `exchange.Opaque`, iterators as lists.

  Raises:
    ValueError: an argument is not a plain value.
    SandboxError: programs cannot be run here.
  """
  tests = [{"arguments": _encoded(arguments)}]
  with clock_stopped():
    (outcome,) = trials.run(
        program, tests, trials.Limits(), function=function)
  if outcome.reason != "ok":
    return outcome.reason, None
  try:
    return "ok", exchange.decode(outcome.value)
  except ValueError:
    return "error: forged value", None


def same(got: object, expected: object) -> bool:
  """Whether two values are equal in value and in type, at every depth.

  1, 1.0 and True differ, and so do a list and a tuple. Floats may differ by
  1e-9 relative (a different order of summation), except in sets and keys of
  dictionaries; nan equals nan.
  """
  kind = type(got)
  if kind is not type(expected):
    return False
  if kind is float:
    return got == expected or (math.isnan(got) and math.isnan(expected)) or (
        math.isclose(got, expected, rel_tol=_RELATIVE, abs_tol=_ABSOLUTE))
  if kind in (list, tuple):
    return len(got) == len(expected) and all(map(same, got, expected))
  if kind is dict:
    ours = {_key(k): v for k, v in got.items()}
    theirs = {_key(k): v for k, v in expected.items()}
    return ours.keys() == theirs.keys() and all(
        same(v, theirs[k]) for k, v in ours.items())
  if kind in (set, frozenset):
    return _key(got) == _key(expected)
  return kind in (type(None), bool, int, str, bytes, complex, range) and (
      got == expected)


def extract(response: Response, entry_point: str = "") -> str | None:
  """The program in an answer, or None.

  It is the last complete fenced block labelled python, else the last without a
  label (unlabelled blocks after a program often show its output). If a function
  is asked for, it is the last of these that defines it (blocks after a solution
  often show calls). Without any fence it is the content of an `<answer>`
  element.
  """
  blocks = list(_blocks(response.answer))
  for labels in (_LABELS, ("",)):
    programs = [text for label, text in blocks if label in labels]
    if programs:
      defined = re.compile(
          rf"^[ \t]*(?:async[ \t]+def|def|class)[ \t]+{re.escape(entry_point)}"
          rf"\b|^{re.escape(entry_point)}[ \t]*=", re.MULTILINE)
      return next((text for text in reversed(programs) if entry_point and (
          defined.search(text))), programs[-1])
  if response.marked and "```" not in response.answer and (
      "~~~" not in response.answer):
    return response.answer
  return None


def _blocks(text: str) -> Iterator[tuple[str, str]]:
  """(label, content) of every complete fenced block."""
  opened = None
  inside: list[str] = []
  for line in text.replace("\r\n", "\n").split("\n"):
    bare = line.strip()
    if opened is None:
      if match := _FENCE.fullmatch(line):
        indent, ticks, label = match.groups()
        opened, inside = (indent, ticks, label.lower()), []
    elif bare.startswith(opened[1]) and not bare.strip(opened[1][0]):
      yield opened[2], "\n".join(inside) + "\n"
      opened = None
    else:
      inside.append(line.removeprefix(opened[0]))


def _judge(reference: Mapping[str, Any], response: Response, *,
           stop: bool) -> Score:
  language = reference.get("language", "python")
  if language not in LANGUAGES:
    raise ValueError(
        f"language={language!r}: programs are run in {', '.join(LANGUAGES)}")
  limits = trials.Limits(**{
      k: reference[k] for k in ("seconds", "megabytes") if k in reference})
  program = extract(response, reference.get("entry_point", ""))
  if program is None or not program.strip():
    return Score(0.0, True, "no code")
  if len(program) > MAX_CHARS:
    return Score(0.0, True, "program too long")
  kind = reference.get("kind")
  if reason := _hopeless(program, reference):
    return Score(0.0, True, reason)
  with clock_stopped():
    if kind == "asserts":
      verdict = trials.examine(
          program, reference["setup"], reference["test"],
          reference["entry_point"], limits, stop=stop,
          packages=reference.get("packages", ()))
    elif kind == "stdin":
      verdict = _stdin(program, reference, limits, stop)
    elif kind == "function":
      verdict = _function(program, reference, limits, stop)
    else:
      raise ValueError(f"kind={kind!r}: tests are stdin, function or asserts")
  passed, tests, reason, seconds = verdict
  fraction = 1.0 if reason == "ok" else passed / tests
  parts = {"passed": float(passed), "tests": float(tests),
           "fraction": fraction, "seconds": seconds}
  value = float(reason == "ok") if stop else fraction
  return Score(value, True, "correct" if reason == "ok" else reason, parts)


def _hopeless(program: str, reference: Mapping[str, Any]) -> str:
  """The reason why a text cannot pass, or ""; saves starting a sandbox.

  Answers of small models are seldom programs. A program that does not contain
  the function's name does not define it, and one without a call prints nothing.
  """
  if (name := reference.get("entry_point")) and name not in program:
    return f"no {name}"[:60]
  if reference.get("kind") == "stdin" and "(" not in program and (
      "@" not in program) and any(map(str.strip, reference["outputs"])):
    return "no output"
  return ""


def _stdin(program: str, reference: Mapping[str, Any], limits: trials.Limits,
           stop: bool) -> trials.Verdict:
  inputs, outputs = reference["inputs"], reference["outputs"]
  if len(inputs) != len(outputs):
    raise ValueError(f"{len(inputs)} inputs have {len(outputs)} outputs")
  how = reference.get("compare", "lines")
  if how not in COMPARISONS:
    raise ValueError(
        f"compare={how!r}: outputs are compared by {', '.join(COMPARISONS)}")
  tolerance = reference.get("tolerance", 1e-6)
  outcomes = trials.run(program, [{"stdin": text} for text in inputs], limits,
                        packages=reference.get("packages", ()))
  return _count(outcomes, len(inputs), stop, lambda at, outcome: (
      same_output(outcome.stdout, outputs[at], how, tolerance)))


def _function(program: str, reference: Mapping[str, Any],
              limits: trials.Limits, stop: bool) -> trials.Verdict:
  cases, tolerance = reference["cases"], reference.get("tolerance")
  tests = [{"arguments": _encoded(arguments)} for arguments, _ in cases]
  # Sites that ask for functions predefine these names.
  setup = {"setup": "from typing import *\nfrom collections import *\n"} if (
      _TYPES.search(program)) else {}
  outcomes = trials.run(
      program, tests, limits, packages=reference.get("packages", ()),
      function=reference["entry_point"], **setup)

  def right(at: int, outcome: trials.Outcome) -> bool:
    try:
      got = _as_json(exchange.decode(outcome.value))
      return same(got, cases[at][1]) if tolerance is None else (
          _close(got, cases[at][1], tolerance))
    except ValueError:
      return False

  return _count(outcomes, len(cases), stop, right)


def _count(outcomes, tests: int, stop: bool, right) -> trials.Verdict:
  if not tests:
    raise ValueError("the reference has no tests")
  passed, seconds, reason, at = 0, 0.0, "ok", -1
  for at, outcome in enumerate(outcomes):
    seconds += outcome.seconds
    why = outcome.reason
    if why == "ok" and not right(at, outcome):
      why = "wrong answer"
    passed += why == "ok"
    if reason == "ok":
      reason = why
    if stop and why != "ok":
      outcomes.close()
      break
  if reason == "ok" and passed < tests:
    reason = "error: exit"
  return trials.Verdict(passed, tests, reason, seconds)


def same_output(got: str, expected: str, how: str = "lines",
                tolerance: float = 1e-6) -> bool:
  """Whether a program's output is the expected one.

  Args:
    got: the output.
    expected: the expected output.
    how: "exact": equal up to white space at the very end. "lines": the same
      words in the same lines. "tokens": the same words (most checkers of
      Codeforces). "decimals": the same lines, or exactly the same numbers in
      them (LiveCodeBench). "floats": the same words, but numbers within the
      tolerance where the expected one has a decimal point or an exponent.
      Integers must always be exact.
    tolerance: of "floats", absolute or relative.
  """
  if how == "exact":
    return got.rstrip() == expected.rstrip()
  if how == "lines":
    return _lines(got) == _lines(expected)
  if how == "decimals":
    ours, theirs = (t.strip().split("\n") for t in (got, expected))
    return len(ours) == len(theirs) and all(
        x.strip() == y.strip() or _equal(x.split(), y.split())
        for x, y in zip(ours, theirs))
  a, b = got.split(), expected.split()
  if how == "tokens" or len(a) != len(b):
    return a == b
  return all(x == y or _near(x, y, tolerance) for x, y in zip(a, b))


def _equal(got: list[str], expected: list[str]) -> bool:
  """Whether two lists have equal numbers, in any notation."""
  return len(got) == len(expected) and all(
      _NUMBER.fullmatch(x) and _NUMBER.fullmatch(y)
      and decimal.Decimal(x) == decimal.Decimal(y)
      for x, y in zip(got, expected))


def _near(got: str, expected: str, tolerance: float) -> bool:
  if not (_NUMBER.fullmatch(got) and _NUMBER.fullmatch(expected)):
    return False
  if not re.search("[.eE]", expected):
    return decimal.Decimal(got) == int(expected)
  return math.isclose(float(got), float(expected), rel_tol=tolerance,
                      abs_tol=tolerance)


def _lines(text: str) -> list[list[str]]:
  """The words of each line, without empty lines at the end.

  The paper gives no rule. Here words must be equal as text, even numbers (1.50
  is not 1.5): a problem that accepts several outputs needs a checker.
  """
  lines = [line.split() for line in text.split("\n")]
  while lines and not lines[-1]:
    lines.pop()
  return lines


def _close(got: Any, expected: Any, tolerance: float) -> bool:
  if {type(got), type(expected)} <= {int, float}:
    return abs(got - expected) <= tolerance
  if type(got) is list and type(expected) is list:
    return len(got) == len(expected) and all(
        _close(g, e, tolerance) for g, e in zip(got, expected))
  return same(got, expected)


def _as_json(value: Any) -> Any:
  """What the value is after a trip through JSON, as expected values are.

  Tuples become lists and keys strings. Sets stay: they are in no JSON.
  """
  if type(value) in (list, tuple):
    return [_as_json(v) for v in value]
  if type(value) is dict:
    return {_json_key(k): _as_json(v) for k, v in value.items()}
  return value


def _json_key(key: Any) -> Any:
  if key is None or type(key) is bool:
    return {None: "null", True: "true", False: "false"}[key]
  return repr(key) if type(key) in (int, float) else key


def _encoded(arguments: Any) -> list[Any]:
  def refuse(value: Any) -> int:
    raise ValueError(
        f"argument {value!r}: only plain values can be sent to a program")

  try:
    return [exchange.encode(argument, refuse) for argument in arguments]
  except exchange.TooLarge:
    raise ValueError("an argument is too large for a sandbox") from None


def _key(value: Any) -> Any:
  """A hashable key, equal only for equal values of equal types at all depths.
  """
  kind = type(value)
  if kind is tuple:
    return kind, tuple(map(_key, value))
  if kind in (set, frozenset):
    return kind, frozenset(map(_key, value))
  return kind, repr(value) if kind is float else value
