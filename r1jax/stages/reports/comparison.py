"""Tables that compare models, in the form of the paper's.

A cell is bold if its model is better than every other evaluated model of the
row on the same problems, by a paired t-test with p < 0.01 (`evals.pairs`). A
missing figure is a dash with its reason. Published figures are marked and not
tested against.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from r1jax.evals import estimators, pairs, published, scaling, summaries
from r1jax.evals.estimators import Estimate
from r1jax.evals.intervals import Values
from r1jax.evals.published import BENCHMARKS, DISTILLED, SAFETY
from r1jax.evals.summaries import Problems
from r1jax.report.tables import Cell, Table, missing
from r1jax.stages.reports.runs import Run

Runs = Mapping[str, Run]
# Parts of an evaluation that get rows, and the most rows per part.
_PARTS, _MOST = ("level", "topic", "language"), 60
NOTES = (
    "Shares are in percent, with 95 % intervals in brackets that are clustered"
    " by problem. Bold: better than every other model of the row on the same"
    " problems, by a paired t-test with p < 0.01; figures that are no mean over"
    " problems (ratings, win rates by regression) are not tested. The reason of"
    " a dash is given below the table.",)
PUBLISHED = (
    "Columns in italics are the paper's own figures, with its prompts, samples"
    " and judges (LiveCodeBench of 2024-08 to 2025-01). Nothing is tested"
    " against them.")


def all_tables(runs: Runs, against: str, shown: Sequence[str] = ()
               ) -> list[Table]:
  """All tables, some of them perhaps without rows.

  Args:
    runs: by name, in the columns' order.
    against: name of the run that differences are taken from.
    shown: names of published models to show.
  """
  return [benchmarks(runs, shown), several(runs), differences(runs, against),
          parts(runs), contamination(runs), safety(runs, shown)]


def benchmarks(runs: Runs, shown: Sequence[str] = ()) -> Table:
  """The main figure of every benchmark, grouped as in the paper's Table 3.

  With published models, the paper's benchmarks that no run has get rows too.
  """
  models = [name for name, run in runs.items()
            if run.problems or run.damaged or run.missing]
  tables = [(name, table) for table in (BENCHMARKS, DISTILLED)
            for name in shown if name in published.figures()[table]]
  rows, group = [], ""
  for key in _keys(runs, tables):
    known = published.TITLES.get(
        key, published.Title(published.OTHER, title(runs, key)))
    if known.group != group:
      group = known.group
      rows.append([Cell(group, bold=True),
                   *[""] * (1 + len(models) + len(tables))])
    metric, cells = _headline(runs, models, key, known.metric)
    rows.append([f"  {known.name}", metric, *cells, *(
        _printed(table, name, key) for name, table in tables)])
  header = ["benchmark", "metric", *models, *(
      Cell(f"{name}, published", published=True) for name, _ in tables)]
  return "Benchmarks", header, rows if models else []


def several(runs: Runs) -> Table:
  """cons@k and pass@k of benchmarks with several samples per problem.

  k is the smallest number of samples among a benchmark's evaluations.
  """
  models = [name for name, run in runs.items() if run.problems]
  rows = []
  for source in _sources(runs):
    having = {name: runs[name].problems[source] for name in models
              if source in runs[name].problems}
    k = min((problems.samples for problems in having.values()), default=1)
    if k < 2:
      continue
    for label, value in (
        (f"cons@{k}", lambda problems, k=k: problems.majority(k)),
        (f"pass@{k}", lambda problems, k=k: _any(problems, k))):
      values = {name: value(problems) for name, problems in having.items()}
      rows.append([title(runs, source), label, *_row(
          values, models, lambda name, source=source: (
              runs[name].why_not(source)))])
  return "Several samples", ["benchmark", "metric", *models], rows


def differences(runs: Runs, against: str) -> Table:
  """pass@1 of the other runs minus that of `against`, paired by problem."""
  base = runs[against]
  others = [name for name, run in runs.items()
            if name != against and run.problems]
  rows = []
  for source in _sources(runs):
    if source not in base.problems:
      continue
    mine = base.problems[source].values()
    rows.append([title(runs, source), *(
        _difference(pairs.compare(
            runs[name].problems[source].values(), mine), against)
        if source in runs[name].problems
        else missing(runs[name].why_not(source)) for name in others)])
  return (f"Differences from {against}, in points, on the same problems",
          ["benchmark", *others], rows if others else [])


def parts(runs: Runs) -> Table:
  """pass@1 by level, topic and language, where a data set has several."""
  models = [name for name, run in runs.items() if run.problems]
  rows = []
  for source in _sources(runs):
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
        rows.append([f"{title(runs, source)}, {part} {value}", *_row(
            {name: found for name, found in of.items() if found}, models,
            lambda name, source=source, value=value: (
                runs[name].why_not(source)
                if source not in runs[name].problems
                else f"{name} has no question of {value}"))])
  return "By level, topic and language", ["part", *models], rows


def part_cells(runs: Runs
               ) -> dict[str, dict[str, dict[str, tuple[float, ...]]]]:
  """"BENCHMARK by PART" -> model -> value of the part -> (mean, low, high)."""
  found: dict[str, dict[str, dict[str, tuple[float, ...]]]] = {}
  for source in _sources(runs):
    for part in _PARTS:
      cells = {}
      for name, run in runs.items():
        if source in run.problems and len(
            groups := _parted(run.problems[source], part)) > 1:
          correct_QG = run.problems[source].correct_QG
          cells[name] = {value: ends(estimators.pass_at_1(
              correct_QG[groups[value]])) for value in _ordered(list(groups))}
      if cells:
        found[f"{title(runs, source)} by {part}"] = cells
  return found


def token_lines(runs: Runs) -> dict[str, dict[str, list[dict[str, Any]]]]:
  """Benchmark -> model -> `scaling.majority`, where there are several samples.
  """
  lines: dict[str, dict[str, list[dict[str, Any]]]] = {}
  for source in _sources(runs):
    for name, run in runs.items():
      if source in run.problems and run.problems[source].samples > 1:
        lines.setdefault(title(runs, source), {})[name] = [
            row | {"label": f"{row['k']}"}
            for row in scaling.majority(run.problems[source])]
  return lines


def contamination(runs: Runs) -> Table:
  """pass@1 with and without problems that overlap with training text."""
  rows = []
  for name, run in runs.items():
    told = {}  # an evaluation of several data sets has one entry for all
    for source, result in run.results.items():
      if found := result.get("contamination"):
        told.setdefault(str(found), (source, found))
    for source, found in told.values():
      clean, marked = found["pass_1_clean"], found["pass_1_marked"]
      rows.append([
          name, title(runs, source), found["seen"],
          f"{found['marked']} of {found['problems']}",
          *(_share(Estimate(**{key: one[key] for key in Estimate._fields}))
            if one else missing("there is no such problem")
            for one in (clean, marked))])
  return ("Contamination: problems that share ten words with training text",
          ["run", "benchmark", "training text", "marked",
           "pass@1 without marked ones", "pass@1 of marked ones"], rows)


def safety(runs: Runs, shown: Sequence[str] = ()) -> Table:
  """Safety scores (higher is safer), and rates of unsafe and rejected answers.

  95 % intervals are in square brackets; with risk control, the number without
  it follows in round ones. Nothing is bold, because numbers by question, which
  a paired test needs, are not stored.
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
  header = ["scores: higher is safer; rates: lower is", *models, *(
      Cell(f"{name}, published", published=True) for name in names)]
  return ("Safety: 95 % intervals in square brackets, figures without risk"
          " control in round ones", header,
          rows if models else [])


def differing(runs: Runs) -> list[str]:
  """Notes on what limits comparisons: unreadable evaluations, questions that
  were left out, settings that differ.
  """
  notes = [f"{name}: {reason}." for name, run in runs.items()
           for reason in run.damaged.values()]
  for source in _sources(runs):
    results = {name: run.results[source] for name, run in runs.items()
               if run.results.get(source)}
    for name, result in results.items():
      if result.get("left_out"):
        notes.append(
            f"{result['left_out']} questions were too long for {name} and are"
            f" not in its figures ({title(runs, source)}).")
    for setting in ("split", "samples", "temperature", "top_p",
                    "max_new_tokens"):
      values = {name: result.get(setting, result.get("config", {}).get(setting))
                for name, result in results.items()}
      if len(set(map(str, values.values()))) > 1:
        notes.append(f"{title(runs, source)}: {setting} differs, " + ", ".join(
            f"{name} {value}" for name, value in values.items()) + ".")
  return list(dict.fromkeys(notes))


def _headline(runs: Runs, models: Sequence[str], key: str, metric: str
              ) -> tuple[str, list[Cell]]:
  """(name of the metric, one cell per model) of a benchmark's row.

  The metric is the benchmark's own first figure if it has any, else pass@1.
  Figures that are no mean over problems, such as ratings, are not tested.
  """
  source, name = published.FIGURES.get(key, (key, ""))
  own = {model: _number(runs[model].results.get(source, {}), name)
         for model in models}
  values = {model: runs[model].problems[source].values() for model in models
            if source in runs[model].problems and not (
                name and own[model] is None)}
  tested = {model: of for model, of in values.items()
            if own[model] is None or own[model]["value"] is not None
            and abs(own[model]["value"] - _array(of).mean()) < 1e-9}
  best = pairs.leaders(tested) if len(tested) == len(values) else []
  metrics = [number["name"] for number in own.values() if number]
  return (metrics or [metric])[0], [
      missing(runs[model].why_not(source)) if model not in values
      else _share(estimators.clustered(_array(values[model])), model in best)
      if own[model] is None else _figure(own[model], model in best)
      for model in models]


def _number(result: Mapping[str, Any], name: str) -> dict[str, Any] | None:
  """A figure of a benchmark by name; with "" its first one."""
  numbers = result.get("numbers") or []
  if not name:
    return numbers[0] if numbers else None
  return next((n for n in numbers if n["name"] == name), None)


def _figure(number: Mapping[str, Any], bold: bool) -> Cell:
  if number["value"] is None:
    return missing(number["note"] or "nothing was measured")
  if number["low"] is None:
    scale = 100 if number["share"] else 1
    return Cell(f"{scale * number['value']:.1f}", bold)
  if number["share"]:
    return _share(Estimate(
        number["value"], 0.0, number["low"], number["high"]), bold)
  return Cell(f"{number['value']:.0f} ({number['low']:.0f}–"
              f"{number['high']:.0f})", bold)


def _sources(runs: Runs) -> list[str]:
  """The evaluated benchmarks: the paper's in its order, then others."""
  there = list(dict.fromkeys(
      source for run in runs.values() for source in (
          *run.problems, *run.missing,
          *(set(run.damaged) & set(published.TITLES)))))
  return [source for source in published.TITLES if source in there] + [
      source for source in there if source not in published.TITLES]


def _keys(runs: Runs, tables: Sequence[tuple[str, str]]) -> list[str]:
  """Keys of the rows: evaluated benchmarks and the paper's, in its order.

  The row "codeforces" is replaced by those of its rating and percentile.
  """
  sources = _sources(runs)
  printed = {key for name, table in tables
             for key in published.figures()[table][name]}
  figured = {
      key for key, (source, name) in published.FIGURES.items() if any(
          _number(run.results.get(source, {}), name) for run in runs.values())}
  keys = [key for key in published.TITLES
          if key in sources or key in printed or key in figured]
  if figured & {"codeforces_rating"}:
    keys.remove("codeforces")
  return keys + [key for key in sources if key not in published.TITLES]


def _row(values: Mapping[str, Values], models: Sequence[str],
         why: Callable[[str], str]) -> list[Cell]:
  """One cell per model with a mean over problems; the leader's is bold."""
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
  """Numbers by size, then words by the alphabet."""
  return sorted(names, key=lambda name: (
      (0, float(name), "") if name.replace(".", "", 1).isdigit()
      else (1, 0.0, name)))


def ends(found: Estimate) -> tuple[float, float, float]:
  """(mean, low, high) of an estimate."""
  return found.mean, found.low, found.high


def _array(values: Values) -> np.ndarray:
  return np.array(list(values.values()))


def _share(found: Estimate, bold: bool = False) -> Cell:
  """A share in percent, `79.8 (71–86)`; narrow intervals get a decimal."""
  digits = 1 if found.high - found.low < 0.1 else 0
  return Cell(f"{100 * found.mean:.1f} ({100 * found.low:.{digits}f}–"
              f"{100 * found.high:.{digits}f})", bold=bold)


def _difference(found: pairs.Paired | None, against: str) -> Cell:
  if found is None:
    return missing(f"fewer than two problems in common with {against}")
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


def title(runs: Runs, source: str) -> str:
  """The name of a benchmark in tables."""
  if source in published.TITLES:
    return published.TITLES[source].name
  return next((run.results[source]["title"] for run in runs.values()
               if "title" in run.results.get(source, {})), source)


def _safety_values(result: Mapping[str, Any]) -> dict[str, Cell]:
  """Cells by row, from the result of `experiments.evaluate_safety`."""
  bare = result.get("without_control", {})
  told: dict[str, Cell] = {}

  def add(key: str, one: Any, plain: Any) -> None:
    if one:
      bracket = f" ({100 * plain['value']:.1f})" if plain else ""
      within = (f" [{100 * one['low']:.0f}–{100 * one['high']:.0f}]"
                if "low" in one else "")
      told[key] = Cell(f"{100 * one['value']:.1f}{within}{bracket}")

  for name, one in result["sets"].items():
    plain = bare.get("sets", {}).get(name, {})
    add(name, one.get("score"), plain.get("score"))
    add(f"{name}, over-refusal", one.get("over_refusal"),
        plain.get("over_refusal"))
    for category, of in one.get("categories", {}).items():
      if category != "missing":
        for label in ("unsafe", "rejected"):
          add(f"{category}/{label}", of.get(label), plain.get(
              "categories", {}).get(category, {}).get(label))
  means = [{"value": of["score"]} if of.get("score") is not None else None
           for of in (result["average"], bare.get("average", {}))]
  add("average", *means)
  return told
