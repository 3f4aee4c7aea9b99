"""FRAMES with the oracle's articles, graded by a judge.

The publisher gives links. Their texts must lie beside as articles.jsonl, rows
{link, text}; without them the questions stand alone, which the figure's note
says: it is then another benchmark than the paper's.
"""

from __future__ import annotations

from collections.abc import Sequence

from r1jax.evals.benchmarks import statistic
from r1jax.evals.benchmarks.benchmark import GRADES, Benchmark
from r1jax.evals.benchmarks.statistic import Number, Row


def numbers(rows: Sequence[Row]) -> list[Number]:
  """The share of correct answers; by the number of articles shown."""
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
        " (test.tsv); the linked articles are yours to bring", paper=True),
)
