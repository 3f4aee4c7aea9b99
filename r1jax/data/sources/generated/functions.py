"""Small Python tasks: write a function, write a program, repair a function.

Every task is a template with random numbers. The expected values of its tests
are computed by a Python function here, not by running the solution's source, so
that tests can compare the two. At least 4 of the 8 expected values are
different (2 for truth values), so a constant answer fails; and every function
to be repaired fails at least one test.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

from r1jax.core.prompt import Prompt, ask
from r1jax.data.sources.generated import draws

SPLITS = {"train": 2000, "validation": 128, "test": 128, "hard": 128}
CASES = 8
_LETTERS = "abcdehlnorst"


class Task(NamedTuple):
  """A function to write.

  Attributes:
    does: completes "Write a Python function f(...) that ".
    arguments: the parameters' names, as in the signature.
    body: source lines of a correct body.
    compute: the correct return value for the arguments.
    draw: makes the arguments of one test.
    bug: source lines of an incorrect body.
    wrong: the incorrect body's return value for the arguments.
  """

  does: str
  arguments: str
  body: str
  compute: Callable[..., Any]
  draw: Callable[[draws.Dice], tuple]
  bug: str
  wrong: Callable[..., Any]


class Program(NamedTuple):
  """A program to write, which reads stdin and prints to stdout.

  Attributes:
    does: completes "Write a Python program that ".
    source: a correct program.
    compute: the correct stdout for a stdin.
    draw: makes one stdin.
  """

  does: str
  source: str
  compute: Callable[[str], str]
  draw: Callable[[draws.Dice], str]


def prompts(split: str) -> Iterator[Prompt]:
  """Functions, programs and repairs; "hard" has functions of three list steps.

  No template has the same numbers in two splits, whether to write or to
  repair. metadata: kind (function, stdin or bugfix), family, solution (source)
  and, for bugfix, buggy (source).

  Raises:
    ValueError: no such split.
  """
  return draws.distinct("functions", SPLITS, split, _prompt)


def _prompt(dice: draws.Dice, split: str, index: int) -> Prompt | None:
  kind = ("function", "stdin", "function", "bugfix")[index % 4]
  if split == "hard":
    kind, family = "function", _pipeline
  else:
    family = dice.pick(_PROGRAMS if kind == "stdin" else _FUNCTIONS)
  task = family(dice)
  if split != "hard" and draws.share(task.does) != split:
    return None
  if isinstance(task, Program):
    made = _program(dice, task)
  else:
    made = _function(dice, task, repair=kind == "bugfix")
  if made is None:
    return None
  question, reference, solution, buggy = made
  metadata = {"kind": kind, "family": family.__name__[1:],
              "solution": solution}
  if kind == "bugfix":
    metadata["buggy"] = buggy
  return Prompt(
      id=index, domain="code", source="functions", messages=ask(question),
      reference=reference, verifier="bugfix" if kind == "bugfix" else "code",
      metadata=metadata)


def _function(dice: draws.Dice, task: Task, repair: bool):
  """(question, reference, solution, buggy); None if the tests are too weak.

  That is, `_alike`, or to be repaired and passed by the incorrect body.
  """
  calls = [task.draw(dice) for _ in range(CASES)]
  expected = [task.compute(*call) for call in calls]
  if _alike(expected):
    return None
  head = f"def f({task.arguments}):\n"
  solution, buggy = head + _indent(task.body), head + _indent(task.bug)
  if repair:
    if expected == [task.wrong(*call) for call in calls]:
      return None
    question = f"f should {_should(task.does)}. Repair it:\n{buggy.rstrip()}"
  else:
    question = f"Write a Python function f({task.arguments}) that {task.does}."
  reference = {
      "kind": "function", "entry_point": "f",
      "cases": [[list(call), value] for call, value in zip(calls, expected)]}
  return question, reference, solution, buggy


def _program(dice: draws.Dice, task: Program):
  inputs = [task.draw(dice) for _ in range(CASES)]
  outputs = [task.compute(text) for text in inputs]
  if _alike(outputs):
    return None
  reference = {"kind": "stdin", "inputs": inputs, "outputs": outputs}
  return f"Write a Python program that {task.does}.", reference, task.source, ""


def _alike(values: Sequence[Any]) -> bool:
  """Whether there are fewer than 4 different values (2 for truth values)."""
  least = 2 if isinstance(values[0], bool) else 4
  return len(set(map(repr, values))) < least


def _indent(body: str) -> str:
  return "".join(f"  {line}\n" for line in body.split("\n"))


def _should(does: str) -> str:
  return "return" + does.removeprefix("returns")


# Arguments of one test.


def _integer(dice: draws.Dice) -> tuple:
  return (dice.between(-30, 60),)


def _natural(dice: draws.Dice) -> tuple:
  return (dice.between(1, 60),)


def _pair(dice: draws.Dice) -> tuple:
  return (dice.between(-20, 40), dice.between(-20, 40))


def _integers(dice: draws.Dice) -> tuple:
  return ([dice.between(-20, 40) for _ in range(dice.between(0, 10))],)


def _text(dice: draws.Dice) -> tuple:
  return ("".join(dice.pick(_LETTERS) for _ in range(dice.between(0, 10))),)


# Families of functions: each draws the numbers of its template.


def _affine(dice: draws.Dice) -> Task:
  a, b = dice.between(2, 20), dice.between(1, 20)
  return Task(
      f"returns {a} times x plus {b}", "x", f"return {a} * x + {b}",
      lambda x: a * x + b, _integer,
      f"return {a} * (x + {b})", lambda x: a * (x + b))


def _plane(dice: draws.Dice) -> Task:
  a, b = dice.between(2, 12), dice.between(2, 12)
  return Task(
      f"returns {a} times x minus {b} times y", "x, y",
      f"return {a} * x - {b} * y", lambda x, y: a * x - b * y, _pair,
      f"return {a} * y - {b} * x", lambda x, y: a * y - b * x)


def _square(dice: draws.Dice) -> Task:
  a = dice.between(1, 60)
  return Task(
      f"returns x squared minus {a}", "x", f"return x ** 2 - {a}",
      lambda x: x * x - a, _integer,
      f"return x * 2 - {a}", lambda x: x * 2 - a)


def _remainder(dice: draws.Dice) -> Task:
  a, b = dice.between(3, 15), dice.between(0, 9)
  return Task(
      f"returns the remainder of x plus {b} divided by {a}, x not negative",
      "x", f"return (x + {b}) % {a}", lambda x: (x + b) % a, _natural,
      f"return x + {b} % {a}", lambda x: x + b % a)


def _clamp(dice: draws.Dice) -> Task:
  low = dice.between(-10, 15)
  high = low + dice.between(3, 20)
  return Task(
      f"returns x, but at least {low} and at most {high}", "x",
      f"return max({low}, min({high}, x))",
      lambda x: low if x < low else high if x > high else x, _integer,
      f"return min({low}, max({high}, x))",
      lambda x: low)  # the maximum is never below the lower bound


def _divisible(dice: draws.Dice) -> Task:
  a, b = dice.sample(range(2, 12), 2)
  return Task(
      f"returns True if x is divisible by {a} or by {b}, else False", "x",
      f"return x % {a} == 0 or x % {b} == 0",
      lambda x: not x % a or not x % b, _integer,
      f"return x % {a} == 0 and x % {b} == 0",
      lambda x: not x % a and not x % b)


def _repeat(dice: draws.Dice) -> Task:
  n, c = dice.between(2, 9), dice.pick("!?-+.")
  return Task(
      f"returns the string s {n} times, then '{c}'", "s",
      f"return s * {n} + '{c}'", lambda s: "".join([s] * n) + c, _text,
      f"return (s + '{c}') * {n}", lambda s: (s + c) * n)


def _ends(dice: draws.Dice) -> Task:
  a, b = dice.between(1, 6), dice.between(1, 6)
  return Task(
      f"returns the first {a} and then the last {b} characters of the string s",
      "s", f"return s[:{a}] + s[-{b}:]",
      lambda s: s[:a] + s[max(0, len(s) - b):], _text,
      f"return s[:{a}] + s[{b}:]", lambda s: s[:a] + s[b:])


def _joined(dice: draws.Dice) -> Task:
  c, d = dice.sample("-+*/.:,;", 2)
  return Task(
      f"returns '{d}', then the string s with '{c}' between its characters",
      "s", f"return '{d}' + '{c}'.join(s)",
      lambda s: d + "".join((c if i else "") + x for i, x in enumerate(s)),
      _text, f"return '{d}'.join(s) + '{c}'", lambda s: d.join(s) + c)


def _letter(dice: draws.Dice) -> Task:
  c, a = dice.pick(_LETTERS), dice.between(2, 9)
  return Task(
      f"returns {a} times the number of '{c}' in the string s", "s",
      f"return {a} * s.count('{c}')", lambda s: sum(a for x in s if x == c),
      lambda dice: (_text(dice)[0] + c * dice.below(3),),
      f"return {a} * s.find('{c}')", lambda s: a * s.find(c))


def _replaced(dice: draws.Dice) -> Task:
  c, d = dice.sample(_LETTERS, 2)
  return Task(
      f"returns the string s with every '{c}' replaced by '{d}'", "s",
      f"return s.replace('{c}', '{d}')",
      lambda s: "".join(d if x == c else x for x in s),
      lambda dice: (c * dice.below(2) + _text(dice)[0],),
      f"return s.replace('{d}', '{c}')",
      lambda s: "".join(c if x == d else x for x in s))


def _added(dice: draws.Dice) -> Task:
  a, b = dice.between(2, 9), dice.between(1, 9)
  return Task(
      f"returns the list xs with each number times {a}, plus {b}", "xs",
      f"return [{a} * x + {b} for x in xs]",
      lambda xs: [a * x + b for x in xs], _integers,
      f"return {a} * xs + [{b}]", lambda xs: xs * a + [b])


def _between(dice: draws.Dice) -> Task:
  low = dice.between(-10, 15)
  high = low + dice.between(4, 20)
  return Task(
      f"returns the numbers in the list xs above {low} and below {high}", "xs",
      f"return [x for x in xs if {low} < x < {high}]",
      lambda xs: [x for x in xs if x > low and x < high], _integers,
      f"return [x for x in xs if x > {high}]",
      lambda xs: [x for x in xs if x > high])


def _counted(dice: draws.Dice) -> Task:
  a = dice.between(-10, 30)
  return Task(
      f"returns how many numbers in the list xs are below {a}", "xs",
      f"n = 0\nfor x in xs:\n  if x < {a}:\n    n += 1\nreturn n",
      lambda xs: len([x for x in xs if x < a]), _integers,
      f"n = 0\nfor x in xs:\n  if x < {a}:\n    n += x\nreturn n",
      lambda xs: sum(x for x in xs if x < a))


def _stepped(dice: draws.Dice) -> Task:
  a, b = dice.between(2, 5), dice.between(0, 4)
  return Task(
      f"returns every {_ordinal(a)} item of the list xs, from index {b} on",
      "xs", f"return xs[{b}::{a}]",
      lambda xs: [x for i, x in enumerate(xs) if i >= b and (i - b) % a == 0],
      _integers, f"return xs[:{b}:{a}]",
      lambda xs: [x for i, x in enumerate(xs) if i < b and i % a == 0])


def _multiples(dice: draws.Dice) -> Task:
  a, b = dice.between(2, 9), dice.between(0, 9)
  return Task(
      f"returns the sum of the multiples of {a} from 1 to n, plus {b}", "n",
      f"s = {b}\nfor i in range({a}, n + 1, {a}):\n  s += i\nreturn s",
      lambda n: a * (n // a) * (n // a + 1) // 2 + b, _natural,
      f"s = {b}\nfor i in range(1, n, {a}):\n  s += i\nreturn s",
      lambda n: sum(i for i in range(1, n) if (i - 1) % a == 0) + b)


def _powers(dice: draws.Dice) -> Task:
  a, k = dice.between(1, 9), dice.between(2, 4)
  return Task(
      f"returns the sum of i ** {k} for i from {a} to n (0 if n < {a})", "n",
      f"s = 0\nfor i in range({a}, n + 1):\n  s += i ** {k}\nreturn s",
      lambda n: sum(i**k for i in range(n + 1) if i >= a),
      lambda dice: (dice.between(0, 15),),
      f"s = 0\nfor i in range({a}, n):\n  s += i ** {k}\nreturn s",
      lambda n: sum(i**k for i in range(n) if i >= a))


def _digits(dice: draws.Dice) -> Task:
  a, b = dice.between(2, 12), dice.between(1, 12)
  return Task(
      f"returns {a} times the sum of n's digits, plus {b}", "n",
      f"return {a} * sum(int(d) for d in str(n)) + {b}",
      lambda n: a * (n // 1000 + n // 100 % 10 + n // 10 % 10 + n % 10) + b,
      lambda dice: (dice.between(0, 9999),),
      f"return {a} * len(str(n)) + {b}", lambda n: a * len(str(n)) + b)


_FUNCTIONS = (
    _affine, _plane, _square, _remainder, _clamp, _divisible, _repeat, _ends,
    _joined, _letter, _replaced, _added, _between, _counted, _stepped,
    _multiples, _powers, _digits,
)


def _ordinal(n: int) -> str:
  return {2: "2nd", 3: "3rd"}.get(n, f"{n}th")


def _pipeline(dice: draws.Dice) -> Task:
  """Three steps on a list; each is (words, source, function)."""
  a, b, c, d = (dice.between(2, 9) for _ in range(4))
  steps = dice.sample((
      (f"add {a} to each", f"xs = [x + {a} for x in xs]",
       lambda xs: [x + a for x in xs]),
      (f"double those below {b}", f"xs = [2 * x if x < {b} else x for x in xs]",
       lambda xs: [x + x if x < b else x for x in xs]),
      (f"drop multiples of {c}", f"xs = [x for x in xs if x % {c}]",
       lambda xs: [x for x in xs if x % c != 0]),
      (f"keep the first {d}", f"xs = xs[:{d}]",
       lambda xs: [x for i, x in enumerate(xs) if i < d]),
      ("reverse the order", "xs = xs[::-1]", lambda xs: list(reversed(xs))),
      ("sort ascending", "xs = sorted(xs)", lambda xs: sorted(xs)),
  ), 3)

  def compute(xs):
    for _, _, step in steps:
      xs = step(xs)
    return xs

  does = "; ".join(words for words, _, _ in steps)
  body = "\n".join(source for _, source, _ in steps)
  return Task(
      f"changes a list of integers in 3 steps and returns it: {does}",
      "xs", f"{body}\nreturn xs", compute, _integers,
      "return xs", lambda xs: xs)


# Families of programs.


def _line(dice: draws.Dice) -> str:
  numbers = (dice.between(-20, 40) for _ in range(dice.between(1, 8)))
  return " ".join(map(str, numbers)) + "\n"


def _numbers(text: str) -> list[int]:
  return [int(word) for word in text.split()]


def _sum(dice: draws.Dice) -> Program:
  a, b = dice.between(2, 12), dice.between(1, 20)
  return Program(
      f"reads a line of integers and prints {a} times their sum, plus {b}",
      f"print({a} * sum(map(int, input().split())) + {b})\n",
      lambda text: f"{sum(a * x for x in _numbers(text)) + b}\n", _line)


def _above(dice: draws.Dice) -> Program:
  a = dice.between(-15, 35)
  return Program(
      f"reads a line of integers and prints how many are above {a}",
      f"print(sum(int(x) > {a} for x in input().split()))\n",
      lambda text: f"{len([x for x in _numbers(text) if x > a])}\n", _line)


def _extreme(dice: draws.Dice) -> Program:
  a, high = dice.between(2, 40), bool(dice.below(2))
  word, name = ("largest", "max") if high else ("smallest", "min")
  return Program(
      f"reads a line of integers and prints {a} times the {word}",
      f"print({a} * {name}(map(int, input().split())))\n",
      lambda text: f"{a * sorted(_numbers(text))[-1 if high else 0]}\n", _line)


def _echoed(dice: draws.Dice) -> Program:
  n, c = dice.between(2, 9), dice.pick("!?-+.*#")
  return Program(
      f"reads a word and prints it {n} times, one per line, each after '{c}'",
      f"word = input()\nfor _ in range({n}):\n  print('{c}' + word)\n",
      lambda text: f"{c}{text}" * n,
      lambda dice: "".join(
          dice.pick(_LETTERS) for _ in range(dice.between(2, 8))) + "\n")


def _listed(dice: draws.Dice) -> Program:
  a, b = dice.between(2, 9), dice.between(0, 30)
  return Program(
      f"reads an integer n and prints the multiples of {a} above {b} and up to"
      " n, one per line",
      f"n = int(input())\nfor i in range({b} + 1, n + 1):\n"
      f"  if i % {a} == 0:\n    print(i)\n",
      lambda text: "".join(
          f"{i}\n" for i in range(0, int(text) + 1, a) if i > b),
      lambda dice: f"{dice.between(20, 80)}\n")


_PROGRAMS = (_sum, _above, _extreme, _echoed, _listed)
