"""A digest of the code that makes prompts, to detect stale prepared data."""

from __future__ import annotations

import ast
import contextlib
import functools
import hashlib
import importlib.metadata
import pathlib
from collections.abc import Iterator, Sequence

_TOP = pathlib.Path(__file__).parents[4]  # the folder that has the package
_PACKAGE = "r1jax"


@functools.cache
def digest(modules: tuple[str, ...]) -> str:
  """SHA-256 of the sources of modules and of the r1jax modules they import.

  It includes the versions of other packages that they import, such as
  reasoning-gym, whose tasks are prompts.

  Args:
    modules: dotted names.
  """
  sources: dict[str, bytes] = {}
  others: set[str] = set()
  waiting = list(modules)
  while waiting:
    name = waiting.pop()
    if name in sources or (path := _file(name)) is None:
      continue
    sources[name] = path.read_bytes()
    for found in _imports(sources[name], name):
      if found.partition(".")[0] == _PACKAGE:
        waiting.append(found)
      else:
        others.add(found.partition(".")[0])
  digest_ = hashlib.sha256()
  for name, source in sorted(sources.items()):
    digest_.update(name.encode() + hashlib.sha256(source).digest())
  for name in _versions(sorted(others)):
    digest_.update(name.encode())
  return digest_.hexdigest()


def _file(name: str) -> pathlib.Path | None:
  """The file of a module of this package; None if `name` is not a module."""
  base = _TOP.joinpath(*name.split("."))
  for path in (base.with_suffix(".py"), base / "__init__.py"):
    if path.is_file():
      return path
  return None


def _imports(source: bytes, name: str) -> Iterator[str]:
  """All names that a source imports anywhere; some are not modules."""
  for node in ast.walk(ast.parse(source, name)):
    if isinstance(node, ast.Import):
      yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom) and node.module:
      yield node.module
      yield from (f"{node.module}.{alias.name}" for alias in node.names)


def _versions(packages: Sequence[str]) -> Iterator[str]:
  for name in packages:
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
      yield f"{name} {importlib.metadata.version(name.replace('_', '-'))}"
