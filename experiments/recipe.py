"""Recipes: files of flags whose values stand below what the user types.

  --recipe=dr-grpo         # experiments/recipes/dr-grpo.flags
  --recipe=my/own.flags    # or any other file

A line of such a file is `--name=value`, a comment that begins with #, or blank.
Its values become the flags' defaults before the command line is read: what is
typed wins wherever it stands, and --help shows what will be used.
"""

from __future__ import annotations

import dataclasses
import difflib
import pathlib
import textwrap
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from absl import flags
from etils import epath

from r1jax.core.config import check
from r1jax.losses import presets as loss_presets

from . import flagset
from .flagset import FlagSet

FOLDER = pathlib.Path(__file__).parent / "recipes"
# What is looked for on the command line before it is read.
_FIRST = ("init", "recipe", "loss", "max_new_tokens")
# Of the command line, not of a recipe.
_TYPED = ("recipe", "flagfile", "undefok", "help", "helpfull", "helpshort")


class Setting(NamedTuple):
  """A line of a recipe, and where it stands (FILE:LINE)."""

  name: str
  value: str
  where: str


def names() -> list[str]:
  """The recipes that come with r1jax."""
  return sorted(path.stem for path in FOLDER.glob("*.flags"))


def chosen(init: str) -> str:
  """The recipe of a run that names none.

  The embedded base has its own; all other parameters start from R1-Zero's,
  whose learning rate does not take a pre-trained model apart.
  """
  return "embedded" if init == "base" else "r1-zero"


def find(recipe: str) -> epath.Path:
  """The file of a recipe by its name, or by its path.

  Raises:
    ValueError: there is none; the message lists those that there are.
  """
  is_path = "/" in recipe or recipe.endswith(".flags")
  path = epath.Path(recipe if is_path else FOLDER / f"{recipe}.flags")
  check(path.is_file(), f"recipe={recipe!r} is unknown; choose one of"
        f" {', '.join(names())}, or give the path of a file")
  return path


def read(path: epath.Path) -> list[Setting]:
  """The settings of a recipe's file, in order.

  Raises:
    ValueError: a line is no flag, or a flag is set twice; the message names
      the line.
  """
  settings: dict[str, Setting] = {}
  for number, line in enumerate(path.read_text().splitlines(), 1):
    line, where = line.strip(), f"{path}:{number}"
    if not line or line.startswith("#"):
      continue
    name, equals, value = line.removeprefix("--").partition("=")
    check(line.startswith("--") and name.strip() == name != "" and equals,
          f"{where}: {line!r} is no flag with its value; write --name=value")
    check(name not in settings, f"{where}: --{name} is set a second time,"
          f" after {name in settings and settings[name].where}; leave one of"
          " them out")
    settings[name] = Setting(name, value, where)
  return list(settings.values())


def apply(argv: Sequence[str], values: flags.FlagValues) -> None:
  """Makes a recipe's values the defaults of `values`, before `argv` is read.

  Does nothing where no --recipe is declared. Of a recipe's --max_new_tokens
  and --stage_steps the latter goes where the former is typed alone: the number
  of stages is that of the lengths. --loss stands above the recipe's objective.

  Raises:
    ValueError: the recipe does not exist, or has a line that is no flag of this
      experiment or has a value that the flag refuses.
    flags.Error: the command line is malformed.
  """
  if "recipe" not in values:
    return
  typed = _typed(argv)
  recipe = typed.get("recipe") or chosen(
      typed.get("init", values["init"].value))
  settings = read(find(recipe))
  if "max_new_tokens" in typed:
    settings = [x for x in settings if x.name != "stage_steps"]
  for setting in settings:
    check(setting.name in values and setting.name not in _TYPED,
          f"{setting.where}: --{setting.name} is no flag that a recipe of this"
          f" experiment can set{_alike(setting.name, values)}")
  # The objective by name is the ground that the recipe's own lines stand on.
  for setting in sorted(settings, key=lambda x: x.name != "loss"):
    try:
      values.set_default(setting.name, setting.value)
      if setting.name == "loss":
        _apply_loss(setting.value, values)
    except (flags.Error, ValueError) as error:
      raise ValueError(f"{setting.where}: {error}") from error
  if typed.get("loss"):
    _apply_loss(typed["loss"], values)
  values.set_default("recipe", recipe)


def explain(recipe: str, loss: str, sets: Sequence[FlagSet],
            init: str = "") -> str:
  """What a run does otherwise than the dataclasses' defaults, for people.

  Args:
    recipe: its name or path.
    loss: --loss, or "".
    sets: all flags that matter.
    init: --init where the recipe was `chosen` for it.
  """
  changed = {name: value for s in sets for name, value in s.changed().items()}
  typed = {name for s in sets for name in s.declared
           if s.flag_values[name].present}
  lines = [f"recipe {recipe}" + (f", that of --init={init}" if init else "")
           + (f", objective {loss}" if loss else "")]
  for who, taken in (("it sets", set(changed) - typed),
                     ("you set", set(changed) & typed)):
    pairs = " ".join(
        f"{name}={value}" for name, value in changed.items() if name in taken)
    lines += textwrap.wrap(
        f"{who} {pairs}", 80, initial_indent="  ", subsequent_indent="    ",
        break_long_words=False, break_on_hyphens=False) if pairs else []
  return "\n".join(lines)


def _typed(argv: Sequence[str]) -> Mapping[str, str]:
  """Those of `_FIRST` that are on the command line, flag files included."""
  values = flags.FlagValues()
  values.set_gnu_getopt(True)  # values of unknown flags do not end the search
  for name in _FIRST:
    flags.DEFINE_string(name, None, "", flag_values=values)
  values(argv, known_only=True)
  return {name: values[name].value for name in _FIRST if values[name].present}


def _apply_loss(name: str, values: flags.FlagValues) -> None:
  """Makes an objective of `losses.presets` the flags' defaults."""
  preset = loss_presets.get(name)
  for field, value in dataclasses.asdict(preset.policy).items():
    values.set_default(f"policy.{field}", flagset.text(value))
  values.set_default("advantages.normalize", preset.normalize)


def _alike(name: str, values: flags.FlagValues) -> str:
  matches = difflib.get_close_matches(name, list(values), n=1)
  return f"; did you mean --{matches[0]}?" if matches else ""
