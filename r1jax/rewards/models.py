"""Reward models, the interface: scores of a model that join those of the rules.

  scorers = {"helpful": Scorer(helpful, SUMMARY, blank=-5.0),
             "safety": Scorer(safety, TEXT, blank=-5.0)}
  handle = pool.submit(items)                      # the rules, meanwhile
  judged = score(scorers, items)                   # the models, on the device
  verdicts = merge(handle.result(), judged)        # for `combine.scored`

Where a model comes from is no matter here: anything that can be called with
questions and texts will do.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import numpy as np

from r1jax.core.prompt import Prompt
from r1jax.rewards import response
from r1jax.rewards.score import Score

SUMMARY, TEXT = "summary", "text"
HELPFUL, SAFETY = "helpful", "safety"


class RewardModel(Protocol):
  """Judges many completions at once."""

  def __call__(self, prompts: Sequence[Prompt],
               texts: Sequence[str]) -> Sequence[float]:
    """One number per text, of any scale; NaN where it has no verdict.

    There may be no texts.
    """
    ...


class IdsRewardModel(Protocol):
  """Judges token ids: each array is a rendered question and its answer."""

  def __call__(self, ids: Sequence[np.ndarray]) -> Sequence[float]:
    """One number per int32 array; NaN where it has no verdict."""
    ...


@dataclasses.dataclass(frozen=True, kw_only=True)
class Scorer:
  """A reward model and what it is shown.

  Attributes:
    model: judges texts (`from_ids` makes one of a model that takes ids).
    shown: "summary", what follows the thought (paper: the helpful model), or
      "text", thought and summary (paper: the safety model).
    blank: the score of a completion with nothing to show, such as a thought
      that never ends. The model is not asked: choose it below what the model
      gives to bad answers.
  """

  model: RewardModel
  shown: str
  blank: float

  def __post_init__(self):
    if self.shown not in (SUMMARY, TEXT):
      raise ValueError(f"shown={self.shown!r} is not {SUMMARY} or {TEXT}")
    if not math.isfinite(self.blank):
      raise ValueError(f"blank={self.blank}: give a finite number")


def belongs(prompt: Prompt) -> str | None:
  """The model that judges a prompt; None where a rule does.

  Paper: each general prompt is in the safety or in the helpfulness set, and no
  model judges reasoning.
  """
  if prompt.verifier:
    return None
  return SAFETY if prompt.metadata.get("safety") is True else HELPFUL


def score(scorers: Mapping[str, Scorer],
          items: Sequence[tuple[Prompt, str, str]]) -> list[dict[str, Score]]:
  """Judges each completion by the model that its prompt belongs to.

  Args:
    scorers: name of the reward ("helpful", "safety") to the model.
    items: as of `combine.items`: (prompt, prompt_tail, completion).

  Returns:
    one {name: Score} per item, in order; {} where no model given applies. A
    number that is not finite is no verdict.

  Raises:
    ValueError: a model does not give one number per text.
  """
  scores: list[dict[str, Score]] = [{} for _ in items]
  for name, scorer in scorers.items():
    asked = []
    for at, (prompt, tail, completion) in enumerate(items):
      if belongs(prompt) != name:
        continue
      parts = response.split(tail, completion)
      shown = parts.answer if scorer.shown == SUMMARY else parts.text
      if shown.strip():
        asked.append((at, prompt, shown))
      else:
        scores[at][name] = Score(scorer.blank, True, "blank answer")
    places, prompts, texts = zip(*asked) if asked else ((), (), ())
    # Also with nothing to judge: several processes may compute together.
    values = scorer.model(prompts, texts)
    if len(values) != len(texts):
      raise ValueError(
          f"the model {name!r} gave {len(values)} scores for {len(texts)}"
          " texts; it must give one for each")
    for at, value in zip(places, map(float, values)):
      scores[at][name] = (
          Score(value, True, "judged") if math.isfinite(value)
          else Score(0.0, False, f"the model gave {value}"))
  return scores


def merge(*verdicts: Sequence[Mapping[str, Score]]) -> list[dict[str, Score]]:
  """Verdicts of several judges on the same items, as one.

  Raises:
    ValueError: they differ in their number, or two have a rule of one name.
  """
  merged = []
  for row in zip(*verdicts, strict=True):
    names = [name for part in row for name in part]
    if len(set(names)) < len(names):
      twice = sorted({name for name in names if names.count(name) > 1})
      raise ValueError(f"{', '.join(twice)} was judged twice; name each once")
    merged.append({name: one for part in row for name, one in part.items()})
  return merged


def from_ids(model: IdsRewardModel,
             encode: Callable[[Prompt, str], np.ndarray]) -> RewardModel:
  """A model of texts from one of token ids.

  Args:
    model: judges arrays of ids.
    encode: (prompt, text) to the ids of the rendered conversation.
  """
  return lambda prompts, texts: model(
      [encode(prompt, text) for prompt, text in zip(prompts, texts)])
