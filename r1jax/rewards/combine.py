"""Rewards by name into one reward: the paper's equations as data."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence

import numpy as np

from r1jax.core.config import check
from r1jax.core.prompt import Prompt
from r1jax.core.types import Rollout, Scored
from r1jax.rewards.score import LATE, Score

# Rewards by name, each with its weight. A question gets those that apply to
# it: in stage 2 reasoning has a rule ("accuracy"), and a general question
# belongs either to the helpfulness or to the safety set.
EQUATIONS: dict[str, dict[str, float]] = {
    # Nature version, rule-based rewards: equal weight. Paper silent on sizes.
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
# An answer takes milliseconds; more children than this wait for their parent.
_MOST_CHILDREN = 16


@dataclasses.dataclass(frozen=True, kw_only=True)
class RewardConfig:
  """How completions are rewarded.

  Attributes:
    equation: what is rewarded: r1-zero (accuracy, format), r1-stage1 (and
      language) or r1-stage2 (and reward models), as in `EQUATIONS`.
    weights: names and weights that override or join those of the equation,
      e.g. "format:0.5,repetition:0.1"; weight 0 logs a part without rewarding
      it.
    workers: child processes that apply the rules, of each process of a run; 0:
      one a processor that it may use, where those of one machine share them,
      and 16 at most.
    deadline: seconds that all rules together may take on one completion.
    code: "all" rewards a program that passes every test, "fraction" the share
      of tests passed.
    extract: what is the final answer in mathematics: "box" takes a box or an
      `<answer>` element, "last" without these what the text states last, or its
      last number (some data sets always allow that). Evaluations of chat
      templates take "last" unless told; a policy that is trained on it need not
      say which of its numbers is the answer.
    format: "think-answer" is R1-Zero's grammar (a thought, then an `<answer>`
      element), "think" R1's (a thought, then a summary).
    language: "script" counts words by script, "detector" also tells apart the
      languages of one script (needs lingua-language-detector).
    helpful: the reward model of general prompts, orbax:WORKDIR of
      experiments.train_reward or hf:DIR; it is shown the summary.
    safety: that of prompts with metadata safety=True; it is shown thought and
      summary.
    model_rows: rows of a batch of a reward model.
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
          f"workers={self.workers}: give a number of processes, or 0")
    check(math.isfinite(self.deadline) and self.deadline > 0,
          f"deadline={self.deadline}: seconds must be positive")
    for name, known in (
        ("code", CODE), ("extract", EXTRACT), ("format", FORMAT),
        ("language", LANGUAGE)):
      check(getattr(self, name) in known, f"{name}={getattr(self, name)!r} is"
            f" not one of {', '.join(known)}")
    self.resolve()

  def resolve(self) -> Combine:
    """The weights.

    Raises:
      ValueError: `weights` is not a list of name:number.
    """
    return Combine(weights=EQUATIONS[self.equation] | _parse(self.weights))

  def children(self, share: int) -> int:
    """`workers`, or what 0 of them means for a process.

    Args:
      share: how many processors of its machine are for it.
    """
    return self.workers or min(share, _MOST_CHILDREN)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Combine:
  """How the parts add up.

  Attributes:
    weights: rule name to weight; the reward is the weighted sum. Weight 0 logs
      a part without rewarding it.
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
  """Adds the parts of each sample that apply to its question.

  Args:
    config: the weights.
    prompts: the Q questions.
    scores: Q questions of G samples, each {rule name: Score}; a name that is
      absent does not apply.

  Returns:
    parts (name to float32 [Q, G], 0 where invalid, NaN where the rule does not
    apply to the question), rewards_QG float32 (the weighted sum of the parts
    that apply) and valid_QG bool (all of them have a verdict).

  Raises:
    ValueError: a scored rule has no weight, no rule with a weight other than 0
      applies to a question, a rule applies to some samples of a question only,
      or the questions differ in their number of samples.
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
      # Where a crash cut the sample short, every rule is named and invalid.
      values = [sample[name].value if sample[name].valid else 0.0
                for sample in row]
      parts[name][q] = values
      rewards_QG[q] += np.float32(config.weights[name]) * parts[name][q]
    valid_QG[q] = [all(s.valid for s in sample.values()) for sample in row]
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

  The answers to vote on are those that the rule "accuracy" found.

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
    # Where time was up, every rule is named, whether it applies or not.
    if absent and any(name in s and s[name].valid and s[name].reason != LATE
                      for s in row):
      raise ValueError(
          f"{where}: rule {name!r} applies to some samples only; whether a rule"
          " applies may depend on the prompt alone")
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
  """"name:number,name:number" as a mapping."""
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
