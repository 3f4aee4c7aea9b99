"""One folder, one run: the config decides whether a run resumes."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import os
import platform
import subprocess
from collections.abc import Iterable, Mapping
from typing import Any

from etils import epath

from r1jax.core import config as config_lib
from r1jax.core import io
from r1jax.core.config import check

CONFIG = "config.json"
_OF_A_RUN = ("checkpoints", "checkpoints_inside", "metrics.jsonl", "rollouts")


def prepare(
    workdir: str | os.PathLike, config: dict[str, Any],
    versions: dict[str, str], *, ignore: Iterable[str] = (),
    remedies: Mapping[str, str] | None = None,
    otherwise: str = "choose another --workdir") -> bool:
  """Takes `workdir` for a run of `config`; returns whether it resumes one.

  A new folder gets config.json: {"config": ..., "versions": ...}. A used one
  resumes if its config is the same; versions may differ. Call it in process 0.

  Args:
    workdir: folder of the run, local or gs://.
    config: every flag as resolved, JSON-ready.
    versions: packages and commit, see `versions()`.
    ignore: top-level keys of `config` that may differ (`workdir` itself, a
      longer `steps`).
    remedies: setting, by its dotted name -> what else to do where it differs;
      `{}` stands for its former value.
    otherwise: what to do in place of resuming it.

  Raises:
    ValueError: the folder holds a run of another config or one that lost its
      config; nothing was touched. Or it is on gs:// and gcsfs is missing.
    OSError: the disk is full or read-only.
  """
  check(not os.fspath(workdir).startswith("gs://")
        or importlib.util.find_spec("gcsfs") is not None,
        f"{workdir} needs gcsfs: pip install 'r1jax[gcs]'")
  workdir = epath.Path(workdir)
  config = json.loads(json.dumps(config))
  path = workdir / CONFIG
  if not path.exists():
    left = [name for name in _OF_A_RUN if (workdir / name).exists()]
    if left:
      raise ValueError(
          f"{workdir} has {', '.join(left)} but no {CONFIG}, so it cannot be"
          " resumed; nothing was changed; choose another --workdir")
    io.write_json(path, {"config": config, "versions": versions})
    return False
  stored = io.read_json(path)["config"]
  skipped = set(ignore)
  lines = config_lib.difference(
      {k: v for k, v in stored.items() if k not in skipped},
      {k: v for k, v in config.items() if k not in skipped})
  if lines:
    shown = "\n".join(f"  {line}{_remedy(line, remedies or {})}"
                      for line in lines)
    raise ValueError(
        f"{workdir} was made by another config (its -> yours):\n{shown}\n"
        f"Nothing was changed. Use its flags to resume it, or {otherwise}.")
  return True


def _remedy(line: str, remedies: Mapping[str, str]) -> str:
  """What to do about a line "name: former -> new", in brackets."""
  name, _, values = line.partition(": ")
  if name not in remedies:
    return ""
  return f" ({remedies[name].format(values.partition(' -> ')[0])})"


def versions(
    packages: Iterable[str] = ("jax", "jaxlib", "flax", "optax",
                               "orbax-checkpoint", "numpy", "r1jax"),
    root: str | os.PathLike | None = None) -> dict[str, str]:
  """Versions of Python and `packages`, and the git commit of `root`.

  The commit ends in `+` where files differ from it, and is "" where `root` (the
  folder of this package by default) is no checkout.
  """
  version_of = {"python": platform.python_version()}
  for name in packages:
    try:
      version_of[name] = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
      version_of[name] = "not installed"
  return version_of | {"commit": _commit(root or os.path.dirname(__file__))}


def _commit(root: str | os.PathLike) -> str:
  def git(*arguments: str) -> str:
    return subprocess.run(
        ["git", *arguments], cwd=root, check=True, capture_output=True,
        text=True).stdout.strip()

  try:
    changed = git("status", "--porcelain", "--untracked-files=no")
    return git("rev-parse", "HEAD") + ("+" if changed else "")
  except (OSError, subprocess.CalledProcessError):
    return ""

