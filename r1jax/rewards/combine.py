"""Rewards by name into one reward (paper: accuracy + format, equal weight)."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence

import numpy as np

from r1jax.core.types import Prompt, Rollout, Scored
from r1jax.rewards.score import Score


@dataclasses.dataclass(frozen=True, kw_only=True)
class Combine:
  """How the parts add up.

  Attributes:
    weights: rule name to weight; the reward is the weighted sum. Weight 0 logs
      a part without rewarding it.
  """

  weights: Mapping[str, float] = dataclasses.field(
      default_factory=lambda: {"accuracy": 1.0, "format": 1.0})

  def __post_init__(self):
    if not self.weights:
      raise ValueError("weights is empty: name at least one rule")
    for name, weight in self.weights.items():
      if not math.isfinite(weight):
        raise ValueError(f"weights[{name!r}]={weight}: give a finite number")


def combine(
    config: Combine, scores: Sequence[Sequence[Mapping[str, Score]]],
) -> tuple[dict[str, np.ndarray], np.ndarray, np.ndarray]:
  """Adds the parts of each sample.

  Args:
    config: the weights.
    scores: Q questions of G samples, each {rule name: Score}.

  Returns:
    parts (name to float32 [Q, G], 0 where invalid), rewards_QG float32 (the
    weighted sum) and valid_QG bool (all parts with a verdict).

  Raises:
    ValueError: the scored rules are not those of the weights, or the questions
      differ in their number of samples.
  """
  if len({len(row) for row in scores}) > 1:
    raise ValueError(
        f"samples per question differ: {sorted({len(row) for row in scores})};"
        " give every question the same number")
  for row in scores:
    for parts in row:
      if set(parts) != set(config.weights):
        raise ValueError(
            f"scored rules {sorted(parts)} are not the weighted rules"
            f" {sorted(config.weights)}; give each rule a weight (0 to log it)")
  size = len(scores), len(scores[0]) if scores else 0
  parts = {
      name: np.array(
          [[p[name].value if p[name].valid else 0.0 for p in row]
           for row in scores], np.float32).reshape(size)
      for name in config.weights}
  valid_QG = np.array(
      [[all(score.valid for score in p.values()) for p in row]
       for row in scores], bool).reshape(size)
  rewards_QG = np.zeros(size, np.float32)
  for name, weight in config.weights.items():
    rewards_QG += np.float32(weight) * parts[name]
  return parts, rewards_QG, valid_QG


def items(prompts: Sequence[Prompt], tails: Sequence[str],
          texts: Sequence[Sequence[str]]) -> list[tuple[Prompt, str, str]]:
  """What `runner.Pool.submit` takes, Q*G of them, question by question."""
  return [(prompt, tail, text)
          for prompt, tail, row in zip(prompts, tails, texts, strict=True)
          for text in row]


def scored(config: Combine, rollout: Rollout, prompts: Sequence[Prompt],
           texts: Sequence[Sequence[str]],
           scores: Sequence[Mapping[str, Score]]) -> Scored:
  """Joins a rollout with its verdicts, Q*G of them in the order of `items`.

  Raises:
    ValueError: the counts do not match, or as `combine`.
  """
  if len(scores) != sum(len(row) for row in texts):
    raise ValueError(
        f"{len(scores)} verdicts for {sum(len(row) for row in texts)} texts;"
        " score every text once")
  remaining = iter(scores)
  rows = [[next(remaining) for _ in row] for row in texts]
  parts, rewards_QG, valid_QG = combine(config, rows)
  return Scored(
      rollout=rollout, prompts=tuple(prompts),
      texts=tuple(tuple(row) for row in texts), parts=parts,
      rewards_QG=rewards_QG, valid_QG=valid_QG)
