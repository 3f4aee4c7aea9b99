"""The experiments by name, and what starts one as a process of its own.

A clone has them as `experiments`, a wheel as `r1jax.experiments`, so that they
neither hide a project's own `experiments/` nor are hidden by it. That is why
they import each other by relative names.
"""

from __future__ import annotations

import ast
import os
import pathlib
import sys
from collections.abc import Mapping

_FOLDER = pathlib.Path(__file__).parent
# glibc's, by which it keeps the memory of a run; launch/env.sh says why.
_TUNABLES = ("glibc.malloc.hugetlb=1:glibc.malloc.mmap_max=0"
             ":glibc.malloc.arena_max=1"
             ":glibc.malloc.trim_threshold=100000000000"
             ":glibc.malloc.top_pad=500000000")


def names() -> dict[str, str]:
  """Every experiment, with the first line of what it says of itself."""
  found = {}
  for path in sorted(_FOLDER.glob("*.py")):
    text = path.read_text()
    if "\n  start.run(main" in text:
      found[path.stem] = ast.get_docstring(ast.parse(text)).partition("\n")[0]
  return found


def words(name: str) -> list[str]:
  """The command of an experiment, to which its flags are added."""
  # In a wheel, folders called r1jax where the user happens to be do not count.
  safe = ["-P"] if "." in __package__ else []
  return [sys.executable, *safe, "-m", f"{__package__}.{name}"]


def environment() -> Mapping[str, str]:
  """What launch/env.sh sets, under what is set already."""
  cache = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
  return {
      "JAX_COMPILATION_CACHE_DIR": f"{cache}/r1jax/xla",
      "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.5",
      "GLIBC_TUNABLES": _TUNABLES} | dict(os.environ)
