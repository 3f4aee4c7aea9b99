"""Chinese multiple choice: C-Eval, CLUEWSC, SafetyBench.

C-Eval's test answers are not public, so the validation split is used, as is
common; the paper does not say which split it used.
"""

from __future__ import annotations

from r1jax.evals.benchmarks.benchmark import Benchmark

ALL = (
    Benchmark(
        name="ceval", title="C-Eval", source="ceval", split="val",
        level="subject", publisher="https://huggingface.co/datasets/ceval/"
        "ceval-exam (ceval-exam.zip)", paper=True),
    Benchmark(
        name="cluewsc", title="CLUEWSC", source="cluewsc", split="dev",
        publisher="https://github.com/CLUEbenchmark/CLUEWSC2020"
        " (dev.json)", paper=True),
    Benchmark(
        name="safetybench", title="SafetyBench (zh)", source="safetybench",
        folder="safetybench_zh", level="subject",
        publisher="https://github.com/thu-coai/SafetyBench"),
)
