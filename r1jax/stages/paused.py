"""Saves and restores a GRPO step that is interrupted in the middle.

A step can take minutes. A signal inside it saves what is done: the rollout, or
the packed batches with their fixed log-probabilities and the metrics so far.
The resumed run continues from there bit for bit.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import numpy as np

from r1jax.core.types import Rollout, TokenBatch
from r1jax.stages.learner import Learner, Micros
from r1jax.stages.loop.session import Session
from r1jax.training import metrics as metrics_lib
from r1jax.training.metrics import Metrics


@dataclasses.dataclass
class Work:
  """The updates of a step.

  Attributes:
    batches: micro-batches of every update.
    numbers: metrics of samples and rewards, JSON-ready.
    laps: seconds by phase.
    done: number of updates made.
    seen: metrics of these updates.
  """

  batches: list[Micros]
  numbers: Any
  laps: dict[str, float]
  done: int = 0
  seen: list[Metrics] = dataclasses.field(default_factory=list)

  def update(self, learner: Learner, session: Session) -> None:
    """Makes the remaining updates; stops between two if interrupted."""
    while self.done < len(self.batches):
      self.seen.append(learner.update(self.batches[self.done]))
      self.done += 1
      if self.done < len(self.batches) and session.interrupted():
        return

  @property
  def complete(self) -> bool:
    """Whether all updates were made."""
    return self.done == len(self.batches)


class Paused:
  """Saves and restores an interrupted step.

  Attributes:
    rollouts: rollouts of the interrupted step, until `take` returned them.
    work: its updates, likewise.
  """

  def __init__(self, session: Session, host: dict[str, Any],
               learner: Learner):
    self._session, self._learner = session, learner
    self.rollouts: list[Rollout] = []
    self.work: Work | None = None
    if session.inside is None:
      return
    saved, local = host["inside"], session.inside
    if "rounds" in local:
      self.rollouts = [_rollout(parts) for parts in local["rounds"]]
    else:
      batches = [learner.placed(TokenBatch(**arrays))
                 for arrays in local["batches"]]
      self.work = Work(
          batches, saved["numbers"], saved["laps"], saved["done"],
          [metrics_lib.from_json(part) for part in saved["seen"]])

  def take(self) -> tuple[list[Rollout], Work | None]:
    """What the interrupted step had done; empty from the second call on."""
    done = self.rollouts, self.work
    self.rollouts, self.work = [], None
    return done

  def save_rollouts(self, step: int, rollouts: list[Rollout], drawn: Any
                    ) -> None:
    """Saves a step whose rollout is done.

    Args:
      step: steps done before.
      rollouts: this process's samples.
      drawn: position of the question stream before the step.
    """
    self._session.save_inside(
        step, self._learner.arrays(), {"stream": drawn, "inside": {}},
        {"rounds": [_arrays(rollout) for rollout in rollouts]},
        after="the rollout")

  def save_work(self, step: int, work: Work, drawn: Any) -> None:
    """Saves a step after some or all of its updates.

    Args:
      step: steps done before.
      work: the step's updates.
      drawn: position of the question stream after the step.
    """
    seen = jax.device_get(work.seen)
    self._session.save_inside(
        step, self._learner.arrays(), {"stream": drawn, "inside": {
            "numbers": work.numbers, "laps": work.laps, "done": work.done,
            "seen": [metrics_lib.to_json(part) for part in seen]}},
        {"batches": [self._learner.on_host(micros)
                     for micros in work.batches]},
        after=f"update {work.done} of {len(work.batches)}")


def _arrays(rollout: Rollout) -> dict[str, Any]:
  """The fields of a rollout that are set."""
  fields = {name: value for name, value in vars(rollout).items()
            if value is not None}
  return fields | {"prompt_tokens": list(rollout.prompt_tokens)}


def _rollout(arrays: dict[str, Any]) -> Rollout:
  prompts = tuple(np.asarray(x) for x in arrays["prompt_tokens"])
  return Rollout(**arrays | {"prompt_tokens": prompts})
