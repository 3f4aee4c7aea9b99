"""Sums in English and Chinese: the problems of `arithmetic`, translated.

A thought lists every step with its running total, with a word of its language
between steps.
"""

from __future__ import annotations

from typing import NamedTuple

from r1jax.data.sources import arithmetic
from r1jax.data.sources.generated.draws import Dice
from r1jax.data.sources.world import words

LEVELS = (3, 4, 5, 6)
_NUMBERS = ("计算{}。", "{}等于多少？", "求{}。")
_STORIES = (  # opening, gains, losses, closing
    ("{who}有{n}个{x}。", ("又买了{n}个。", "又得到{n}个。"),
     ("送出{n}个。", "卖了{n}个。"), "{who}有几个{x}？"),
    ("盒子里有{n}个{x}。", ("放进{n}个。", "加了{n}个。"),
     ("拿出{n}个。", "取走{n}个。"), "盒子里有几个{x}？"))


class Sum(NamedTuple):
  """A chain of additions and subtractions, and a wording of it.

  Attributes:
    start: the first number.
    deltas: added to it one after the other.
    question: a wording.
    language: of the wording.
    kind: "numbers" or a story, as `arithmetic.Problem.kind`.
  """

  start: int
  deltas: tuple[int, ...]
  question: str
  language: str
  kind: str

  @property
  def answer(self) -> int:
    """The last running total."""
    return self.start + sum(self.deltas)


def draw(dice: Dice, language: str, level: int) -> Sum:
  """A sum with `level` operations."""
  problem = arithmetic.draw(dice, level)
  question = problem.question
  if language == "zh":
    question = _chinese(dice, problem)
  return Sum(problem.start, problem.deltas, question, language, problem.kind)


def split_of(one: Sum) -> str:
  """The split of a sum: by its numbers, whatever the language."""
  return arithmetic.split_of(arithmetic.Problem(
      one.start, one.deltas, one.question, one.kind))


def steps(start: int, deltas: tuple[int, ...]) -> list[str]:
  """An equation for each operation."""
  return arithmetic.step_list(start, deltas)


def _chinese(dice: Dice, problem: arithmetic.Problem) -> str:
  if problem.kind == "numbers":
    return dice.pick(_NUMBERS).format(
        arithmetic.expression(problem.start, problem.deltas))
  who, x = dice.pick(words.NAMES).zh, dice.pick(words.NOUNS).zh
  opening, gains, losses, closing = dice.pick(_STORIES)
  parts = [opening.format(n=problem.start, x=x, who=who)]
  parts += [dice.pick(gains if delta > 0 else losses).format(n=abs(delta))
            for delta in problem.deltas]
  return "".join(parts) + closing.format(x=x, who=who)
