"""Reads folders of evaluations and training runs, for reports on several."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from etils import epath

from r1jax.core import io
from r1jax.core.config import check
from r1jax.evals import samples as samples_lib
from r1jax.evals import summaries
from r1jax.evals.summaries import Problems
from r1jax.report import rollouts, workdir, writer
from r1jax.stages import reward_weights

RESULT, SUITE, COST = "result.json", "results.json", "cost.json"
# Kinds of training runs, recognised by their config.
REWARD, RL, SFT, PRETRAINING = (
    "reward model", "RL", "SFT", "pre-training")


class Training(NamedTuple):
  """A training run.

  Attributes:
    kind: REWARD, RL, SFT or PRETRAINING.
    config: its resolved settings.
    versions: of the packages that it began with.
    rows: rows of metrics.jsonl.
    about: reward.json of a finished reward model, else {}.
  """

  kind: str
  config: Mapping[str, Any]
  versions: Mapping[str, str]
  rows: Sequence[Mapping[str, Any]]
  about: Mapping[str, Any]


class Run(NamedTuple):
  """The contents of a folder.

  Attributes:
    folder: its path.
    problems: evaluated problems by data set.
    results: result.json of each data set's evaluation.
    damaged: why an evaluation could not be read, by its folder's name.
    missing: why a suite's benchmark was not evaluated, by name.
    safety: result.json of `experiments.evaluate_safety`, or None.
    training: the training run, or None.
    cost: cost.json, or {}.
  """

  folder: epath.Path
  problems: dict[str, Problems]
  results: dict[str, dict[str, Any]]
  damaged: dict[str, str]
  missing: dict[str, str]
  safety: dict[str, Any] | None
  training: Training | None
  cost: dict[str, Any]

  def why_not(self, source: str) -> str:
    """Why there is no evaluation of a data set."""
    if source in self.missing:
      return f"left out: {self.missing[source]}"
    for name, reason in self.damaged.items():
      if name == source or not self.problems:
        return reason
    there = ", ".join(self.problems) or "nothing"
    return f"not evaluated: {self.folder} has {there}"


def parse(text: str) -> dict[str, epath.Path]:
  """Parses `A,B` or `name=A,other=B`; a folder's default name is its own.

  Raises:
    ValueError: a folder does not exist, two have the same name, or there is
      none.
  """
  found: dict[str, epath.Path] = {}
  for item in filter(None, map(str.strip, text.split(","))):
    name, given, folder = item.rpartition("=")
    path = epath.Path(os.path.expanduser(folder if given else item))
    name = name or path.name
    check(path.is_dir(), f"{path} is not a folder; give those of"
          " experiments.evaluate or of training")
    check(name not in found, f"two runs are called {name}; give them names,"
          f" such as first={found.get(name)},second={path}")
    found[name] = path
  check(bool(found), "no run is given; give --runs=FOLDER,OTHER or"
        " --runs=name=FOLDER,other=FOLDER")
  return found


def read(folder: str | os.PathLike) -> Run:
  """Reads a folder and its direct subfolders.

  Raises:
    ValueError: there are two evaluations of one data set, or there is neither
      evaluation nor training.
  """
  folder = epath.Path(folder)
  run = Run(folder, {}, {}, {}, _json(folder / SUITE).get("missing", {}),
            _safety(folder), _training(folder), _json(folder / COST))
  for place in _places(folder):
    if (place / samples_lib.GENERATIONS).exists():
      _evaluation(run, place)
    elif run.safety is None and (found := _safety(place)):
      run = run._replace(safety=found)
  check(any((run.problems, run.damaged, run.safety, run.training)),
        f"{folder} has neither evaluation nor training; give the --out of"
        " experiments.evaluate or evaluate_safety, or a --workdir")
  return run


def _places(folder: epath.Path) -> list[epath.Path]:
  if (folder / samples_lib.GENERATIONS).exists():
    return [folder]
  return [folder, *sorted(
      (place for place in folder.iterdir() if place.is_dir()),
      key=lambda place: place.name)]


def _evaluation(run: Run, place: epath.Path) -> None:
  """Adds the evaluation that `experiments.evaluate` stored in a folder."""
  try:
    found = summaries.by_source(samples_lib.stored(place))
  except (ValueError, KeyError) as error:
    run.damaged[place.name] = f"{place} cannot be read: {error}"
    return
  result = _json(place / RESULT)
  for source, problems in found.items():
    name = result.get("name", source)  # only a suite's benchmark has a name
    check(name not in run.problems, f"{run.folder} has several evaluations of"
          f" {name}; give each by its own folder, such as name={place}")
    run.problems[name], run.results[name] = problems, result


def _safety(folder: epath.Path) -> dict[str, Any] | None:
  result = _json(folder / RESULT)
  return result if "sets" in result and "average" in result else None


def _training(folder: epath.Path) -> Training | None:
  path = folder / workdir.CONFIG
  rows = writer.read(folder) if (folder / writer.METRICS).exists() else []
  if not rows or not path.exists():
    return None
  saved = workdir.stored_in(folder)
  config = saved["config"]
  kind = (REWARD if config.get("head") else RL if "questions" in config
          else SFT if "template" in config else PRETRAINING)
  return Training(kind, config, saved.get("versions", {}), rows,
                  _json(folder / reward_weights.ABOUT))


def evaluates(folder: str | os.PathLike) -> bool:
  """Whether a run has stored evaluations of its steps."""
  return bool(rollouts.steps(folder, rollouts.EVALUATIONS))


def _json(path: epath.Path) -> dict[str, Any]:
  return io.read_json(path) if path.exists() else {}
