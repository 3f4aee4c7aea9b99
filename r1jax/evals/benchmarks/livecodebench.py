"""LiveCodeBench: contest programs, easy, medium and hard, by date.

The paper uses contests of August 2024 to January 2025, with 8 samples a problem
(A2 D.1).
"""

from __future__ import annotations

from r1jax.core.prompt import Prompt
from r1jax.evals.benchmarks.benchmark import Benchmark

FIRST, LAST = "2024-08", "2025-01"  # months of the contests
_PUBLISHER = ("https://huggingface.co/datasets/livecodebench/"
              "code_generation_lite (test.jsonl to test5.jsonl)")


def in_window(prompt: Prompt) -> bool:
  """Whether a problem's contest was in the paper's months."""
  return FIRST <= str(prompt.metadata.get("contest_date", ""))[:7] <= LAST


ALL = (
    Benchmark(
        name="livecodebench", title="LiveCodeBench (2024-08 to 2025-01)",
        source="livecodebench", samples=8, level="difficulty",
        selected=in_window, publisher=_PUBLISHER, paper=True),
    Benchmark(
        name="livecodebench_all", title="LiveCodeBench, all dates",
        source="livecodebench", folder="livecodebench", samples=8,
        level="difficulty", publisher=_PUBLISHER),
)
