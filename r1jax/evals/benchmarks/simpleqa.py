"""SimpleQA and Chinese SimpleQA: short facts, graded by a judge.

A judge says correct, incorrect or not attempted. Departures: the judge's prompt
is ours; a reply in another form is counted as a missing verdict, where the
publisher takes it for "not attempted".
"""

from __future__ import annotations

from collections.abc import Sequence

from r1jax.evals.benchmarks import statistic
from r1jax.evals.benchmarks.benchmark import ATTEMPTS, Benchmark
from r1jax.evals.benchmarks.statistic import Number, Row
from r1jax.rewards import judge


def numbers(rows: Sequence[Row]) -> list[Number]:
  """Shares correct, not attempted, correct of attempted; F; missing verdicts.

  F is the harmonic mean of the shares of correct answers among all and among
  those attempted (arXiv:2411.04368).
  """
  right = statistic.mean("correct", [row["parts"]["accuracy"] for row in rows],
                         [row["valid"] for row in rows])
  silent = statistic.reasons("not attempted", rows, judge.ATTEMPTED)
  given, f = None, None
  if right.value is not None:
    tried = 1 - silent.value
    given = right.value / tried if tried else 0.0
    total = given + right.value
    f = 2 * given * right.value / total if total else 0.0
  return [
      right, silent, Number("correct of attempted", given, count=right.count),
      Number("F", f, count=right.count), statistic.missing(rows)]


ALL = (
    Benchmark(
        name="simpleqa", title="SimpleQA", source="simpleqa", scorer=ATTEMPTS,
        numbers=numbers,
        publisher="https://openaipublic.blob.core.windows.net/simple-evals/"
        "simple_qa_test_set.csv", paper=True),
    Benchmark(
        name="chinese_simpleqa", title="C-SimpleQA", source="chinese_simpleqa",
        scorer=ATTEMPTS, numbers=numbers,
        publisher="https://huggingface.co/datasets/OpenStellarTeam/"
        "Chinese-SimpleQA (chinese_simpleqa.jsonl)", paper=True),
)
