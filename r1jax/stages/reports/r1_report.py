"""The report on R1's stages: tables, figures, claims.

Everything is read from the stages' folders: evaluations
(`experiments.evaluate`), RL runs, reward models, costs. A plan's [report] table
says which folder is what:

  [report]
  models = {base = "eval_base", zero = "eval_zero", r1 = "eval_r1"}
  runs = {zero = "zero", dev2 = "dev2", hacked = "hacked"}
  reward_models = {helpful = "helpful", safety = "safety"}
  safety = {r1 = "safe_r1"}  # evaluate_safety with jailbreaks

Missing parts are named in the report and leave claims undecided.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from etils import epath

from r1jax.core import io
from r1jax.core.config import check
from r1jax.evals import claims as claims_lib
from r1jax.evals import curves, intervals, measures
from r1jax.evals import samples as samples_lib
from r1jax.evals.intervals import Interval, Values
from r1jax.evals.measures import Measure
from r1jax.evals.samples import Samples
from r1jax.report import html, stage_figures, tables, writer
from r1jax.stages import reward, reward_weights
from r1jax.stages.reports import r1_cells, safety_parts

REPORT, SUMMARY, CLAIMS = "report.html", "summary.json", "claims.json"
# Columns of the main table; other models have separate tables.
MAIN = {"base": "base", "zero": "R1-Zero", "dev1": "Dev1", "dev2": "Dev2",
        "dev3": "Dev3", "r1": "R1"}
STUDENT = "student"
KEYS = ("models", "runs", "reward_models", "safety", "against", "timely",
        "distilled", "reinforced", "title")
PROXY = "reward/helpful"
_ACCURACY = (("reasoning_en", "English"), ("reasoning_zh", "Chinese"),
             ("consensus", "majority"))
_TRUTHS = (("utility", "true utility"), ("reasoning", "reasoning"))
_CURVES = ("reasoning", "reasoning_en", "reasoning_zh", "consensus", "language",
           "utility", "reflective")
_PANELS = ("reasoning", "language", "instructions", measures.WIN, "safe",
           "refusal")

# Model -> measure -> its mean with an interval.
Means = Mapping[str, Mapping[str, Interval]]


class Models(NamedTuple):
  """The evaluations of all models.

  Attributes:
    samples: by model.
    missing: model to the reason why its evaluation could not be read.
    problems: some questions with each model's answers, for `html.write`.
    notes: remarks for readers of the numbers.
  """

  samples: dict[str, Samples]
  missing: dict[str, str]
  problems: list[dict[str, Any]]
  notes: list[str]


def write(workdir: str | os.PathLike, section: Mapping[str, Any], *,
          minutes: float | None = None) -> epath.Path:
  """Writes report.html, summary.json and claims.json; prints the tables.

  Args:
    workdir: has a folder for every stage.
    section: the plan's [report] table: `models`, `runs`, `reward_models` and
      `safety` name stages' folders; `against` (by default dev3) is the opponent
      of win rates; `timely`, `distilled`, `reinforced` are arguments of
      `claims.claims`; `title` is the page's.
    minutes: that the stages took; by default the sum of their records.

  Returns:
    The path of the report.

  Raises:
    ValueError: the section has an unknown key.
  """
  unknown = sorted(set(section) - set(KEYS))
  check(not unknown, f"[report] has {', '.join(unknown)}, which is not one of"
        f" {', '.join(KEYS)}")
  workdir = epath.Path(workdir)
  models = read(workdir, section.get("models", {}))
  against = section.get("against", "dev3")
  rows = measures.table(models.samples.get(against), MAIN.get(against, against))
  values = {name: {key: measure.values(samples)
                   for key, measure in rows.items()}
            for name, samples in models.samples.items()}
  means = _means(values, rows)
  runs = {name: workdir / folder
          for name, folder in section.get("runs", {}).items()}
  drawn, notes = draw(workdir / "figures", runs, means, rows)
  judged = judge(values, models, runs, section, {
      name: safety_parts.evidence(workdir / folder)
      for name, folder in section.get("safety", {}).items()})
  shown = _tables(workdir, section, models, means, rows)
  for heading, header, cells in shown:
    if cells:
      print(f"\n{heading}\n{tables.render(header, cells)}")
  print("\n" + r1_cells.claims_text(judged), flush=True)
  if minutes is None:
    minutes = r1_cells.minutes(workdir)
  io.write_json(workdir / CLAIMS, judged)
  io.write_json(workdir / SUMMARY, {"minutes": minutes, "models": {
      name: {key: found._asdict() for key, found in of_model.items()}
      for name, of_model in means.items()}, "missing": models.missing})
  path = workdir / REPORT
  html.write(
      path, title=section.get("title", "From base to R1"),
      config={"report": dict(section)}, versions=_versions(runs),
      tables=shown, figures=drawn + _reward_figures(workdir, section),
      problems=models.problems, notes=models.notes + notes,
      claims=[r1_cells.claim_lines(claim) for claim in judged],
      about_problems="The same held-out questions as each model answers them.")
  return path


def read(workdir: epath.Path, folders: Mapping[str, str]) -> Models:
  """Reads the evaluations of all models; notes name those that it cannot read.
  """
  models = Models({}, {}, [], [])
  picked: dict[samples_lib.Question, dict[str, Any]] = {}
  for name, folder in folders.items():
    try:
      rows = samples_lib.stored(workdir / folder)
      models.samples[name] = samples_lib.grouped(rows)
    except ValueError as error:
      models.missing[name] = f"no evaluation of {_name(name)}: {error}"
      continue
    if name in MAIN:
      _pick(picked, name, rows)
  models.problems.extend(picked.values())
  models.notes.extend(models.missing.values())
  models.notes.extend(_differing({
      name: io.read_json(path) for name in models.samples
      if (path := workdir / folders[name] / "result.json").exists()}))
  return models


def judge(values: Mapping[str, Mapping[str, Values]], models: Models,
          runs: Mapping[str, epath.Path], section: Mapping[str, Any],
          safety: Mapping[str, Mapping[str, Interval]] | None = None
          ) -> list[dict[str, Any]]:
  """The verdicts on all claims, see `claims.judge`.

  Args:
    values: model -> measure -> one number per question.
    models: the evaluations.
    runs: folders of training runs by name.
    section: the plan's [report] table.
    safety: model -> result of `safety_parts.evidence`.
  """
  evidence = {name: dict(of_model) for name, of_model in values.items()}
  if "zero" in models.samples:
    levels = list(measures.by_level(
        models.samples["zero"], measures.length).values())
    if len(levels) > 1:
      evidence["zero"] |= {claims_lib.EASIEST: levels[0],
                           claims_lib.HARDEST: levels[-1]}
  if "hacked" in runs:
    evidence.setdefault("hacked", {}).update(proxy(writer.read(runs["hacked"])))
  for name, found in (safety or {}).items():
    evidence.setdefault(name, {}).update(found)
  names = {key: section[key] for key in ("timely", "distilled", "reinforced")
           if key in section}
  return [claims_lib.judge(claim, evidence, models.missing)
          for claim in claims_lib.claims(**names)]


def proxy(rows: Sequence[Mapping[str, Any]]) -> dict[str, Values]:
  """The helpful model's score in the first and the last tenth of the steps.

  Each tenth has at least three steps; {} if the run has fewer than twice as
  many. Each step's mean counts as one value, because steps have different
  questions.
  """
  scores = [(row["step"], row[PROXY]) for row in rows
            if row.get(PROXY) is not None]
  count = max(3, len(scores) // 10)
  if len(scores) < 2 * count:
    return {}
  return {claims_lib.PROXY_EARLY: dict(scores[:count]),
          claims_lib.PROXY_LATE: dict(scores[-count:])}


def draw(folder: epath.Path, runs: Mapping[str, epath.Path], means: Means,
         measured: Mapping[str, Measure]
         ) -> tuple[list[tuple[str, epath.Path]], list[str]]:
  """Draws all possible figures: [(caption, path)], notes on missing ones."""
  drawn, notes, rows = [], [], {}
  for name in ("zero", "dev2", "dev2_nolang", "hacked"):
    try:
      rows[name] = curves.of_run(runs[name], _CURVES) if name in runs else []
    except ValueError as error:
      notes.append(f"no curves of {_name(name)}: {error}")
      rows[name] = []
  metrics = {name: writer.read(folder) for name, folder in runs.items()}
  if shown := {MAIN[name]: {
      key: found[:3] for key, found in means[name].items()}
               for name in MAIN if name in means}:
    drawn.append(("The models, with 95 % intervals", folder / "models.png"))
    stage_figures.models(shown, [
        (key, measured[key].title) for key in _PANELS
        if any(key in of_model for of_model in shown.values())], drawn[-1][1])
  if rows["zero"]:
    drawn.append(("R1-Zero's self-evolution", folder / "evolution.png"))
    stage_figures.self_evolution(
        metrics["zero"], rows["zero"], drawn[-1][1], accuracy=_ACCURACY)
  ablation = {caption: rows[name] for name, caption in (
      ("dev2", "with"), ("dev2_nolang", "without")) if rows[name]}
  if len(ablation) == 2:
    drawn.append(("Stage 1 with and without the language reward",
                  folder / "language.png"))
    stage_figures.with_and_without(ablation, drawn[-1][1])
  if rows["hacked"]:
    drawn.append(("Reward hacking: preference rewards for too long",
                  folder / "hacking.png"))
    stage_figures.hacking(
        metrics["hacked"], rows["hacked"], drawn[-1][1], truths=_TRUTHS)
  return drawn, notes


def _means(values: Mapping[str, Mapping[str, Values]],
           rows: Mapping[str, Measure]) -> Means:
  return {name: {
      key: found for key, of_questions in of_model.items()
      if (found := intervals.mean(
          of_questions, binary=rows[key].binary, share=rows[key].share))}
          for name, of_model in values.items()}


def _tables(workdir, section, models, means, rows) -> list[html.Table]:
  """(heading, header, cells) each."""
  sampled = max((len(group) for samples in models.samples.values()
                 for group in samples.values()), default=0)
  titles = {key: measure.title.format(k=sampled)
            for key, measure in rows.items()}
  students = [name for name in means if name.startswith(STUDENT)]
  others = [name for name in means if name not in MAIN and name not in students]
  shown = []
  for heading, names in (
      ("Models", [name for name in MAIN if name in means]),
      ("Distillation", students), ("Ablations", others)):
    header, cells = r1_cells.by_measure(
        {_name(name): means[name] for name in names}, titles, rows)
    shown.append((heading, header, cells))
  about = {name: reward_weights.ABOUT for name in
           section.get("reward_models", {})}
  found = {name: io.read_json(workdir / section["reward_models"][name] / file)
           for name, file in about.items()
           if (workdir / section["reward_models"][name] / file).exists()}
  shown.append(("Reward models, held out", *r1_cells.reward_models(found)))
  if section.get("safety"):
    shown.append(safety_parts.of_models({
        _name(name): workdir / folder
        for name, folder in section["safety"].items()}))
  shown.append(("Cost", *r1_cells.costs_by_part(workdir)))
  shown.append(("Cost by stage", *r1_cells.costs(workdir)))
  return shown


def _reward_figures(workdir, section) -> list[tuple[str, epath.Path]]:
  files = {name: workdir / folder / reward.FIGURE
           for name, folder in section.get("reward_models", {}).items()}
  return [(f"The reward model {name}", file)
          for name, file in files.items() if file.exists()]


def _differing(results: Mapping[str, Mapping[str, Any]]) -> list[str]:
  """Notes on what limits comparisons: left-out questions, other settings.

  Args:
    results: result.json of `experiments.evaluate` by model.
  """
  notes = []
  for name, result in results.items():
    if result.get("left_out"):
      notes.append(f"{result['left_out']} questions were too long for"
                   f" {_name(name)} and are not in its figures.")
  for setting in ("data", "split", "samples", "temperature", "top_p",
                  "max_new_tokens"):
    values = {name: result.get(setting, result.get("config", {}).get(setting))
              for name, result in results.items()}
    if len(set(map(str, values.values()))) > 1:
      notes.append(f"The evaluations differ in {setting}: " + ", ".join(
          f"{_name(name)} {value}" for name, value in values.items()) + ".")
  return notes


def _pick(picked: dict[samples_lib.Question, dict[str, Any]], name: str,
          rows: Sequence[Mapping[str, Any]]) -> None:
  """Adds `name`'s first sample of one question per source and language."""
  kinds = {(row["source"], row["language"]): key for row in reversed(rows)
           if (key := (row["source"], row["question"]))}
  if not picked:
    picked.update({key: {"question": key[1], "reference": None, "steps": []}
                   for key in sorted(kinds.values())})
  for row in rows:
    problem = picked.get((row["source"], row["question"]))
    if problem and row["sample"] == 0:
      problem["reference"] = row["reference"]
      problem["steps"].append((_name(name), [row]))


def _versions(runs: Mapping[str, epath.Path]) -> dict[str, str]:
  """Package versions of the first run that stored them."""
  for folder in runs.values():
    if (folder / "config.json").exists():
      return io.read_json(folder / "config.json").get("versions", {})
  return {}


def _name(model: str) -> str:
  return MAIN.get(model, model)
