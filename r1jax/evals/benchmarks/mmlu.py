"""MMLU, its corrected version MMLU-Redux, MMLU-Pro, MMLU-STEM.

All are zero-shot, as in the paper, and judged by the final letter
(`rewards.answers.choice`). Departures: MMLU-Redux is asked like the others, not
with Zero-Eval's JSON format; wordings are ours.
"""

from __future__ import annotations

from r1jax.evals.benchmarks.benchmark import Benchmark

ALL = (
    Benchmark(
        name="mmlu", title="MMLU", source="mmlu", level="subject",
        publisher="https://people.eecs.berkeley.edu/~hendrycks/data.tar",
        paper=True),
    Benchmark(
        name="mmlu_redux", title="MMLU-Redux", source="mmlu_redux",
        level="subject", publisher="https://github.com/aryopg/mmlu-redux",
        paper=True),
    Benchmark(
        name="mmlu_pro", title="MMLU-Pro", source="mmlu_pro", level="subject",
        publisher="https://huggingface.co/datasets/TIGER-Lab/MMLU-Pro (data/)",
        paper=True),
    Benchmark(
        name="mmlu_stem", title="MMLU-STEM", source="mmlu_stem",
        level="subject",
        publisher="https://github.com/QwenLM/Qwen2.5-Math"
        " (evaluation/data/mmlu_stem)"),
)
