"""A plan: the stages of a pipeline in TOML.

  [stages.zero]                   # its folder: WORKDIR/zero
  run = "train_grpo"              # an experiment; with a dot, a Python module
  flags = {init = "{init}", seed = "{seed}", steps = 80}

  [stages.labels]
  run = "label_answers"
  out = "out"                     # flag that gets the folder; default: workdir
  alone = true                    # one process, without --launch
  flags = {init = "orbax:{zero}"} # reads stage zero, and so comes after it

  [stages.more]
  like = "labels"                 # inherits all that is not set here
  flags = {init = "{init}"}

A stage depends on the stages that its flags name in braces.
"""

from __future__ import annotations

import dataclasses
import difflib
import os
import re
import tomllib
from collections.abc import Collection, Iterator, Mapping
from typing import Any

from etils import epath

from r1jax.core.config import check

# Placeholders that are not stages: flags of the command, the plan's folder.
VALUES = ("seed", "data_dir", "init", "plan")
_PLACE = re.compile(r"\{([A-Za-z_]\w*)\}")
_NAME = re.compile(r"[A-Za-z]\w*")
_TOP = {"defaults": dict, "estimate": dict, "report": dict, "stages": dict}
_STAGE = {"like": str, "run": str, "out": str, "part": str, "flags": dict,
          "expect": dict, "alone": bool}
_ESTIMATE = {"model": str, "chip": str, "flops_per_s": float,
             "sampling": float, "training": float, "price": float}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Stage:
  """One command.

  Attributes:
    name: name of the stage and of its folder.
    run: an experiment, or with a dot a Python module.
    out: the flag that gets the folder.
    part: row of the cost table in which the stage is summed.
    flags: flag to value as text, with placeholders.
    expect: numbers for estimates, such as mean lengths in tokens.
    alone: whether it runs as one process, without --launch.
  """

  name: str
  run: str
  out: str = "workdir"
  part: str = ""
  flags: Mapping[str, str] = dataclasses.field(default_factory=dict)
  expect: Mapping[str, float] = dataclasses.field(default_factory=dict)
  alone: bool = False

  @property
  def places(self) -> tuple[str, ...]:
    """All placeholders in its flags."""
    return tuple(dict.fromkeys(
        name for value in self.flags.values() for name in _PLACE.findall(value)
    ))

  @property
  def reads(self) -> tuple[str, ...]:
    """The stages whose folders it reads."""
    return tuple(name for name in self.places if name not in VALUES)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plan:
  """Stages in an order in which they can run.

  Attributes:
    path: the file.
    stages: ordered as in the file, except that each comes after those it reads.
    defaults: of `init` and `data_dir`, where the command gives none.
    estimate: chip, rates and model for estimates.
    report: the [report] table for `r1_report`.
  """

  path: epath.Path
  stages: tuple[Stage, ...]
  defaults: Mapping[str, str]
  estimate: Mapping[str, Any]
  report: Mapping[str, Any]

  def stage(self, name: str, flag: str = "") -> Stage:
    """The stage `name`.

    Args:
      name: the stage's name.
      flag: the flag that named it, for the message.

    Raises:
      ValueError: there is none; the message lists all.
    """
    names = [stage.name for stage in self.stages]
    check(name in names, f"{flag and f'--{flag}='}{name} is not a stage of"
          f" {self.path}{_alike(name, names)}; its stages:"
          f" {', '.join(names)}")
    return self.stages[names.index(name)]

  def values(self, *, partly: bool = False, **given: str | int
             ) -> dict[str, str]:
    """The values of the placeholders `VALUES`.

    Args:
      partly: whether values may be missing; their placeholders then stay.
      given: seed, data_dir and init of the command; "" counts as not given.

    Raises:
      ValueError: a value that the plan needs is missing, or one is given that
        no stage reads.
    """
    values = dict(self.defaults) | {
        name: str(value) for name, value in given.items() if value != ""}
    for stage in self.stages:
      for name in stage.places:
        check(partly or name in values or name not in VALUES or name == "plan",
              f"{self.path}: stage {stage.name} reads {{{name}}}: give"
              f" --{name}")
    used = {name for stage in self.stages for name in stage.places}
    for name, value in given.items():
      check(name in used or name == "seed" or value == "",
            f"--{name}={value}: no stage of {self.path} reads {{{name}}}")
    return values | {"plan": os.fspath(self.path.parent)}

  def readers(self, names: Collection[str]) -> list[str]:
    """`names` and all stages that depend on them, directly or not, in order."""
    found = set(names)
    for stage in self.stages:
      if found & set(stage.reads):
        found.add(stage.name)
    return [stage.name for stage in self.stages if stage.name in found]


def read(path: str | os.PathLike) -> Plan:
  """Reads a plan.

  Raises:
    ValueError: the file is missing or malformed, or the stages cannot be
      ordered; the message names the file, the stage and what to fix.
  """
  path = epath.Path(path)
  try:
    tables = tomllib.loads(path.read_text())
  except OSError as error:
    raise ValueError(f"plan {path} cannot be read ({error.strerror or error});"
                     " give a TOML file") from error
  except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
    raise ValueError(f"plan {path} is not TOML: {error}") from error
  _keys(tables, _TOP, str(path))
  _keys(tables.get("estimate", {}), _ESTIMATE, f"{path}: estimate")
  defaults = tables.get("defaults", {})
  _keys(defaults, {"init": str, "data_dir": str}, f"{path}: defaults")
  written = tables.get("stages", {})
  check(bool(written), f"{path} has no stages; write [stages.NAME]")
  for name, table in written.items():
    check(isinstance(table, dict) and bool(_NAME.fullmatch(name)) and (
        name not in VALUES), f"{path}: stages.{name}: a stage is a table whose"
        " name is letters, digits and _, and none of " + ", ".join(VALUES))
    _keys(table, _STAGE, f"{path}: stage {name}")
  stages = [_stage(name, written, path) for name in written]
  for kind, named in tables.get("report", {}).items():
    for name, stage in named.items() if isinstance(named, dict) else ():
      check(stage in written, f"{path}: report.{kind}.{name}={stage!r} is not a"
            f" stage{_alike(str(stage), written)}")
  return Plan(path=path, stages=tuple(_ordered(stages, path)),
              defaults=defaults, estimate=tables.get("estimate", {}),
              report=tables.get("report", {}))


def fill(text: str, values: Mapping[str, str]) -> str:
  """`text` with every placeholder that has a value replaced by it."""
  return _PLACE.sub(lambda m: values.get(m[1], m[0]), text)


def _stage(name: str, written: Mapping[str, Any], path: epath.Path) -> Stage:
  """The stage with all that it inherits by `like`."""
  where = f"{path}: stage {name}"
  chain = [name]
  while other := written[chain[-1]].get("like"):
    check(other in written, f"{where}: like={other!r} is not a stage"
          f"{_alike(other, written)}")
    check(other not in chain, f"{where} is like itself, by way of"
          f" {' -> '.join([*chain, other])}; leave one of them out")
    chain.append(other)
  settings: dict[str, Any] = {}
  for one in reversed(chain):
    table = written[one]
    for key in ("run", "out", "part", "alone"):
      settings |= {key: table[key]} if key in table else {}
    settings["flags"] = settings.get("flags", {}) | dict(
        _flags(table.get("flags", {}), where))
    settings["expect"] = settings.get("expect", {}) | table.get("expect", {})
  check("run" in settings, f"{where} has no run; write run=\"train_grpo\" or"
        " another experiment, or like=\"STAGE\"")
  for key, value in settings["expect"].items():
    check(type(value) in (int, float) and value > 0,
          f"{where}: expect.{key}={value!r} must be a positive number")
  check(settings.get("out", "workdir") not in settings["flags"],
        f"{where}: flag {settings.get('out', 'workdir')} is set by the"
        " pipeline, to the stage's own folder; leave it out")
  known = [*VALUES, *written]
  stage = Stage(name=name, **settings)
  for place in stage.places:
    check(place in known, f"{where}: {{{place}}} is neither a stage nor one of"
          f" {', '.join(VALUES)}{_alike(place, known)}")
  return stage


def _flags(table: Mapping[str, Any], where: str, prefix: str = ""
           ) -> Iterator[tuple[str, str]]:
  """Flags by dotted name, whether written as tables or as quoted keys."""
  for key, value in table.items():
    if isinstance(value, dict):
      yield from _flags(value, where, f"{prefix}{key}.")
    else:
      yield prefix + key, _text(value, f"{where}: flag {prefix}{key}")


def _text(value: Any, where: str) -> str:
  """A value in the form of a command-line flag."""
  if isinstance(value, list):
    return ",".join(_text(item, where) for item in value)
  check(isinstance(value, bool | int | float | str),
        f"{where}={value!r}: give a text, number, true or false, or a list")
  return str(value).lower() if isinstance(value, bool) else str(value)


def _ordered(stages: list[Stage], path: epath.Path) -> Iterator[Stage]:
  """The stages in the given order, but each after those that it reads."""
  left, there = list(stages), set()
  while left:
    ready = next((s for s in left if set(s.reads) <= there), None)
    if ready is None:
      raise ValueError(f"{path}: these stages wait for each other: "
                       + " -> ".join(_cycle(left)))
    left.remove(ready)
    there.add(ready.name)
    yield ready


def _cycle(stages: list[Stage]) -> list[str]:
  """The names of one cycle, the first repeated at the end; there must be one.
  """
  reads = {stage.name: stage.reads for stage in stages}
  way = [stages[0].name]
  while way.count(way[-1]) < 2:
    way.append(next(name for name in reads[way[-1]] if name in reads))
  return way[way.index(way[-1]):]


def _keys(table: Any, known: Mapping[str, type], where: str) -> None:
  for key, value in table.items():
    check(key in known, f"{where}: {key} is unknown{_alike(key, known)}; known:"
          f" {', '.join(known)}")
    right = isinstance(value, known[key]) or (
        known[key] is float and type(value) is int)
    check(right, f"{where}: {key}={value!r} is not of type"
          f" {'table' if known[key] is dict else known[key].__name__}")


def _alike(name: str, names: Collection[str]) -> str:
  matches = difflib.get_close_matches(name, names, n=1)
  return f" (did you mean {matches[0]}?)" if matches else ""
