"""A verdict and the clock it is reached under.

Rules run in child processes that must start fast and stay small, so nothing
that they import may import JAX; what is slow to import (sympy, reasoning-gym)
is imported when it is first needed, under `clock_stopped`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import signal
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING

from r1jax.rewards.response import Response

if TYPE_CHECKING:
  from r1jax.core.prompt import Prompt


LATE = "deadline"  # the reason where an item's time was up


@dataclasses.dataclass(frozen=True)
class Score:
  """What one rule says of one completion.

  Attributes:
    value: the reward, finite.
    valid: False where no verdict could be had (a crash): the sample is then
      kept out of the baseline and of the update, never counted as wrong. An
      answer whose time is up twice is a valid 0: to burn the deadline must not
      beat a wrong answer.
    reason: why, in a few words ("correct", "wrong", "no answer", "deadline").
    parts: measurements behind the value by name (tests passed, words counted):
      logged, not rewarded.
    answer: the final answer in one spelling, for majority voting; None if the
      completion has none or the rule finds none.
  """

  value: float
  valid: bool
  reason: str
  parts: Mapping[str, float] = dataclasses.field(default_factory=dict)
  answer: str | None = None


# (prompt, response) -> verdict, or None where the rule does not apply to the
# prompt; importable by name, so that it can be sent to a child. Inside a child
# `prompt` has the fields of Prompt, `question` too, but not its type.
Rule = Callable[["Prompt", Response], Score | None]


@contextlib.contextmanager
def clock_stopped() -> Iterator[None]:
  """Stops the item's deadline inside the block: importing is not judging.

  Also for what holds a deadline of its own, as the sandbox does.
  """
  left, _ = signal.setitimer(signal.ITIMER_REAL, 0)
  try:
    yield
  finally:
    signal.setitimer(signal.ITIMER_REAL, left)
