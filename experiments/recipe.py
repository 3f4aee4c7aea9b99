"""Recipes: files of flags that the command line overrides.

  --recipe=dr-grpo         # experiments/recipes/dr-grpo.flags
  --recipe=my/own.flags    # or any other file

A line of such a file is `--name=value`, a comment that begins with #, or blank.
Its values become the flags' defaults before the command line is read: what is
typed wins regardless of the order, and --help shows the recipe's values.
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

from r1jax.core import io
from r1jax.core.config import check
from r1jax.losses import presets as loss_presets

from . import flagset
from .flagset import FlagSet

FOLDER = pathlib.Path(__file__).parent / "recipes"
# Flags that are looked up on the command line before it is parsed.
_FIRST = ("init", "recipe", "loss", "max_new_tokens")
# Flags that a recipe cannot set.
_TYPED = ("recipe", "flagfile", "undefok", "help", "helpfull", "helpshort")


class Setting(NamedTuple):
  """A line of a recipe, with its place (FILE:LINE)."""

  name: str
  value: str
  where: str


def names() -> list[str]:
  """The names of the package's recipes."""
  return sorted(path.stem for path in FOLDER.glob("*.flags"))


def chosen(init: str) -> str:
  """The default recipe for a model.

  The embedded base has its own, with a high learning rate that would ruin a
  real pre-trained model; all others get R1-Zero's.
  """
  return "embedded" if init == "base" else "r1-zero"


def find(recipe: str) -> epath.Path:
  """The file of a recipe by name or path.

  Raises:
    ValueError: there is no such file; the message lists the names.
  """
  is_path = "/" in recipe or recipe.endswith(".flags")
  path = epath.Path(recipe if is_path else FOLDER / f"{recipe}.flags")
  check(io.is_file(path), f"recipe={recipe!r} is unknown; choose one of"
        f" {', '.join(names())}, or give the path of a file")
  return path


def read(path: epath.Path) -> list[Setting]:
  """The settings of a recipe's file, in order.

  Raises:
    ValueError: a line is not a flag, or a flag is set twice; the message names
      the line.
  """
  settings: dict[str, Setting] = {}
  for number, line in enumerate(path.read_text().splitlines(), 1):
    line, where = line.strip(), f"{path}:{number}"
    if not line or line.startswith("#"):
      continue
    name, equals, value = line.removeprefix("--").partition("=")
    check(line.startswith("--") and name.strip() == name != "" and equals,
          f"{where}: {line!r} is not a flag with a value; write --name=value")
    check(name not in settings, f"{where}: --{name} is set a second time,"
          f" after {name in settings and settings[name].where}; leave one of"
          " them out")
    settings[name] = Setting(name, value, where)
  return list(settings.values())


def apply(argv: Sequence[str], values: flags.FlagValues) -> None:
  """Makes a recipe's values the defaults of `values`, before `argv` is parsed.

  Does nothing if the experiment has no --recipe. If --max_new_tokens is typed,
  the recipe's --stage_steps is dropped, because the two must have matching
  lengths. A typed --loss overrides the recipe's objective.

  Raises:
    ValueError: the recipe does not exist, or has a line that is not a flag of
      this experiment or has a value that the flag rejects.
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
          f"{setting.where}: --{setting.name} is not a flag that a recipe of"
          f" this experiment can set{_alike(setting.name, values)}")
  # The recipe's --loss comes first, so that its other lines override parts.
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
  """Lines on which settings differ from the dataclasses' defaults.

  Args:
    recipe: its name or path.
    loss: the value of --loss, or "".
    sets: all flags to compare.
    init: --init, if the recipe is its default one.
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
  """The flags of `_FIRST` on the command line, flag files included."""
  values = flags.FlagValues()
  values.set_gnu_getopt(True)  # values of unknown flags do not end the search
  for name in _FIRST:
    flags.DEFINE_string(name, None, "", flag_values=values)
  values(argv, known_only=True)
  return {name: values[name].value for name in _FIRST if values[name].present}


def _apply_loss(name: str, values: flags.FlagValues) -> None:
  """Makes the settings of an objective in `losses.presets` the defaults."""
  preset = loss_presets.get(name)
  for field, value in dataclasses.asdict(preset.policy).items():
    values.set_default(f"policy.{field}", flagset.text(value))
  values.set_default("advantages.normalize", preset.normalize)


def _alike(name: str, values: flags.FlagValues) -> str:
  matches = difflib.get_close_matches(name, list(values), n=1)
  return f"; did you mean --{matches[0]}?" if matches else ""
