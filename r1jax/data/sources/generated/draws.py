"""Random draws for generated data, and splits that share no question.

Every row is a pure function of (source, split, index), so it is the same on
every machine and in every process and nothing has to be stored.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

from r1jax.core.prompt import Prompt

T = TypeVar("T")

_ATTEMPTS = 2000


class Dice:
  """Random draws seeded by an address, such as (source, split, index).

  All draws use `random.Random.random` with an integer seed, the only sequence
  that Python guarantees to be the same in all versions. The seed is the
  address's BLAKE2 hash, because `hash` differs between processes.
  """

  def __init__(self, *address: str | int):
    self.random = random.Random(_digest(address)).random

  def below(self, n: int) -> int:
    """0 .. n - 1."""
    return int(self.random() * n)

  def between(self, low: int, high: int) -> int:
    """low .. high, both included."""
    return low + self.below(high - low + 1)

  def pick(self, items: Sequence[T]) -> T:
    """One of the items."""
    return items[self.below(len(items))]

  def sample(self, items: Sequence[T], count: int) -> list[T]:
    """`count` different items, in random order."""
    left = list(items)
    return [left.pop(self.below(len(left))) for _ in range(count)]

  def shuffled(self, items: Sequence[T]) -> list[T]:
    """All items, in random order."""
    return self.sample(items, len(items))


# Makes the row of (split, index) with the dice; None if the draw is unsuitable
# (no unique solution, or `share` assigns its content to another split).
Make = Callable[[Dice, str, int], Prompt | None]


def share(content: Any) -> str:
  """The split that a question belongs to, by a hash of its content.

  80 % of all contents belong to "train", 10 % each to "validation" and "test".

  Args:
    content: JSON-ready: what determines the answer, without the wording, so
      that no split has a reworded question of another.
  """
  bucket = _digest(content) % 10
  return "validation" if bucket == 0 else "test" if bucket == 1 else "train"


def distinct(
    source: str, sizes: Mapping[str, int], split: str, make: Make
) -> Iterator[Prompt]:
  """The rows of a split, all with different questions.

  Args:
    source: the generator's name, part of the dice's address.
    sizes: number of rows by split.
    split: a key of `sizes`.
    make: draws one row; called until it returns a new question, at most
      2000 times.

  Raises:
    ValueError: no such split.
    RuntimeError: (while iterating) the generator has too few questions.
  """
  check(sizes, split)
  return _rows(source, sizes[split], split, make)


def check(sizes: Mapping[str, int], split: str) -> None:
  """Raises ValueError if there is no such split."""
  if split not in sizes:
    raise ValueError(f"split={split!r}: choose from {', '.join(sizes)}")


def _rows(
    source: str, size: int, split: str, make: Make) -> Iterator[Prompt]:
  seen = set()
  for index in range(size):
    dice = Dice(source, split, index)
    for _ in range(_ATTEMPTS):
      prompt = make(dice, split, index)
      if prompt is not None and prompt.question not in seen:
        break
    else:
      raise RuntimeError(
          f"{source}, {split}: no new question for row {index} in {_ATTEMPTS}"
          " draws; ask for fewer rows")
    seen.add(prompt.question)
    yield prompt


def _digest(content: Any) -> int:
  text = json.dumps(content, separators=(",", ":"), ensure_ascii=True)
  digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
  return int.from_bytes(digest, "little")
