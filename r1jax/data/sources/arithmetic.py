"""The built-in arithmetic task: chains of additions and subtractions in words.

A small model that answers directly is mostly wrong; one that writes the steps
is mostly right. A problem is a function of (seed, index, level), so data sets
need no storage.
"""

from __future__ import annotations

import hashlib
import random
from typing import NamedTuple

LEVELS = {
    "train": (3, 4, 5, 6),
    "validation": (3, 4, 5, 6),
    "test": (3, 4, 5, 6),
    "hard": (7, 8),
}
MAX_TOTAL = 99
MAX_OPERAND = 9

_NUMBERS = (
    "Compute {}.",
    "What is {}?",
    "Find {}.",
    "Work out {}.",
)
_PEOPLE = (
    ("Ana", "She"), ("Ben", "He"), ("Cleo", "She"), ("Dan", "He"),
    ("Eva", "She"), ("Finn", "He"), ("Gita", "She"), ("Hugo", "He"),
    ("Ines", "She"), ("Jon", "He"), ("Kim", "She"), ("Leo", "He"),
)
_THINGS = (
    "pears", "plums", "coins", "cards", "books", "shells", "stamps", "beads",
    "nuts", "eggs", "pens", "stones",
)
# (opening, gains, losses, closing); fields: n the number, x the things, who and
# they the person.
_STORIES = (
    ("{who} has {n} {x}.",
     (" {they} buys {n} more.", " {they} finds {n} more.", " {they} gets {n}."),
     (" {they} gives away {n}.", " {they} loses {n}.", " {they} sells {n}."),
     " How many {x} does {who} have?"),
    ("A box holds {n} {x}.",
     (" {who} puts in {n}.", " {who} adds {n} more."),
     (" {who} takes out {n}.", " {who} takes {n} away."),
     " How many {x} are in the box?"),
    ("A shop has {n} {x}.",
     (" It buys {n}.", " It gets {n} more."),
     (" It sells {n}.", " It sells {n} more."),
     " How many {x} are left?"),
    ("A bus has {n} people.",
     (" It picks up {n}.", " It picks up {n} more."),
     (" It drops off {n}.", " It drops {n}."),
     " How many people are left?"),
)


class Problem(NamedTuple):
  """A problem: the first number, the signed operands, and the question.

  Attributes:
    start: the first number, 2..99.
    deltas: signed operands in order, 1 <= |d| <= 9; every running total is in
      0..99.
    question: the problem in words.
    kind: "numbers" or "story".
  """

  start: int
  deltas: tuple[int, ...]
  question: str
  kind: str

  @property
  def level(self) -> int:
    """Number of operations."""
    return len(self.deltas)

  @property
  def answer(self) -> int:
    """The last running total."""
    return self.start + sum(self.deltas)


def problem(seed: int, index: int, level: int) -> Problem:
  """The problem at (seed, index, level), of any split.

  Raises:
    ValueError: level or index is out of range.
  """
  if level < 1:
    raise ValueError(f"level={level}: a problem has at least 1 operation")
  return draw(rng_at(seed, index, level), level)


def rng_at(seed: int, index: int, stream: int = 0) -> random.Random:
  """A separate random generator for (seed, index, stream); stream below 256.

  Raises:
    ValueError: a part is negative (random.Random ignores signs).
  """
  if seed < 0 or index < 0 or not 0 <= stream < 256:
    raise ValueError(
        f"seed={seed}, index={index}, stream={stream}: seed and index must not"
        " be negative, stream must be in 0..255")
  return random.Random((seed << 56 | index) << 8 | stream)


def draw(rng: random.Random, level: int) -> Problem:
  """A random problem with `level` operations."""
  uniform = rng.random
  start = 2 + int(uniform() * (MAX_TOTAL - 1))
  total, deltas = start, []
  for _ in range(level):
    delta = nonzero(
        uniform(), max(-MAX_OPERAND, -total),
        min(MAX_OPERAND, MAX_TOTAL - total))
    total += delta
    deltas.append(delta)
  if uniform() < 0.5:
    wording = _NUMBERS[int(uniform() * len(_NUMBERS))]
    question, kind = wording.format(expression(start, deltas)), "numbers"
  else:
    question, kind = _story(uniform, start, deltas), "story"
  return Problem(start, tuple(deltas), question, kind)


def nonzero(u: float, low: int, high: int) -> int:
  """Maps u in [0, 1) uniformly to the integers low..high without 0.

  `low` must not be positive and `high` not negative.
  """
  value = low + int(u * (high - low))
  return value + 1 if value >= 0 else value


def expression(start: int, deltas: list[int] | tuple[int, ...]) -> str:
  """The expression, such as `17 + 15 - 8`."""
  return str(start) + "".join(
      f" + {d}" if d > 0 else f" - {-d}" for d in deltas)


def steps(problem: Problem) -> str:
  """The steps of a solution: `17+15=32 32-8=24`."""
  return " ".join(step_list(problem.start, problem.deltas))


def step_list(start: int, deltas: tuple[int, ...] | list[int]) -> list[str]:
  """One equation per operation, each beginning with the last result."""
  total, lines = start, []
  for delta in deltas:
    after = total + delta
    sign = "+" if delta > 0 else "-"
    lines.append(f"{total}{sign}{abs(delta)}={after}")
    total = after
  return lines


def split_of(problem: Problem) -> str:
  """The split of a problem: "train" (90 %), "validation", "test" (5 % each).

  "hard" from level 7 on. It depends on the first number and the operands, not
  on the wording, so splits share no problem.
  """
  if problem.level >= min(LEVELS["hard"]):
    return "hard"
  canonical = bytes((problem.start, *(d & 255 for d in problem.deltas)))
  digest = hashlib.blake2b(canonical, digest_size=4).digest()
  bucket = int.from_bytes(digest, "little") % 20
  return "validation" if bucket == 0 else "test" if bucket == 1 else "train"


def examples(split: str, count: int, seed: int = 0) -> list[Problem]:
  """`count` distinct problems of a split, cycling through its levels.

  Raises:
    ValueError: no such split.
  """
  if split not in LEVELS:
    raise ValueError(f"split={split!r}: choose from {', '.join(LEVELS)}")
  levels, problems, index = LEVELS[split], {}, 0
  while len(problems) < count:
    candidate = problem(seed, index, levels[len(problems) % len(levels)])
    index += 1
    if split_of(candidate) == split:
      problems.setdefault((candidate.start, candidate.deltas), candidate)
  return list(problems.values())


def _story(uniform, start: int, deltas: list[int]) -> str:
  who, they = _PEOPLE[int(uniform() * len(_PEOPLE))]
  things = _THINGS[int(uniform() * len(_THINGS))]
  opening, gains, losses, closing = _STORIES[int(uniform() * len(_STORIES))]
  parts = [opening.format(n=start, x=things, who=who)]
  for delta in deltas:
    forms = gains if delta > 0 else losses
    form = forms[int(uniform() * len(forms))]
    parts.append(form.format(n=abs(delta), who=who, they=they))
  parts.append(closing.format(x=things, who=who))
  return "".join(parts)
