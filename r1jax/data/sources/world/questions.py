"""The two kinds of reasoning questions, sums and cups, with one interface."""

from __future__ import annotations

from r1jax.data.sources.generated.draws import Dice
from r1jax.data.sources.world import cups, sums
from r1jax.data.sources.world.cups import Cups
from r1jax.data.sources.world.sums import Sum

Question = Sum | Cups

KINDS = SUMS, CUPS = "sums", "cups"
_DOORS = {SUMS: sums, CUPS: cups}
THEN = {"en": " then ", "zh": "再"}


def draw(dice: Dice, kind: str, language: str, split: str) -> Question:
  """A random question of a split."""
  while True:
    level = dice.pick(_DOORS[kind].LEVELS)
    question = _DOORS[kind].draw(dice, language, level)
    if split_of(question) == split:
      return question


def split_of(question: Question) -> str:
  """The split that a question belongs to, by its content."""
  return (sums if isinstance(question, Sum) else cups).split_of(question)


def operations(question: Question) -> tuple:
  """A sum's deltas, or the swaps of cups."""
  return question.deltas if isinstance(question, Sum) else question.swaps


def thought(question: Question, language: str, kept: tuple | None = None
            ) -> tuple[str, str]:
  """(the steps in the words of a language, their result).

  Args:
    question: to be solved.
    language: of the words between steps.
    kept: the operations to apply; all by default.
  """
  kept = operations(question) if kept is None else kept
  if isinstance(question, Sum):
    steps = sums.steps(question.start, kept)
    result = str(question.start + sum(kept))
  else:
    steps = cups.steps(question.start, kept)
    result = cups.path(question.start, kept)[-1]
  return THEN[language].join(steps), result
