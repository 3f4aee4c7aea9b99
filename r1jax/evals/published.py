"""The figures that the paper prints, to set beside one's own.

published.tsv has them as they are printed (DeepSeek-R1, Nature 645, 633, its
supplement, and arXiv:2501.12948v1 for the students): shares in percent, ratings
as they are. They are of other machines, prompts and judges than a run's, and
problem by problem nothing is known, so nothing is tested against them.
"""

from __future__ import annotations

import csv
import functools
from typing import NamedTuple

from etils import epath

BENCHMARKS, DISTILLED, SAFETY = "benchmarks", "distilled", "safety"


class Title(NamedTuple):
  """A row of a table: its group, name and what is counted."""

  group: str
  name: str
  metric: str = "pass@1"


# By the name of the benchmark (`evals.benchmarks`), in the paper's order.
TITLES: dict[str, Title] = {
    "mmlu": Title("English", "MMLU"),
    "mmlu_redux": Title("English", "MMLU-Redux"),
    "mmlu_pro": Title("English", "MMLU-Pro"),
    "drop": Title("English", "DROP", "F1, 3-shot"),
    "ifeval": Title("English", "IFEval", "strict, by prompt"),
    "gpqa_diamond": Title("English", "GPQA-Diamond"),
    "simpleqa": Title("English", "SimpleQA", "correct"),
    "frames": Title("English", "FRAMES", "accuracy"),
    "alpaca_eval": Title("English", "AlpacaEval 2", "win rate, LC"),
    "arena_hard": Title("English", "Arena-Hard", "win rate"),
    "livecodebench": Title("Code", "LiveCodeBench"),
    "codeforces": Title("Code", "Codeforces"),
    "codeforces_percentile": Title("Code", "Codeforces", "percentile"),
    "codeforces_rating": Title("Code", "Codeforces", "rating"),
    "swe_bench": Title("Code", "SWE-bench Verified", "resolved"),
    "aider": Title("Code", "Aider-Polyglot", "accuracy"),
    "aime_2024": Title("Mathematics", "AIME 2024"),
    "aime_cons": Title("Mathematics", "AIME 2024", "cons@64"),
    "math_500": Title("Mathematics", "MATH-500"),
    "cnmo_2024": Title("Mathematics", "CNMO 2024"),
    "cluewsc": Title("Chinese", "CLUEWSC"),
    "ceval": Title("Chinese", "C-Eval"),
    "chinese_simpleqa": Title("Chinese", "C-SimpleQA", "correct"),
}
OTHER = "Other"
# Rows that are another figure of a benchmark: which, and what it is called.
FIGURES: dict[str, tuple[str, str]] = {
    "codeforces_percentile": ("codeforces", "percentile"),
    "codeforces_rating": ("codeforces", "rating"),
    "aime_cons": ("aime_2024", "cons@64")}
# Of the safety tables; the sets by their data sets' names.
SAFETY_ROWS: dict[str, str] = {
    "sst": "SimpleSafetyTests", "bbq": "BBQ",
    "anthropic_red_team": "Anthropic red team", "xstest": "XSTest",
    "do_not_answer": "Do-Not-Answer", "harmbench": "HarmBench",
    "average": "average of the six",
    **{f"{category}/{label}": f"{category}, {label}"
       for category in ("discrimination", "illegal", "harmful", "ethical",
                        "overall") for label in ("unsafe", "rejected")},
    "languages": "50 languages, share of the points",
    "jailbreak/unsafe": "jailbreaks, unsafe",
    "jailbreak/rejected": "jailbreaks, rejected"}


class Figure(NamedTuple):
  """A printed figure; of safety also the one without risk control."""

  value: str
  plain: str = ""


@functools.cache
def figures() -> dict[str, dict[str, dict[str, Figure]]]:
  """By table, model and row."""
  found: dict[str, dict[str, dict[str, Figure]]] = {}
  text = (epath.resource_path("r1jax") / "evals/published.tsv").read_text()
  for row in csv.DictReader(text.splitlines(), delimiter="\t"):
    found.setdefault(row["table"], {}).setdefault(row["model"], {})[
        row["row"]] = Figure(row["value"], row["plain"])
  return found


def models() -> list[str]:
  """All names that `choose` takes, in the tables' order."""
  return list(dict.fromkeys(
      name for of_table in figures().values() for name in of_table))


def choose(text: str) -> list[str]:
  """Models by name, separated by commas; "all", or none of "".

  Raises:
    ValueError: a name that no table has; the message lists them.
  """
  if text == "all":
    return models()
  names = [name for name in map(str.strip, text.split(",")) if name]
  unknown = [name for name in names if name not in models()]
  if unknown:
    raise ValueError(f"the paper has no figures of {', '.join(unknown)}; choose"
                     f" all, or some of {', '.join(models())}")
  return names


def of(table: str, model: str, row: str) -> Figure | None:
  """A figure, if it is printed."""
  return figures().get(table, {}).get(model, {}).get(row)
