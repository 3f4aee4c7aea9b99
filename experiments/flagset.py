"""absl flags made from frozen dataclasses.

  EVAL = flagset.define(EvalConfig(top_p=1.0), "eval")  # --eval.samples=64

  def main(_):
    config = EVAL.value()

The default that --help shows is the value that `value` uses if the flag is not
given.
"""

from __future__ import annotations

import contextlib
import dataclasses
import inspect
import math
import re
import types
import typing
from collections.abc import Iterator, Mapping
from typing import Any, Generic, TypeVar

from absl import flags

from r1jax.core.config import DataError, SplitError

T = TypeVar("T")

class _Float(flags.FloatParser):
  """A finite number: nan and inf make sense for no setting."""

  syntactic_help = "a finite number"

  def is_outside_bounds(self, value: float) -> bool:
    """Whether it is nan or infinite."""
    return not math.isfinite(value)


class _Integer(flags.IntegerParser):
  """An integer that arrays can hold."""

  def __init__(self):
    super().__init__(-2**63, 2**63 - 1)
    self.syntactic_help = "an integer of 64 bits"


_PARSERS = {
    bool: flags.BooleanParser,
    int: _Integer,
    float: _Float,
    str: flags.ArgumentParser,
}


@dataclasses.dataclass(frozen=True)
class FlagSet(Generic[T]):
  """The flags of one dataclass; made by `define`.

  Attributes:
    cls: the dataclass.
    prefix: prefix of the flags' names.
    flag_values: absl's registry of the flags.
    declared: the default of each flag as given to `define`, by name;
      `flags.set_default` may have changed it since (recipes do).
  """

  cls: type[T]
  prefix: str
  flag_values: flags.FlagValues
  declared: Mapping[str, Any]

  def value(self) -> T:
    """The dataclass with the flags' values.

    Raises:
      ValueError: the dataclass rejects the values.
    """
    return self._build(self.cls, self.prefix)

  def changed(self) -> dict[str, str]:
    """Flags whose value is not the declared default: name to text."""
    values = {name: self.flag_values[name].value for name in self.declared}
    return {name: text(value) for name, value in values.items()
            if value != self.declared[name]}

  def _build(self, cls: type, prefix: str) -> Any:
    hints = typing.get_type_hints(cls)
    values = {}
    for field in filter(_is_flag, dataclasses.fields(cls)):
      name = _join(prefix, field.name)
      if dataclasses.is_dataclass(hints[field.name]):
        values[field.name] = self._build(hints[field.name], name)
        continue
      values[field.name] = self.flag_values[name].value
      if values[field.name] is None and _required(field):
        raise ValueError(f"--{name} must be given")
    try:
      return cls(**values)
    except ValueError as error:
      where = f" (flags --{prefix}.*)" if prefix else ""
      raise ValueError(f"{error}{where}") from error


def define(
    default: T | type[T], prefix: str = "",
    flag_values: flags.FlagValues = flags.FLAGS) -> FlagSet[T]:
  """Declares `--prefix.field` (or `--field`) for every field of a dataclass.

  Fields are int, float, bool, str, tuples of them (`--sizes=3,5`), any of
  these or None (`--top_p=none`), or dataclasses, whose flags are prefixed with
  the field's name. The help text is the comment on the field's line, or those
  above it, or the field's entry under "Attributes:" in the docstring. A field
  with metadata={"flag": False} is no flag and keeps its default.

  Args:
    default: an instance, whose fields are the flags' defaults; or the class,
      for its own defaults. A field without default must be given on the command
      line.
    prefix: prefix of the flags' names.
    flag_values: absl's registry to declare them in.

  Raises:
    ValueError: a field has another type.
  """
  cls = default if isinstance(default, type) else type(default)
  hints = typing.get_type_hints(cls)
  texts = _attributes(cls) | {k: v for k, v in _comments(cls).items() if v}
  declared: dict[str, Any] = {}
  for field in filter(_is_flag, dataclasses.fields(cls)):
    name = _join(prefix, field.name)
    hint = hints[field.name]
    value = (_default(field) if isinstance(default, type)
             else getattr(default, field.name))
    if dataclasses.is_dataclass(hint):
      inner = define(hint if value is None else value, name, flag_values)
      declared |= inner.declared
      continue
    help_text = (
        field.metadata.get("help") or texts.get(field.name)
        or f"{cls.__name__}.{field.name}")
    if hint is bool:  # also takes --name and --noname
      flags.DEFINE_boolean(name, value, help_text, flag_values)
    else:
      flags.DEFINE(
          _parser(hint, name), name, value, help_text, flag_values, _Text())
    declared[name] = value
  return FlagSet(cls, prefix, flag_values, declared)


@contextlib.contextmanager
def naming(data: flags.FlagHolder, split: flags.FlagHolder | None = None
           ) -> Iterator[None]:
  """Puts the name of a flag before errors about the data that it names.

  Args:
    data: names the data.
    split: names the split of a data set.
  """
  try:
    yield
  except DataError as error:
    by_split = split is not None and isinstance(error, SplitError)
    flag = split if by_split else data
    raise ValueError(f"--{flag.name}: {error}") from error


def listed(flag: flags.FlagHolder) -> list[str]:
  """What a flag names, separated by commas."""
  return [part for part in map(str.strip, flag.value.split(",")) if part]


def text(value: Any) -> str:
  """A value as it is typed after `--name=`."""
  if isinstance(value, tuple):
    return ",".join(text(x) for x in value)
  return str(value).lower() if isinstance(value, bool | None) else str(value)


class _Tuple(flags.ArgumentParser):
  """`3,5` to (3, 5); an empty string to ()."""

  syntactic_help = "a comma separated list"

  def __init__(self, item: flags.ArgumentParser):
    self.item = item

  def parse(self, argument: Any) -> tuple:
    if isinstance(argument, str):
      argument = argument.split(",") if argument else ()
    return tuple(self.item.parse(x) for x in argument)


class _Optional(flags.ArgumentParser):
  """Reads `none` as None, and anything else by the inner parser."""

  def __init__(self, inner: flags.ArgumentParser):
    self.inner = inner
    self.syntactic_help = f"none or {inner.syntactic_help or 'a string'}"

  def parse(self, argument: Any) -> Any:
    is_none = isinstance(argument, str) and argument.lower() == "none"
    return None if is_none else self.inner.parse(argument)


class _Text(flags.ArgumentSerializer):
  """Serializes a value to the text that the parsers above read back."""

  def serialize(self, value: Any) -> str:
    return text(value)


def _parser(hint: Any, name: str) -> flags.ArgumentParser:
  if hint in _PARSERS:
    return _PARSERS[hint]()
  args = typing.get_args(hint)
  if typing.get_origin(hint) in (types.UnionType, typing.Union):
    inner = [arg for arg in args if arg is not types.NoneType]
    if len(inner) == 1 and len(args) == 2:
      return _Optional(_parser(inner[0], name))
  items = {arg for arg in args if arg is not Ellipsis}
  if typing.get_origin(hint) is tuple and len(items) == 1:
    item = items.pop()
    if item in _PARSERS:
      return _Tuple(_PARSERS[item]())
  raise ValueError(
      f"no flag for {name}: {hint}; use int, float, bool, str, a tuple of one"
      " of them, one of these or None, or a dataclass")


def _is_flag(field: dataclasses.Field) -> bool:
  return field.metadata.get("flag", True)


def _join(prefix: str, name: str) -> str:
  return f"{prefix}.{name}" if prefix else name


def _required(field: dataclasses.Field) -> bool:
  missing = dataclasses.MISSING
  return field.default is missing and field.default_factory is missing


def _default(field: dataclasses.Field) -> Any:
  """The field's default; None if it has none."""
  if _required(field):
    return None
  if field.default is not dataclasses.MISSING:
    return field.default
  return field.default_factory()


def _comments(cls: type) -> dict[str, str]:
  """Comment of each field: on its line, else the lines right above."""
  comments: dict[str, str] = {}
  for base in reversed(cls.__mro__[:-1]):
    above: list[str] = []
    for line in inspect.getsource(base).splitlines():
      code, _, comment = line.strip().partition("#")
      if comment and not code:
        above.append(comment.strip())
        continue
      if match := re.match(r"(\w+)\s*:", code):
        comments[match[1]] = comment.strip() or " ".join(above)
      above = []
  return comments


def _attributes(cls: type) -> dict[str, str]:
  """Entries of the docstring's "Attributes:", also `a, b: text` for both."""
  _, _, section = inspect.getdoc(cls).partition("Attributes:\n")
  section = section.partition("\n\n")[0]
  entries: dict[str, str] = {}
  for entry in re.split(r"\n?^  (?=\w)", section, flags=re.MULTILINE):
    names, _, text = entry.partition(": ")
    text = " ".join(text.split())
    entries |= {name.strip(): text for name in names.split(",")}
  return entries
