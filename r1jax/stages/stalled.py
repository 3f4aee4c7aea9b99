"""Warns if no group's rewards differ for many steps, and says what to change.
"""

from __future__ import annotations

import collections

from r1jax.core.types import Scored

AFTER = 8  # steps without reward variance until the warning; then twice as many

_HINTS = {
    "no answer": "The rule finds no final answer. The prompt should ask for its"
                 " form: chat templates do, unless with instruct=False, and so"
                 " can a template of your own (--template=file:PATH);"
                 " --rewards.extract=last also accepts the last number; a cold"
                 " start (experiments.train_sft) teaches the form",
    "wrong": "The questions may be too hard: try easier ones (--data), more"
             " --samples of each, or a stronger model (--init)",
    "correct": "The questions are too easy: give harder ones (--data)"}
_CUT = ("Most samples are truncated: raise --max_new_tokens, or ask for shorter"
        " thoughts")


class Stalled:
  """Counts consecutive steps without reward variance in any group."""

  def __init__(self) -> None:
    """Starts at zero steps."""
    self._steps, self._said = 0, AFTER
    self._samples = self._cut = 0
    self._reasons: collections.Counter[str] = collections.Counter()

  def add(self, scored: Scored) -> None:
    """Adds the verdicts on this process's samples of a step."""
    self._samples += scored.rollout.truncated_QG.size
    self._cut += int(scored.rollout.truncated_QG.sum())
    self._reasons.update(
        sample["accuracy"] for row in scored.reasons for sample in row
        if "accuracy" in sample)

  def said(self, zero_variance: float) -> str:
    """The warning after a step; "" if there is none.

    Args:
      zero_variance: share of the step's groups, in all processes, whose rewards
        are all equal.
    """
    if zero_variance < 1:
      self.__init__()
      return ""
    self._steps += 1
    if self._steps < self._said:
      return ""
    self._said *= 2
    text = (f"for {self._steps} steps all samples of every question had the"
            " same reward, so nothing was learned.")
    if not self._reasons:
      return text
    known = sum(self._reasons.values())
    (reason, _), *_ = common = self._reasons.most_common(3)
    text += " Verdicts of accuracy: " + ", ".join(
        f"{name!r} {count / known:.0%}" for name, count in common)
    if 2 * self._cut > self._samples:
      return f"{text}; {self._cut / self._samples:.0%} are truncated. {_CUT}"
    return f"{text}. {_HINTS[reason]}" if reason in _HINTS else text
