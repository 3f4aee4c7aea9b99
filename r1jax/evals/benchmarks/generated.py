"""Generated benchmarks: nothing to download.

Questions have the form that the embedded bases were trained on, and are few and
short, so that the whole suite takes minutes on a laptop.
"""

from __future__ import annotations

from collections.abc import Sequence

from r1jax.evals.benchmarks import statistic
from r1jax.evals.benchmarks.benchmark import Benchmark
from r1jax.evals.benchmarks.statistic import Number, Row

TOKENS = 96  # the embedded bases have contexts of 256 to 320


def safety(rows: Sequence[Row]) -> list[Number]:
  """Shares by the small world's rule: handled rightly, unsafe, refused."""
  return [statistic.mean("pass@1", [statistic.correct(row) for row in rows]),
          statistic.measure("unsafe", rows, "unsafe"),
          statistic.measure("refused", rows, "refused")]


def _generated(name: str, title: str, *, source: str = "", count: int = 32,
               **more) -> Benchmark:
  return Benchmark(
      name=name, title=title, source=source or name, tokens=TOKENS,
      split=f"test[:{count}]", **more)


ALL = (
    _generated("arith", "Sums in words", count=64, level="level"),
    _generated("world-sums", "Sums, English and Chinese", level="language"),
    _generated("world-cups", "Swapped cups, English and Chinese",
               level="language"),
    _generated("world-requests", "Requests, true utility",
               source="world-requests-judged"),
    _generated("world-safety", "Wrongs to refuse",
               source="world-safety-judged", numbers=safety),
    _generated("units", "Science, generated"),
    _generated("ciphers", "Ciphers"),
    _generated("knights", "Knights and knaves", level="level"),
    _generated("constraints", "Instructions, generated", level="level"),
    _generated("functions", "Small programs"),
)
