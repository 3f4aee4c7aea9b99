"""GPQA Diamond: 198 questions, 64 samples each in the paper."""

from __future__ import annotations

from r1jax.evals.benchmarks.benchmark import Benchmark

ALL = (
    Benchmark(
        name="gpqa_diamond", title="GPQA Diamond", source="gpqa",
        split="diamond", samples=64, level="subject",
        publisher="https://github.com/idavidrein/gpqa (dataset.zip; keep its"
        " rows offline)", paper=True),
)
