"""The experiments by name, and the command that starts each as a process.

In a clone the package is `experiments`, in a wheel `r1jax.experiments`, so that
it does not clash with a project's own `experiments/`. Therefore experiments
import each other by relative names.
"""

from __future__ import annotations

import ast
import os
import pathlib
import sys
from collections.abc import Mapping

_FOLDER = pathlib.Path(__file__).parent
# glibc's allocator keeps freed memory; launch/env.sh says why.
_TUNABLES = ("glibc.malloc.hugetlb=1:glibc.malloc.mmap_max=0"
             ":glibc.malloc.arena_max=1"
             ":glibc.malloc.trim_threshold=100000000000"
             ":glibc.malloc.top_pad=500000000")


def names() -> dict[str, str]:
  """Every experiment with the first line of its docstring."""
  found = {}
  for path in sorted(_FOLDER.glob("*.py")):
    text = path.read_text()
    if "\n  start.run(main" in text:
      found[path.stem] = ast.get_docstring(ast.parse(text)).partition("\n")[0]
  return found


def words(name: str) -> list[str]:
  """The command of an experiment, without flags."""
  # In a wheel, ignore a folder r1jax in the user's working directory.
  safe = ["-P"] if "." in __package__ else []
  return [sys.executable, *safe, "-m", f"{__package__}.{name}"]


def environment() -> Mapping[str, str]:
  """The environment with the variables of launch/env.sh as defaults."""
  cache = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
  return {
      "JAX_COMPILATION_CACHE_DIR": f"{cache}/r1jax/xla",
      "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.5",
      "GLIBC_TUNABLES": _TUNABLES} | dict(os.environ)
