"""The paper's published figures, to show beside those of a run.

published.tsv has them as printed (DeepSeek-R1, Nature 645, 633, its supplement,
and arXiv:2501.12948v1 for the distilled models): shares in percent, ratings as
they are. Prompts and judges differ from ours and results by problem are not
published, so no significance test is made against them.
"""

from __future__ import annotations

import csv
import functools
from typing import NamedTuple

from etils import epath

BENCHMARKS, DISTILLED, SAFETY = "benchmarks", "distilled", "safety"


class Title(NamedTuple):
  """A table row: its group, its name, its metric."""

  group: str
  name: str
  metric: str = "pass@1"


# By name of the benchmark (`evals.benchmarks`), in the paper's order.
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
# Rows with a further figure of a benchmark: (benchmark, name of the figure).
FIGURES: dict[str, tuple[str, str]] = {
    "codeforces_percentile": ("codeforces", "percentile"),
    "codeforces_rating": ("codeforces", "rating"),
    "aime_cons": ("aime_2024", "cons@64")}
# Rows of the safety tables; sets are named as their data sets.
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
  """A printed figure; in safety tables `plain` is that without risk control."""

  value: str
  plain: str = ""


@functools.cache
def figures() -> dict[str, dict[str, dict[str, Figure]]]:
  """All figures by table, model and row."""
  found: dict[str, dict[str, dict[str, Figure]]] = {}
  text = (epath.resource_path("r1jax") / "evals/published.tsv").read_text()
  for row in csv.DictReader(text.splitlines(), delimiter="\t"):
    found.setdefault(row["table"], {}).setdefault(row["model"], {})[
        row["row"]] = Figure(row["value"], row["plain"])
  return found


def models() -> list[str]:
  """All model names that `choose` accepts, in the tables' order."""
  return list(dict.fromkeys(
      name for of_table in figures().values() for name in of_table))


def choose(text: str) -> list[str]:
  """The models of a comma-separated list; "all" are all, "" is none.

  Raises:
    ValueError: a name is in no table; the message lists the names.
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
  """The figure in a table, or None if the paper does not print it."""
  return figures().get(table, {}).get(model, {}).get(row)
