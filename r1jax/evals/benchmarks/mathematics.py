"""Mathematics: contests, MATH-500 by level, word problems.

The final answer is compared as an expression (`rewards.maths`). The paper draws
64 samples for AIME and 16 for MATH; for CNMO it gives no number.
"""

from __future__ import annotations

from r1jax.evals.benchmarks.benchmark import BOXED, BOXED_ZH, Benchmark

ALL = (
    Benchmark(
        name="aime_2024", title="AIME 2024", source="aime", folder="aime_2024",
        samples=64, wording=BOXED,
        publisher="https://huggingface.co/datasets/HuggingFaceH4/aime_2024 (as"
        " CSV or JSON Lines of problem and answer)", paper=True),
    Benchmark(
        name="aime_2025", title="AIME 2025", source="aime", folder="aime_2025",
        samples=64, wording=BOXED,
        publisher="https://huggingface.co/datasets/opencompass/AIME2025"
        " (aime2025-I.jsonl, aime2025-II.jsonl)"),
    Benchmark(
        name="math_500", title="MATH-500", source="math", folder="math_500",
        samples=16, wording=BOXED, level="level",
        publisher="https://huggingface.co/datasets/HuggingFaceH4/MATH-500"
        " (test.jsonl)", paper=True),
    Benchmark(
        name="cnmo_2024", title="CNMO 2024", source="cnmo", folder="cnmo_2024",
        samples=16, wording=BOXED_ZH,
        publisher="https://huggingface.co/datasets/opencompass/LiveMathBench"
        " (the Chinese CNMO split as JSON Lines)", paper=True),
    Benchmark(
        name="imo_answerbench", title="IMO-AnswerBench",
        source="imo_answerbench", wording=BOXED, level="category",
        publisher="https://github.com/google-deepmind/superhuman"
        " (imobench/answerbench.csv)"),
    Benchmark(
        name="gsm8k", title="GSM8K", source="gsm8k", wording=BOXED,
        publisher="https://github.com/openai/grade-school-math"
        " (grade_school_math/data)"),
    Benchmark(
        name="mgsm", title="MGSM", source="mgsm", wording=BOXED,
        level="language",
        publisher="https://github.com/google-research/url-nlp (mgsm)"),
    Benchmark(
        name="cmath", title="CMATH", source="cmath", split="dev",
        wording=BOXED_ZH, level="grade",
        publisher="https://github.com/XiaoMi/cmath"),
    Benchmark(
        name="cmath_distractor", title="CMATH, with distractors",
        source="cmath", split="distractor", wording=BOXED_ZH,
        level="distractor", publisher="https://github.com/XiaoMi/cmath"),
)
