"""IFEval: instructions that a program can check, strictly and loosely.

The paper reports the strict figure by prompt. The checks are our own, and
stricter than the publisher's where those can be circumvented
(`rewards.instructions` names each departure).
"""

from __future__ import annotations

from collections.abc import Sequence

from r1jax.evals.benchmarks import statistic
from r1jax.evals.benchmarks.benchmark import Benchmark
from r1jax.evals.benchmarks.statistic import Number, Row
from r1jax.rewards import instructions


def numbers(rows: Sequence[Row]) -> list[Number]:
  """Shares of prompts with all instructions followed, and of instructions.

  By instruction, every instruction counts once, so a prompt's share is weighted
  by its number of instructions.
  """
  strict = [statistic.correct(row) for row in rows]
  return [
      statistic.mean("prompts, strict", strict),
      _instructions("instructions, strict", rows, "followed"),
      statistic.mean("prompts, loose", [
          [float(share >= 1) for share in _shares(row, "loose")]
          for row in rows]),
      _instructions("instructions, loose", rows, "loose")]


def _instructions(name: str, rows: Sequence[Row], key: str) -> Number:
  """The mean over instructions, with an interval clustered by prompt."""
  counts = [max(_counts(row)) for row in rows]
  shares = [sum(_shares(row, key)) / len(_shares(row, key)) for row in rows]
  return statistic.weighted(name, shares, counts)


def _shares(row: Row, key: str) -> list[float]:
  return [valid * sample.get(f"accuracy/{key}", 0.0) for sample, valid in zip(
      row["measures"], row["valid"], strict=True)]


def _counts(row: Row) -> list[float]:
  return [sample.get("accuracy/instructions", 1.0)
          for sample in row["measures"]]


ALL = (
    Benchmark(
        name="ifeval", title="IFEval", source="ifeval", numbers=numbers,
        rules={"instructions": instructions.strict_and_loose},
        publisher="https://github.com/google-research/google-research"
        " (instruction_following_eval/data/input_data.jsonl)", paper=True),
)
