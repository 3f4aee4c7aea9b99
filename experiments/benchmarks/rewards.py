"""Times and fuzzes the reward runner.

  python -m experiments.benchmarks.rewards --json
  python -m experiments.benchmarks.rewards --fuzz=10000 --json
  python -m experiments.benchmarks.rewards --mutate=30000 --golds=DIR --json

  choice_items_s  multiple-choice answers judged per second, format included
  math_items_s    mathematical answers judged per second, format included: a
                  third equal numbers, a third equal expressions in another
                  form, a third wrong; all different
  programs_s      one-line programs judged per second, each in its own sandbox
  --fuzz          random and mutated completions, each judged by every verifier
                  and every other rule, in child processes. Counted: verdicts,
                  exceptions and crashes, deadlines, values out of range, other
                  invalid verdicts (with reasons), and the slowest batch.
  --mutate        references of mathematics, changed a little (`mutations`): how
                  many of the mutants are accepted, and which.
"""

from __future__ import annotations

import collections
import itertools
import json
import os
import pathlib
import random
import time
from collections.abc import Iterator
from typing import Any

from absl import flags

from r1jax.core.config import check
from r1jax.core.prompt import Prompt, ask
from r1jax.report import tables
from r1jax.rewards import format, rules
from r1jax.rewards.pool.runner import Item, Pool
from r1jax.rewards.programs import sandbox

from .. import start
from . import completions, mutations
from .output import JSON

WORKERS = flags.DEFINE_integer("workers", 2, "Child processes.", lower_bound=1)
CHOICES = flags.DEFINE_integer(
    "choices", 100_000, "Multiple-choice answers to time.")
MATHS = flags.DEFINE_integer(
    "maths", 3_000, "Mathematical answers to time.")
PROGRAMS = flags.DEFINE_integer(
    "programs", 900, "Programs to time; 0 if there is no sandbox.")
FUZZ = flags.DEFINE_integer(
    "fuzz", 0, "Number of fuzzed completions to judge; 0 to time instead.")
MUTATE = flags.DEFINE_integer(
    "mutate", 0, "Number of changed references to judge; 0 to time instead.")
GOLDS = flags.DEFINE_string(
    "golds", "", "For --mutate: folder of the data sets whose references are"
    " changed, in folders gsm8k, cmath and imo_answerbench.")
SEED = flags.DEFINE_integer("seed", 0, "Seed of --fuzz and --mutate.")

FUZZED = rules.RULES | {"think": format.think}
_BATCH = 500  # completions submitted at once


def fuzz(count: int, seed: int, workers: int) -> dict[str, Any]:
  """Judges `count` completions; counts verdicts and faults, see the module."""
  prompts = [[completions.prompt(i, language)
              for i in range(len(completions.CASES))]
             for language in completions.LANGUAGES]
  counts = collections.Counter(
      {name: 0 for name in ("verdicts", "exceptions", "deadlines",
                            "out_of_range", "other_invalid", "rewarded")})
  reasons: collections.Counter[str] = collections.Counter()
  slowest = 0.0
  began = time.perf_counter()
  with Pool(FUZZED, workers=workers) as pool:
    for first in range(0, count, _BATCH):
      items: list[Item] = []
      for at in range(first, min(count, first + _BATCH)):
        text = completions.completion(random.Random(f"{seed}:{at}"))
        items += [(one, "", text) for one in prompts[at % len(prompts)]]
      before = time.perf_counter()
      for (asked, _, text), scores in zip(items, pool.submit(items).result()):
        for name, score in scores.items():
          fault = completions.judged(name, score)
          counts["verdicts"] += 1
          counts["rewarded"] += name == "accuracy" and score.value > 0
          if fault:
            counts[fault] += 1
            # By verifier, not by rule: a deadline hits all rules of an item.
            reasons[f"{asked.verifier}: {score.reason} <- {text!r:.120}"] += 1
      slowest = max(slowest, time.perf_counter() - before)
  return {"completions": count, **counts, "slowest_batch_s": slowest,
          "seconds": time.perf_counter() - began,
          "reasons": [reason for reason, _ in reasons.most_common(20)]}


def rate(items: Iterator[Item], count: int, workers: int) -> float:
  """Items judged per second, after a warm-up; two thirds must be right."""
  chosen = list(itertools.islice(items, count))
  with Pool({n: rules.RULES[n] for n in ("accuracy", "format")},
            workers=workers) as pool:
    pool.submit(chosen[:200]).result()
    before = time.perf_counter()
    scores = pool.submit(chosen).result()
    seconds = time.perf_counter() - before
  right = sum(score["accuracy"].value for score in scores) / count
  if not 0.6 < right < 0.7:  # else wrong verdicts were timed
    raise ValueError(f"{right:.3f} of the answers were judged right, not 2/3")
  return count / seconds


def _answered(prompt: Prompt, answer: str) -> Item:
  return (prompt, "", "<think> Let us see which one it can be. </think>"
          f" <answer> {answer} </answer>")


def choices() -> Iterator[Item]:
  """Multiple choice, 16 completions per question, two thirds right."""
  for i in itertools.count():
    asked = Prompt(
        id=i, domain="stem", source="", messages=ask("Which metal is it?"),
        reference={"answer": "B", "options": {
            "A": f"iron {i}", "B": f"gold {i}", "C": "tin", "D": "lead"}},
        verifier="choice")
    for sample in range(16):
      letter = "BBD"[sample % 3]
      yield _answered(asked, (f"The answer is ({letter}).", letter,
                              f"\\boxed{{{letter}}}")[sample // 3 % 3])


def maths() -> Iterator[Item]:
  """Equal numbers, equal expressions in another form, wrong expressions."""
  for i in itertools.count(2):
    for gold, answer in (
        (str(i), f"{i}.0"),
        (rf"{i}\sqrt{{3}}+x^2", rf"x^2+\sqrt{{{3 * i * i}}}"),
        (rf"\frac{{{i}}}{{7}}+y", rf"y+\frac{{{i + 1}}}{{7}}")):
      yield _answered(
          Prompt(id=i, domain="math", source="", messages=ask("How many?"),
                 reference=gold, verifier="math"),
          rf"\boxed{{{answer}}}")


def programs() -> Iterator[Item]:
  """Programs with one test, two thirds right."""
  for i in itertools.count():
    asked = Prompt(
        id=i, domain="code", source="", messages=ask("Add to the number."),
        reference={"kind": "stdin", "inputs": ["2"], "outputs": [str(2 + i)]},
        verifier="code")
    for line in (f"print(int(input()) + {i})", f"print({i} + int(input()))",
                 f"print(int(input()) - {i + 1})"):
      yield _answered(asked, f"\n```python\n{line}\n```\n")


def main() -> None:
  cores = (len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity")
           else os.cpu_count())
  measures: dict[str, Any] = {"cores": cores, "workers": WORKERS.value}
  if MUTATE.value:
    check(bool(GOLDS.value), "--mutate needs --golds=DIR")
    measures |= mutations.fuzz(
        pathlib.Path(GOLDS.value), MUTATE.value, SEED.value)
  elif FUZZ.value:
    measures |= fuzz(FUZZ.value, SEED.value, WORKERS.value)
  else:
    measures |= {
        "choice_items_s": rate(choices(), CHOICES.value, WORKERS.value),
        "math_items_s": rate(maths(), MATHS.value, WORKERS.value)}
    if PROGRAMS.value:
      sandbox.check()
      measures["programs_s"] = rate(programs(), PROGRAMS.value, WORKERS.value)
  measures["load_average"] = os.getloadavg()[0]
  measures = {k: round(v, 2) if isinstance(v, float) else v
              for k, v in measures.items()}
  if JSON.value:
    print(json.dumps(measures, ensure_ascii=True), flush=True)
    return
  print(tables.render(["measure", "value"],
                      [[k, str(v)] for k, v in measures.items()]), flush=True)


if __name__ == "__main__":
  start.run(main)
