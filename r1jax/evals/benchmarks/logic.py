"""Logic and puzzles that rules judge."""

from __future__ import annotations

from r1jax.evals.benchmarks.benchmark import Benchmark

ALL = (
    Benchmark(
        name="bbh", title="BIG-Bench Hard", source="bbh", level="task",
        publisher="https://github.com/suzgunmirac/BIG-Bench-Hard (bbh)"),
    Benchmark(
        name="logicbench", title="LogicBench", source="logicbench",
        folder="logicbench_eval", level="logic",
        publisher="https://github.com/Mihir3009/LogicBench"
        " (data/LogicBench(Eval))"),
    Benchmark(
        name="game24", title="Game of 24", source="game24",
        publisher="https://github.com/princeton-nlp/tree-of-thought-llm"
        " (src/tot/data/24)"),
)
