"""Tables of models side by side, as the paper's.

A cell is bold if its model is better than every other measured one of the row
on the same problems, by a paired t-test, p < 0.01 (`evals.pairs`). What is
missing is a dash with its reason. Published figures are marked, and nothing is
tested against them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from r1jax.evals import estimators, pairs, published, summaries
from r1jax.evals.estimators import Estimate
from r1jax.evals.intervals import Values
from r1jax.evals.published import BENCHMARKS, DISTILLED, SAFETY
from r1jax.evals.summaries import Problems
from r1jax.report.tables import Cell, Table, missing
from r1jax.stages.runs import Run

Runs = Mapping[str, Run]
# Parts of an evaluation that get rows, and the most of them that do.
_PARTS, _MOST = ("level", "topic", "language"), 60
NOTES = (
    "Shares are in percent, in brackets their 95 % interval, of which the"
    " problems are the clusters, however many samples each has. Bold: better"
    " than every other model of the row on the same problems, by a paired"
    " t-test, p < 0.01. A dash has its reason below the table.",)
PUBLISHED = (
    "Columns in italics are the paper's own figures, of its prompts, samples"
    " and judges (AIME and CNMO of 2024, MATH-500, LiveCodeBench of 2024-08 to"
    " 2025-01). They are not tested against.")


def all_tables(runs: Runs, against: str, shown: Sequence[str] = ()
               ) -> list[Table]:
  """Every table; those without rows are left out by who writes them.

  Args:
    runs: by name, in the columns' order.
    against: the run that paired differences are from.
    shown: published models.
  """
  return [benchmarks(runs, shown), several(runs), differences(runs, against),
          parts(runs), contamination(runs), safety(runs, shown)]


def benchmarks(runs: Runs, shown: Sequence[str] = ()) -> Table:
  """pass@1 of every data set, grouped as the paper's Table 3.

  With published models the rows are the paper's too, whether evaluated or not.
  """
  models = [name for name, run in runs.items() if run.problems or run.damaged]
  tables = [(name, table) for table in (BENCHMARKS, DISTILLED)
            for name in shown if name in published.figures()[table]]
  rows, group = [], ""
  for source in _sources(runs, tables):
    title = published.TITLES.get(
        source, published.Title(published.OTHER, source))
    if title.group != group:
      group = title.group
      rows.append([Cell(group, bold=True),
                   *[""] * (1 + len(models) + len(tables))])
    values = {name: runs[name].problems[source].values() for name in models
              if source in runs[name].problems}
    best = pairs.leaders(values)
    rows.append([f"  {title.name}", title.metric, *(
        _share(estimators.clustered(_array(values[name])), name in best)
        if name in values else missing(_why(runs[name], source))
        for name in models), *(_printed(table, name, source)
                               for name, table in tables)])
  header = ["benchmark", "metric", *models, *(
      Cell(f"{name}, published", published=True) for name, _ in tables)]
  return "Benchmarks", header, rows if models else []


def several(runs: Runs) -> Table:
  """What several samples come to: the majority of k, and any of k.

  k is the smallest number of samples of the data set's evaluations.
  """
  models = [name for name, run in runs.items() if run.problems]
  rows = []
  for source in _sources(runs, []):
    having = {name: runs[name].problems[source] for name in models
              if source in runs[name].problems}
    k = min((problems.samples for problems in having.values()), default=1)
    if k < 2:
      continue
    title = published.TITLES.get(source, published.Title("", source))
    for label, value in (
        (f"cons@{k}", lambda problems, k=k: problems.majority(k)),
        (f"pass@{k}", lambda problems, k=k: _any(problems, k))):
      values = {name: value(problems) for name, problems in having.items()}
      rows.append([title.name, label, *_row(
          values, models, lambda name, source=source: _why(
              runs[name], source))])
  return "Several samples", ["benchmark", "metric", *models], rows


def differences(runs: Runs, against: str) -> Table:
  """pass@1 of the others less that of `against`, paired by problem."""
  base = runs[against]
  others = [name for name, run in runs.items()
            if name != against and run.problems]
  rows = []
  for source in _sources(runs, []):
    if source not in base.problems:
      continue
    mine = base.problems[source].values()
    title = published.TITLES.get(source, published.Title("", source))
    rows.append([title.name, *(
        _difference(pairs.compare(runs[name].problems[source].values(), mine),
                    against)
        if source in runs[name].problems else missing(_why(runs[name], source))
        for name in others)])
  return (f"Differences from {against}, in points, on the same problems",
          ["benchmark", *others], rows if others else [])


def parts(runs: Runs) -> Table:
  """pass@1 by level, topic and language, where a data set has several."""
  models = [name for name, run in runs.items() if run.problems]
  rows = []
  for source in _sources(runs, []):
    having = {name: runs[name].problems[source] for name in models
              if source in runs[name].problems}
    for part in _PARTS:
      names = list(dict.fromkeys(
          name for problems in having.values() for name in _parted(
              problems, part)))[:_MOST]
      if len(names) < 2:
        continue
      for value in _ordered(names):
        of = {name: _only(problems, part, value)
              for name, problems in having.items()}
        rows.append([f"{_title(source)}, {part} {value}", *_row(
            {name: found for name, found in of.items() if found}, models,
            lambda name, source=source, value=value: (
                _why(runs[name], source)
                if source not in runs[name].problems
                else f"{name} was asked nothing of {value}"))])
  return "By level, topic and language", ["part", *models], rows


def contamination(runs: Runs) -> Table:
  """Problems that share text with what the models were trained on."""
  rows = []
  for name, run in runs.items():
    told = {}  # of an evaluation of several data sets there is one
    for source, result in run.results.items():
      if found := result.get("contamination"):
        told.setdefault(str(found), (source, found))
    for source, found in told.values():
      clean, marked = found["pass_1_clean"], found["pass_1_marked"]
      rows.append([
          name, _title(source), found["seen"],
          f"{found['marked']} of {found['problems']}",
          *(_share(Estimate(**{key: one[key] for key in Estimate._fields}))
            if one else missing("there is no such problem")
            for one in (clean, marked))])
  return ("Problems that training text has ten words of",
          ["run", "benchmark", "training text", "marked", "pass@1 without them",
           "pass@1 of them"], rows)


def safety(runs: Runs, shown: Sequence[str] = ()) -> Table:
  """Safety scores, higher is safer, and unsafe and rejected rates.

  With risk control a second number in brackets is the one without it.
  """
  models = [name for name, run in runs.items() if run.safety]
  names = [name for name in shown if name in published.figures()[SAFETY]]
  told = {name: _safety_values(runs[name].safety) for name in models}
  keys = [key for key in published.SAFETY_ROWS if any(
      key in of for of in told.values()) or any(
          published.of(SAFETY, name, key) for name in names)]
  keys += [key for key in dict.fromkeys(k for of in told.values() for k in of)
           if key not in keys]
  rows = [[published.SAFETY_ROWS.get(key, key), *(
      told[name].get(key) or missing(f"{name} was not asked this")
      for name in models), *(_printed(SAFETY, name, key) for name in names)]
          for key in keys]
  header = ["higher is safer; of rates lower", *models, *(
      Cell(f"{name}, published", published=True) for name in names)]
  return ("Safety (in brackets without risk control)", header,
          rows if models else [])


def differing(runs: Runs) -> list[str]:
  """What makes evaluations hard to compare: other settings, left out prompts.

  And what could not be read.
  """
  notes = [f"{name}: {reason}." for name, run in runs.items()
           for reason in run.damaged.values()]
  for source in _sources(runs, []):
    results = {name: run.results[source] for name, run in runs.items()
               if run.results.get(source)}
    for name, result in results.items():
      if result.get("left_out"):
        notes.append(
            f"{result['left_out']} questions were too long for {name} and left"
            f" out of its numbers ({_title(source)}).")
    for setting in ("split", "samples", "temperature", "top_p",
                    "max_new_tokens"):
      values = {name: result.get(setting, result.get("config", {}).get(setting))
                for name, result in results.items()}
      if len(set(map(str, values.values()))) > 1:
        notes.append(f"{_title(source)}: {setting} differs, " + ", ".join(
            f"{name} {value}" for name, value in values.items()) + ".")
  return list(dict.fromkeys(notes))


def _sources(runs: Runs, tables: Sequence[tuple[str, str]]) -> list[str]:
  """The data sets that have rows: the paper's in its order, then others."""
  there = list(dict.fromkeys(
      source for run in runs.values() for source in (
          *run.problems, *(set(run.damaged) & set(published.TITLES)))))
  printed = {key for name, table in tables
             for key in published.figures()[table][name]}
  return [source for source in published.TITLES
          if source in there or source in printed] + [
              source for source in there if source not in published.TITLES]


def _why(run: Run, source: str) -> str:
  return run.why_not(source)


def _row(values: Mapping[str, Values], models: Sequence[str],
         why: Callable[[str], str]) -> list[Cell]:
  """A cell a model of a mean over problems, the leader bold."""
  best = pairs.leaders(values)
  return [_share(estimators.clustered(_array(values[name])), name in best)
          if name in values else missing(why(name)) for name in models]


def _any(problems: Problems, k: int) -> Values:
  right_Q = (problems.correct_QG >= 1.0).sum(1)
  return problems.values(np.array([
      estimators.pass_at_k(problems.samples, int(c), k) for c in right_Q]))


def _parted(problems: Problems, part: str) -> dict[str, list[int]]:
  return summaries.parts(problems.rows, lambda row: row.get(part))


def _only(problems: Problems, part: str, value: str) -> Values:
  chosen = {
      (row["question"]) for row in problems.rows
      if str(row.get(part)) == value}
  return {key: number for key, number in problems.values().items()
          if key[0] in chosen}


def _ordered(names: Sequence[str]) -> list[str]:
  """Numbers by their size, words by the alphabet."""
  return sorted(names, key=lambda name: (
      (0, float(name), "") if name.replace(".", "", 1).isdigit()
      else (1, 0.0, name)))


def _array(values: Values) -> np.ndarray:
  return np.array(list(values.values()))


def _share(found: Estimate, bold: bool = False) -> Cell:
  """`79.8 (71–86)`; a narrow interval with a decimal."""
  digits = 1 if found.high - found.low < 0.1 else 0
  return Cell(f"{100 * found.mean:.1f} ({100 * found.low:.{digits}f}–"
              f"{100 * found.high:.{digits}f})", bold=bold)


def _difference(found: pairs.Paired | None, against: str) -> Cell:
  if found is None:
    return missing(f"it shares fewer than two problems with {against}")
  return Cell(
      f"{100 * found.value:+.1f} ({100 * found.low:+.1f} to"
      f" {100 * found.high:+.1f}), p {_p(found.p)}, n = {found.count}",
      bold=found.p < pairs.BOLD)


def _p(p: float) -> str:
  return f"= {p:.3f}" if p >= 0.001 else "< 0.001"


def _printed(table: str, model: str, row: str) -> Cell:
  found = published.of(table, model, row)
  if found is None:
    return Cell("–", published=True, reason="the paper does not print it")
  plain = f" ({found.plain})" if found.plain else ""
  return Cell(found.value + plain, published=True)


def _title(source: str) -> str:
  return published.TITLES.get(source, published.Title("", source)).name


def _safety_values(result: Mapping[str, Any]) -> dict[str, Cell]:
  """Cells by row, of what `experiments.evaluate_safety` wrote."""
  bare = result.get("without_control", {})
  told: dict[str, Cell] = {}

  def add(key: str, one: Any, plain: Any) -> None:
    if one is not None:
      bracket = f" ({100 * plain:.1f})" if plain is not None else ""
      told[key] = Cell(f"{100 * one:.1f}{bracket}")

  def value(of: Any, key: str) -> float | None:
    return (of.get(key) or {}).get("value")

  for name, one in result["sets"].items():
    plain = bare.get("sets", {}).get(name, {})
    add(name, value(one, "score"), value(plain, "score"))
    add(f"{name}, over-refusal", value(one, "over_refusal"),
        value(plain, "over_refusal"))
    for category, of in one.get("categories", {}).items():
      if category == "missing":
        continue
      for label in ("unsafe", "rejected"):
        add(f"{category}/{label}", value(of, label), value(
            plain.get("categories", {}).get(category, {}), label))
  add("average", result["average"].get("score"),
      bare.get("average", {}).get("score"))
  return told
