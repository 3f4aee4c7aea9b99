"""Shell-game questions: a coin is under one of four cups, which are swapped.

A thought lists every swap and the cup that has the coin after it.
"""

from __future__ import annotations

from typing import NamedTuple

from r1jax.data.sources.generated import draws
from r1jax.data.sources.generated.draws import Dice

CUPS = ("A", "B", "C", "D")
LEVELS = (3, 4, 5)
_OPENINGS = {
    "en": ("The coin is under {}.", "A coin lies under {}."),
    "zh": ("硬币在{}下。", "{}下有硬币。")}
_SWAPS = {"en": " Swap {} and {}.", "zh": "交换{}和{}。"}
_CLOSINGS = {
    "en": " Which cup has it: A, B, C or D?", "zh": "硬币在哪：A、B、C、D？"}


class Cups(NamedTuple):
  """A question about cups.

  Attributes:
    start: the cup that has the coin at first.
    swaps: pairs of cups, such as "AC".
    question: a wording.
    language: of the wording.
  """

  start: str
  swaps: tuple[str, ...]
  question: str
  language: str

  @property
  def answer(self) -> str:
    """The cup that has the coin in the end."""
    return path(self.start, self.swaps)[-1]


def draw(dice: Dice, language: str, level: int) -> Cups:
  """A question with `level` swaps; on average two of three move the coin."""
  at = start = dice.pick(CUPS)
  swaps = []
  for _ in range(level):
    others = [cup for cup in CUPS if cup != at]
    pair = [at, dice.pick(others)] if dice.below(3) else dice.sample(others, 2)
    swaps.append("".join(dice.shuffled(pair)))
    at = path(at, swaps[-1:])[0]
  opening = dice.pick(_OPENINGS[language]).format(start)
  question = opening + "".join(
      _SWAPS[language].format(*swap) for swap in swaps) + _CLOSINGS[language]
  return Cups(start, tuple(swaps), question, language)


def path(start: str, swaps: tuple[str, ...] | list[str]) -> list[str]:
  """The cup that has the coin after each swap."""
  places, at = [], start
  for swap in swaps:
    if at in swap:
      at = swap.replace(at, "")
    places.append(at)
  return places


def steps(start: str, swaps: tuple[str, ...] | list[str]) -> list[str]:
  """`A-B:A` for each swap; the hyphen keeps the letters from being a word."""
  return [f"{swap[0]}-{swap[1]}:{at}" for swap, at in
          zip(swaps, path(start, swaps), strict=True)]


def split_of(one: Cups) -> str:
  """The split of a question: by start and swaps, whatever the language."""
  return draws.share(["cups", one.start, *one.swaps])
