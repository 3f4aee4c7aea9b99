"""DROP: F1 of the answer's spans, 3-shot.

The examples are drawn for each question from the training file. Departures: the
paper uses the prompts of simple-evals, ours are worded differently; and where
simple-evals reads several spans as one text, they may be separated here, as the
publisher's evaluator allows.
"""

from __future__ import annotations

from collections.abc import Sequence

from r1jax.core.prompt import Prompt
from r1jax.evals.benchmarks import statistic
from r1jax.evals.benchmarks.benchmark import Benchmark
from r1jax.evals.benchmarks.statistic import Number, Row


def shown(prompt: Prompt) -> str:
  """An example's answer in the form that the question asks for."""
  return "Answer: " + " | ".join(prompt.reference["answers"][0])


def numbers(rows: Sequence[Row]) -> list[Number]:
  """F1, and the share of answers that equal a reference answer."""
  return [
      statistic.mean("F1", [statistic.correct(row) for row in rows]),
      statistic.measure("exact match", rows, "exact")]


ALL = (
    Benchmark(
        name="drop", title="DROP (3-shot F1)", source="drop", split="dev",
        shots=3, shots_split="train[:500]", shown=shown, numbers=numbers,
        publisher="https://huggingface.co/datasets/ucinlp/drop or"
        " https://ai2-public-datasets.s3.amazonaws.com/drop/drop_dataset.zip"
        " (drop_dataset_dev.json, drop_dataset_train.json)", paper=True),
)
