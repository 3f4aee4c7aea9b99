"""The interface of reward models, and how their scores join those of rules.

  scorers = {"helpful": Scorer(helpful, SUMMARY, blank=-5.0),
             "safety": Scorer(safety, TEXT, blank=-5.0)}
  handle = pool.submit(items)                      # the rules, meanwhile
  judged = score(scorers, items)                   # the models, on the device
  verdicts = merge(handle.result(), judged)        # for `combine.scored`

A reward model is anything that can be called with questions and texts.
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
  """Judges a batch of completions."""

  def __call__(self, prompts: Sequence[Prompt],
               texts: Sequence[str]) -> Sequence[float]:
    """One number per text, on any scale; NaN for no verdict.

    The lists may be empty.
    """
    ...


class IdsRewardModel(Protocol):
  """Judges token ids: each array is a rendered conversation."""

  def __call__(self, ids: Sequence[np.ndarray]) -> Sequence[float]:
    """One number per int32 array; NaN for no verdict."""
    ...


@dataclasses.dataclass(frozen=True, kw_only=True)
class Scorer:
  """A reward model and the part of a completion that it reads.

  Attributes:
    model: judges texts (`from_ids` wraps a model of token ids).
    shown: "summary", the text after the thought (paper: the helpful model), or
      "text", thought and summary (paper: the safety model).
    blank: score of a completion without text to show, such as a thought that
      never ends, given without calling the model. It should be below the
      model's scores of bad answers.
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
  """Name of the reward model that judges a prompt; None if a rule does.

  As in the paper, each general prompt is in the safety or in the helpfulness
  set, and no model judges reasoning.
  """
  if prompt.verifier:
    return None
  return SAFETY if prompt.metadata.get("safety") is True else HELPFUL


def score(scorers: Mapping[str, Scorer],
          items: Sequence[tuple[Prompt, str, str]]) -> list[dict[str, Score]]:
  """Judges each completion by the model that its prompt belongs to.

  Args:
    scorers: name of the reward ("helpful", "safety") to the model.
    items: (prompt, prompt_tail, completion) each, from `combine.items`.

  Returns:
    One {name: Score} per item, in order; {} if no given model applies. A number
    that is not finite is an invalid score.

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
    # Called even without texts: the processes of a run compute together.
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
  """Joins the scores of several judges on the same items.

  Raises:
    ValueError: the lists have different lengths, or two have the same name for
      an item.
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
  """A reward model of texts from one of token ids.

  Args:
    model: judges arrays of ids.
    encode: (prompt, text) to the ids of the rendered conversation.
  """
  return lambda prompts, texts: model(
      [encode(prompt, text) for prompt, text in zip(prompts, texts)])
