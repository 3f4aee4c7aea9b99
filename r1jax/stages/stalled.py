"""Says why nothing is learnt where no group's rewards differ for many steps."""

from __future__ import annotations

import collections

from r1jax.core.types import Scored

AFTER = 8  # steps without a group of different rewards; then at twice as many

_HINTS = {
    "no answer": "The rule finds no final answer. Chat templates ask for it"
                 " where they may (not with instruct=False); a wording of your"
                 " own can (--template=file:PATH); --rewards.extract=last also"
                 " takes the last number; a cold start (experiments.train_sft)"
                 " teaches the form",
    "wrong": "The questions may be too hard: easier ones (--data), more"
             " --samples of each, or a stronger start (--init)",
    "correct": "The questions are too easy: give harder ones (--data)"}
_CUT = ("Most are cut off: raise --max_new_tokens, or ask for shorter"
        " thoughts")


class Stalled:
  """Counts the steps in a row in which no group taught anything."""

  def __init__(self) -> None:
    """Nothing was seen yet."""
    self._steps, self._said = 0, AFTER
    self._samples = self._cut = 0
    self._reasons: collections.Counter[str] = collections.Counter()

  def add(self, scored: Scored) -> None:
    """What the rules said of this process's samples of a step."""
    self._samples += scored.rollout.truncated_QG.size
    self._cut += int(scored.rollout.truncated_QG.sum())
    self._reasons.update(
        sample["accuracy"] for row in scored.reasons for sample in row
        if "accuracy" in sample)

  def said(self, zero_variance: float) -> str:
    """What to say after a step; "" for nothing.

    Args:
      zero_variance: share of the step's groups, of all processes, whose rewards
        are all alike.
    """
    if zero_variance < 1:
      self.__init__()
      return ""
    self._steps += 1
    if self._steps < self._said:
      return ""
    self._said *= 2
    text = (f"{self._steps} steps in a row all samples of every question had"
            " the same reward, so nothing was learnt.")
    if not self._reasons:
      return text
    known = sum(self._reasons.values())
    (reason, _), *_ = common = self._reasons.most_common(3)
    text += " Accuracy says " + ", ".join(
        f"{name!r} of {count / known:.0%}" for name, count in common)
    if 2 * self._cut > self._samples:
      return f"{text}; {self._cut / self._samples:.0%} are truncated. {_CUT}"
    return f"{text}. {_HINTS[reason]}" if reason in _HINTS else text
