"""Combines named rewards into one reward, by the paper's equations."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence

import numpy as np

from r1jax.core.config import check
from r1jax.core.prompt import Prompt
from r1jax.core.types import Rollout, Scored
from r1jax.rewards.score import LATE, Score

# {name of the reward: weight}. A question is given the rewards that apply to
# it: in stage 2 reasoning questions have a rule ("accuracy"), and a general
# question belongs either to the helpfulness or to the safety set.
EQUATIONS: dict[str, dict[str, float]] = {
    # Nature version, rule-based rewards: equal weights, whose size it does not
    # give.
    "r1-zero": {"accuracy": 1.0, "format": 1.0},
    # Eq. 7: the language reward is added directly.
    "r1-stage1": {"accuracy": 1.0, "format": 1.0, "language": 1.0},
    # Eq. 8-10.
    "r1-stage2": {"accuracy": 1.0, "helpful": 1.0, "safety": 1.0,
                  "format": 1.0, "language": 1.0},
}
CODE = ("all", "fraction")
EXTRACT = ("box", "last")
FORMAT = ("think-answer", "think")
LANGUAGE = ("script", "detector")
# An answer takes milliseconds: more children would wait for their parent.
_MOST_CHILDREN = 16


@dataclasses.dataclass(frozen=True, kw_only=True)
class RewardConfig:
  """How completions are rewarded.

  Attributes:
    equation: rewards and weights of the paper: r1-zero (accuracy, format),
      r1-stage1 (also language) or r1-stage2 (also reward models), see
      `EQUATIONS`.
    weights: names and weights that override or extend those of the equation,
      e.g. "format:0.5,repetition:0.1"; a reward with weight 0 is only logged.
    workers: child processes that apply the rules, for each process of a run. 0
      stands for its share of the machine's processors, at most 16.
    deadline: seconds that all rules together may take on one completion.
    code: "all" rewards a program only if it passes every test, "fraction"
      rewards the share of tests passed.
    extract: how the final answer in mathematics is found: "box" reads a box or
      an `<answer>` element; "last", if there is neither, also the last answer
      that the text states, or its last number (some data sets always allow
      that). Evaluations with chat templates default to "last". In training
      "last" lets a policy omit which of its numbers is the answer.
    format: "think-answer" requires R1-Zero's format (a thought, then an
      `<answer>` element), "think" R1's (a thought, then a summary).
    language: "script" counts words by script; "detector" also distinguishes
      languages of the same script (needs lingua-language-detector).
    helpful: reward model of general prompts, orbax:WORKDIR of
      experiments.train_reward or hf:DIR; it reads the summary only.
    safety: reward model of prompts with metadata safety=True, given likewise;
      it reads thought and summary.
    model_rows: rows of a reward model's batch.
  """

  equation: str = "r1-zero"
  weights: str = ""
  workers: int = 0
  deadline: float = 2.0
  code: str = "all"
  extract: str = "box"
  format: str = "think-answer"
  language: str = "script"
  helpful: str = ""
  safety: str = ""
  model_rows: int = 16

  def __post_init__(self):
    check(self.model_rows > 0, f"model_rows={self.model_rows} must be positive")
    check(self.equation in EQUATIONS,
          f"equation={self.equation!r} is not one of {', '.join(EQUATIONS)}")
    check(self.workers >= 0,
          f"workers={self.workers}: give a number of processes, or 0 for one"
          " per processor")
    check(math.isfinite(self.deadline) and self.deadline > 0,
          f"deadline={self.deadline}: seconds must be positive")
    for name, known in (
        ("code", CODE), ("extract", EXTRACT), ("format", FORMAT),
        ("language", LANGUAGE)):
      check(getattr(self, name) in known, f"{name}={getattr(self, name)!r} is"
            f" not one of {', '.join(known)}")
    self.resolve()

  def resolve(self) -> Combine:
    """The weights of the equation, updated by `weights`.

    Raises:
      ValueError: `weights` is not a list of name:number.
    """
    return Combine(weights=EQUATIONS[self.equation] | _parse(self.weights))

  def children(self, share: int) -> int:
    """`workers`, or the number that 0 stands for.

    Args:
      share: this process's share of the machine's processors.
    """
    return self.workers or min(share, _MOST_CHILDREN)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Combine:
  """Weights of the rewards' sum.

  Attributes:
    weights: name of a reward to its weight; the combined reward is the weighted
      sum. A reward with weight 0 is only logged.
  """

  weights: Mapping[str, float] = dataclasses.field(
      default_factory=lambda: dict(EQUATIONS["r1-zero"]))

  def __post_init__(self):
    if not self.weights:
      raise ValueError("weights is empty: name at least one rule")
    for name, weight in self.weights.items():
      if not math.isfinite(weight):
        raise ValueError(f"weights[{name!r}]={weight}: give a finite number")


def combine(
    config: Combine, prompts: Sequence[Prompt],
    scores: Sequence[Sequence[Mapping[str, Score]]],
) -> tuple[dict[str, np.ndarray], np.ndarray, np.ndarray]:
  """The weighted sum of the rewards that apply to each question.

  Args:
    config: the weights.
    prompts: the Q questions.
    scores: for Q questions and G samples {name: Score}; rewards that do not
      apply are absent.

  Returns:
    (parts, rewards_QG, valid_QG): parts maps a name to float32 [Q, G], 0 where
    invalid and NaN where the reward does not apply to the question; rewards_QG
    is the float32 sum; valid_QG is True where all rewards have a verdict.

  Raises:
    ValueError: a reward has no weight; no reward with a weight other than 0
      applies to a question; a reward applies to only some samples of a
      question; or questions have different numbers of samples.
  """
  if len({len(row) for row in scores}) > 1:
    raise ValueError(
        f"samples per question differ: {sorted({len(row) for row in scores})};"
        " give every question the same number")
  size = len(scores), len(scores[0]) if scores else 0
  parts = {name: np.full(size, np.nan, np.float32) for name in config.weights}
  rewards_QG, valid_QG = np.zeros(size, np.float32), np.ones(size, bool)
  for q, (prompt, row) in enumerate(zip(prompts, scores, strict=True)):
    for name in _applicable(config, prompt, row):
      # After a crash every rule is present, as invalid.
      values = [sample[name].value if sample[name].valid else 0.0
                for sample in row]
      parts[name][q] = values
      rewards_QG[q] += np.float32(config.weights[name]) * parts[name][q]
    valid_QG[q] = [all(s.valid for s in sample.values()) for sample in row]
  return parts, rewards_QG, valid_QG


def items(prompts: Sequence[Prompt], tails: Sequence[str],
          texts: Sequence[Sequence[str]]) -> list[tuple[Prompt, str, str]]:
  """The Q*G items for `runner.Pool.submit`, question by question.

  Args:
    prompts: the Q questions.
    tails: of each, the text after "assistant" that its template prefilled.
    texts: of each, G completions.
  """
  return [(prompt, tail, text)
          for prompt, tail, row in zip(prompts, tails, texts, strict=True)
          for text in row]


def scored(config: Combine, rollout: Rollout, prompts: Sequence[Prompt],
           texts: Sequence[Sequence[str]],
           scores: Sequence[Mapping[str, Score]]) -> Scored:
  """A rollout with its Q*G scores, which are in the order of `items`.

  The answers for majority votes are those of the rule "accuracy".

  Raises:
    ValueError: the counts do not match, or as `combine`.
  """
  if len(scores) != sum(len(row) for row in texts):
    raise ValueError(
        f"{len(scores)} verdicts for {sum(len(row) for row in texts)} texts;"
        " score every text once")
  remaining = iter(scores)
  rows = [[next(remaining) for _ in row] for row in texts]
  parts, rewards_QG, valid_QG = combine(config, prompts, rows)
  return Scored(
      rollout=rollout, prompts=tuple(prompts),
      texts=tuple(tuple(row) for row in texts), parts=parts,
      rewards_QG=rewards_QG, valid_QG=valid_QG,
      answers=tuple(tuple(map(_answer, row)) for row in rows),
      reasons=tuple(
          tuple({name: score.reason for name, score in sample.items()}
                for sample in row) for row in rows),
      measures=tuple(
          tuple({f"{name}/{part}": value for name, score in sample.items()
                 for part, value in score.parts.items()}
                for sample in row) for row in rows))


def _applicable(config: Combine, prompt: Prompt,
                row: Sequence[Mapping[str, Score]]) -> list[str]:
  """Names of the rules that apply to a question."""
  where = f"prompt {prompt.id} of domain {prompt.domain!r}"
  names = {name for sample in row for name in sample}
  if unknown := sorted(names - set(config.weights)):
    raise ValueError(
        f"{where}: scored rules {', '.join(unknown)} are not among the weighted"
        f" ones ({', '.join(config.weights)}); give each a weight (0 logs it)")
  for name in sorted(names):
    absent = [sample for sample in row if name not in sample]
    # After a deadline every rule is present, whether it applies or not.
    if absent and any(name in s and s[name].valid and s[name].reason != LATE
                      for s in row):
      raise ValueError(
          f"{where}: rule {name!r} applies to some samples only; whether a rule"
          " applies must depend on the prompt only")
    if absent:
      names.remove(name)
  if row and not any(config.weights[name] for name in names):
    raise ValueError(
        f"{where}: no rule with a weight applies; it needs a verifier, or a"
        f" reward model among {', '.join(config.weights)}")
  return [name for name in config.weights if name in names]


def _answer(sample: Mapping[str, Score]) -> str | None:
  return sample["accuracy"].answer if "accuracy" in sample else None


def _parse(text: str) -> dict[str, float]:
  """The mapping that "name:number,name:number" describes."""
  weights: dict[str, float] = {}
  for part in filter(None, map(str.strip, text.split(","))):
    name, colon, number = (piece.strip() for piece in part.partition(":"))
    try:
      value = float(number)
    except ValueError:
      value = math.nan
    check(bool(name and colon) and math.isfinite(value),
          f"weights={text!r}: {part!r} is not name:number; write e.g."
          " format:0.5,repetition:0.1")
    check(name not in weights, f"weights={text!r} names {name!r} twice")
    weights[name] = value
  return weights
