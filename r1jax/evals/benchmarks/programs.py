"""Programs to write, repair or trace; right if every test passes in a sandbox.
"""

from __future__ import annotations

from r1jax.evals.benchmarks.benchmark import Benchmark

ALL = (
    Benchmark(
        name="humaneval", title="HumanEval", source="humaneval",
        publisher="https://github.com/openai/human-eval (data)"),
    Benchmark(
        name="mbpp", title="MBPP, sanitized", source="mbpp_sanitized",
        folder="mbpp",
        publisher="https://github.com/google-research/google-research (mbpp)"),
    Benchmark(
        name="humanevalfix", title="HumanEvalFix, Python",
        source="humanevalfix", level="bug_type",
        publisher="https://huggingface.co/datasets/bigcode/humanevalpack"
        " (data/python)"),
    Benchmark(
        name="quixbugs", title="QuixBugs, Python", source="quixbugs",
        publisher="https://github.com/jkoppel/QuixBugs"),
    Benchmark(
        name="code_contests", title="CodeContests", source="code_contests",
        publisher="https://github.com/google-deepmind/code_contests (as JSON"
        " Lines of problem and tests)"),
    Benchmark(
        name="cruxeval", title="CRUXEval, outputs", source="cruxeval",
        publisher="https://github.com/facebookresearch/cruxeval (data)"),
    Benchmark(
        name="cruxeval_input", title="CRUXEval, inputs",
        source="cruxeval_input", folder="cruxeval",
        publisher="https://github.com/facebookresearch/cruxeval (data)"),
)
