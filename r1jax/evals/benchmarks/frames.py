"""FRAMES with the oracle's articles in the prompt, graded by a judge.

The publisher only links to the articles. Their texts must be provided beside
the questions as articles.jsonl, with rows {link, text}. Without them the
questions are asked alone, a different benchmark from the paper's, which the
figure's note says.
"""

from __future__ import annotations

from collections.abc import Sequence

from r1jax.evals.benchmarks import statistic
from r1jax.evals.benchmarks.benchmark import GRADES, Benchmark
from r1jax.evals.benchmarks.statistic import Number, Row


def numbers(rows: Sequence[Row]) -> list[Number]:
  """The share of correct answers, also by the number of articles shown."""
  found = statistic.judged(rows)
  if all(row.get("level") == 0 for row in rows):
    found[0] = found[0]._replace(
        note=f"without articles {found[0].note}".strip())
  return found


ALL = (
    Benchmark(
        name="frames", title="FRAMES", source="frames", scorer=GRADES,
        numbers=numbers, level="articles",
        publisher="https://huggingface.co/datasets/google/frames-benchmark"
        " (test.tsv); you must provide the linked articles", paper=True),
)
