"""Config dataclasses to JSON and back; unknown or mistyped keys are errors."""

from __future__ import annotations

import dataclasses
import types
import typing
from typing import Any, TypeVar

T = TypeVar("T")


class DataError(ValueError):
  """Data that a flag names cannot be used.

  The message does not say which flag: `experiments` knows, and puts it before.
  """


class SplitError(DataError):
  """The split of a data set cannot be used, not the data set itself."""


def to_dict(config: Any) -> dict[str, Any]:
  """Plain dict (nested, JSON-ready) of a config dataclass."""
  return dataclasses.asdict(config)


def from_dict(cls: type[T], values: dict[str, Any]) -> T:
  """Builds `cls` from a dict made by `to_dict`, also after a pass through JSON.

  Raises:
    ValueError: a key is not a field of `cls` (the message lists the fields), a
      field without default is missing, or a value is not of its field's type.
  """
  hints = typing.get_type_hints(cls)
  fields = {f.name: f for f in dataclasses.fields(cls)}
  unknown = sorted(set(values) - set(fields))
  if unknown:
    raise ValueError(
        f"{cls.__name__} has no field {', '.join(unknown)}; it has"
        f" {', '.join(sorted(fields))}")
  missing = [
      name for name, f in fields.items() if name not in values
      and f.default is dataclasses.MISSING
      and f.default_factory is dataclasses.MISSING]
  if missing:
    raise ValueError(f"{cls.__name__} needs {', '.join(missing)}")
  return cls(**{
      k: _value(hints[k], v, f"{cls.__name__}.{k}") for k, v in values.items()})


def _value(hint: Any, value: Any, where: str) -> Any:
  origin, args = typing.get_origin(hint), typing.get_args(hint)
  if origin in (types.UnionType, typing.Union):
    if value is None and types.NoneType in args:
      return None
    hints = [arg for arg in args if arg is not types.NoneType]
    return _value(hints[0], value, where) if len(hints) == 1 else value
  if dataclasses.is_dataclass(hint) and isinstance(value, dict):
    return from_dict(hint, value)
  if origin is tuple and isinstance(value, list | tuple):
    if args[-1] is Ellipsis:
      args = args[:1] * len(value)
    if len(args) != len(value):
      raise ValueError(f"{where}={value!r} should have {len(args)} items")
    return tuple(_value(arg, v, where) for arg, v in zip(args, value))
  if hint is float and type(value) is int:
    return float(value)
  # A bool is an int to isinstance, but not to a config.
  if hint in (bool, int, float, str) and type(value) is not hint:
    raise ValueError(f"{where}={value!r} should be of type {hint.__name__}")
  return value


def difference(
    old: dict[str, Any], new: dict[str, Any], at: str = "") -> list[str]:
  """Lines `path: old -> new` for every leaf that differs between two dicts."""
  lines = []
  for key in sorted(set(old) | set(new)):
    a, b, path = old.get(key), new.get(key), f"{at}{key}"
    if isinstance(a, dict) and isinstance(b, dict):
      lines += difference(a, b, path + ".")
    elif _plain(a) != _plain(b):
      lines.append(f"{path}: {a!r} -> {b!r}")
  return lines


def _plain(value: Any) -> Any:
  return list(value) if isinstance(value, tuple) else value


def check(condition: bool, message: str, error: type[ValueError] = ValueError
          ) -> None:
  """Raises error(message) unless `condition`; for validating configs."""
  if not condition:
    raise error(message)
