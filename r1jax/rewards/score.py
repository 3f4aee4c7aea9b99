"""A verdict and the clock it is reached under.

Rules run in child processes that must start fast and stay small, so nothing
that they import (this module, `math`, `format`, `rules`) may import JAX.
"""

from __future__ import annotations

import contextlib
import dataclasses
import signal
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
  from r1jax.core.types import Prompt


@dataclasses.dataclass(frozen=True)
class Score:
  """What one rule says of one completion.

  Attributes:
    value: the reward, finite.
    valid: False where no verdict could be had (crash, deadline): the sample is
      then kept out of the baseline and of the update, never counted as wrong.
    reason: why, in a few words ("correct", "wrong", "no answer", "deadline").
  """

  value: float
  valid: bool
  reason: str


# (prompt, end of the rendered prompt, completion) -> verdict; importable by
# name, so that it can be sent to a child. Inside a child `prompt` has the
# fields of Prompt but not its type.
Rule = Callable[["Prompt", str, str], Score]


@contextlib.contextmanager
def clock_stopped() -> Iterator[None]:
  """Stops the item's deadline inside the block: importing is not judging."""
  left, _ = signal.setitimer(signal.ITIMER_REAL, 0)
  try:
    yield
  finally:
    signal.setitimer(signal.ITIMER_REAL, left)
