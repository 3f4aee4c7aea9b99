"""All benchmarks by name, and suites of them.

Of the paper's list SWE-bench Verified and Aider-Polyglot are missing: they need
an agent that edits repositories, which this project does not have.
"""

from __future__ import annotations

from r1jax.core.config import check
from r1jax.evals.benchmarks import (
  alpaca_eval,
  arena_hard,
  chinese,
  codeforces,
  drop,
  frames,
  generated,
  gpqa,
  ifeval,
  livecodebench,
  logic,
  mathematics,
  mmlu,
  programs,
  simpleqa,
)
from r1jax.evals.benchmarks.benchmark import Benchmark

_FAMILIES = (
    mmlu, drop, ifeval, gpqa, simpleqa, frames, alpaca_eval, arena_hard,
    livecodebench, codeforces, mathematics, chinese, programs, logic, generated)

BENCHMARKS: dict[str, Benchmark] = {
    one.name: one for family in _FAMILIES for one in family.ALL}

SUITES: dict[str, tuple[str, ...]] = {
    "paper": tuple(one.name for one in BENCHMARKS.values() if one.paper),
    "quick": tuple(one.name for one in generated.ALL),
    # Sets under MIT, Apache-2.0 or CC BY, which may be redistributed.
    "shared": (
        "gsm8k", "mgsm", "cmath", "cmath_distractor", "imo_answerbench",
        "mmlu_stem", "mmlu_redux", "ifeval", "bbh", "logicbench", "game24",
        "cruxeval", "cruxeval_input", "humaneval", "mbpp", "humanevalfix",
        "quixbugs", "code_contests", "safetybench", "arena_hard", "mt_bench"),
}


def named(text: str) -> list[Benchmark]:
  """The benchmarks of a comma-separated list of suites and benchmarks.

  Raises:
    ValueError: a name is neither a suite nor a benchmark, or there is none.
  """
  names: dict[str, None] = {}
  for name in filter(None, map(str.strip, text.split(","))):
    check(name in SUITES or name in BENCHMARKS, f"suite={name!r} is neither a"
          f" suite ({', '.join(SUITES)}) nor a benchmark"
          f" ({', '.join(BENCHMARKS)})")
    names |= dict.fromkeys(SUITES.get(name, (name,)))
  check(bool(names), f"suite={text!r} names nothing")
  return [BENCHMARKS[name] for name in names]
