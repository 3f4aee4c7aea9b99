"""The verdict of a rule, and the deadline's clock.

Rules run in child processes that must start fast and stay small, so they must
not import JAX. Slow libraries (mpmath, reasoning-gym) are imported at first
use, under `clock_stopped`.
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


LATE = "deadline"  # the reason for an item whose deadline passed


@dataclasses.dataclass(frozen=True)
class Score:
  """The verdict of one rule on one completion.

  Attributes:
    value: the reward, finite.
    valid: False if there is no verdict, as after a crash: the sample is then
      left out of the baseline and of the update, and not counted as wrong. A
      deadline that passes twice is a valid 0, because running into the deadline
      must not be better than a wrong answer.
    reason: in a few words ("correct", "wrong", "no answer", "deadline").
    parts: {name: measurement} behind the value (tests passed, words counted);
      logged, not rewarded.
    answer: the final answer in canonical spelling, for majority votes; None if
      the rule finds none.
  """

  value: float
  valid: bool
  reason: str
  parts: Mapping[str, float] = dataclasses.field(default_factory=dict)
  answer: str | None = None


# (prompt, response) -> verdict, or None if the rule does not apply to the
# prompt. It must be importable by name in a child process, where `prompt` has
# the fields of Prompt and `question`, but is of another type.
Rule = Callable[["Prompt", Response], Score | None]


@contextlib.contextmanager
def clock_stopped() -> Iterator[None]:
  """Stops the clock of the item's deadline inside the block.

  For imports, and for work with a deadline of its own, such as the sandbox.
  """
  left, _ = signal.setitimer(signal.ITIMER_REAL, 0)
  try:
    yield
  finally:
    signal.setitimer(signal.ITIMER_REAL, left)
