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
from r1jax.core.lock import Lock

CONFIG = "config.json"
OTHERWISE = "choose another --workdir"
BEST = "best"  # WORKDIR@best, the best checkpoint of a run
_OF_A_RUN = ("checkpoints", "checkpoints_inside", "metrics.jsonl", "rollouts")


def named(what: str) -> tuple[str, str]:
  """(WORKDIR, which checkpoint) of what `orbax:` names.

  It is WORKDIR, WORKDIR@STEP or WORKDIR@best; which is "" for the newest.
  """
  folder, _, at = what.rpartition("@")
  return (folder, at) if folder and (
      at == BEST or at.isdecimal()) else (what, "")


def take(workdir: str | os.PathLike, config: dict[str, Any],
         versions: dict[str, str], *, ignore: Iterable[str] = (),
         remedies: Mapping[str, str] | None = None,
         otherwise: str = OTHERWISE) -> Lock:
  """`prepare`, under the folder's lock, which it returns.

  Raises:
    ValueError: as `prepare`.
    OSError: another process has the folder (EBUSY), or it cannot be written.
  """
  how = dict(ignore=ignore, remedies=remedies, otherwise=otherwise)
  resumes(workdir, config, **how)  # a folder that is refused is not touched
  lock = Lock(workdir)
  prepare(workdir, config, versions, **how)
  return lock


def prepare(
    workdir: str | os.PathLike, config: dict[str, Any],
    versions: dict[str, str], *, ignore: Iterable[str] = (),
    remedies: Mapping[str, str] | None = None,
    otherwise: str = OTHERWISE) -> bool:
  """Takes `workdir` for a run of `config`; returns whether it resumes one.

  A new folder gets config.json: {"config": ..., "versions": ...}. A used one
  resumes if its config is the same; versions may differ. Call it in process 0.

  Args:
    workdir: folder of the run, local or gs://.
    config: every flag as resolved, JSON-ready.
    versions: packages and commit, see `versions()`.
    ignore, remedies, otherwise: see `resumes`.

  Raises:
    ValueError: see `resumes`.
    OSError: the disk is full or read-only.
  """
  if resumes(workdir, config, ignore=ignore, remedies=remedies,
             otherwise=otherwise):
    return True
  io.write_json(epath.Path(workdir) / CONFIG,
                {"config": _plain(config), "versions": versions})
  return False


def take_for(
    result: str, folder: str | os.PathLike, config: dict[str, Any],
    versions: dict[str, str]) -> None:
  """Takes `folder` for what is written in one go, unless another's lies there.

  Args:
    result: the file that is written last; without it nothing is lost.
    folder: --out of the command.
    config: what the result depends on, JSON-ready.
    versions: packages and commit, see `versions()`.

  Raises:
    ValueError: the result of another config is there, or nothing says of which.
    OSError: the disk is full or read-only.
  """
  otherwise, folder = "choose another --out", epath.Path(folder)
  if not (folder / result).exists():
    io.write_json(folder / CONFIG,
                  {"config": _plain(config), "versions": versions})
    return
  check(resumes(folder, config, otherwise=otherwise),
        f"{folder} has {result}, and no {CONFIG} says of what; nothing was"
        f" changed; {otherwise}")


def resumes(
    workdir: str | os.PathLike, config: dict[str, Any], *,
    ignore: Iterable[str] = (), remedies: Mapping[str, str] | None = None,
    otherwise: str = OTHERWISE) -> bool:
  """Whether `workdir` holds a run of `config`; False where it holds none.

  Args:
    workdir: folder of the run, local or gs://.
    config: every flag as resolved, JSON-ready.
    ignore: top-level keys of `config` that may differ (`workdir` itself, a
      longer `steps`).
    remedies: setting, by its dotted name or the beginning of that -> what else
      to do where it differs; `{}` stands for its former value.
    otherwise: what to do in place of resuming it.

  Raises:
    ValueError: the folder holds a run of another config or one that lost its
      config. Or it is on gs:// and gcsfs is missing.
  """
  check(not os.fspath(workdir).startswith("gs://")
        or importlib.util.find_spec("gcsfs") is not None,
        f"{workdir} needs gcsfs: pip install -e '.[gcs]'")
  path, config = epath.Path(workdir) / CONFIG, _plain(config)
  if not path.exists():
    left = [name for name in _OF_A_RUN if (path.parent / name).exists()]
    check(not left, f"{workdir} has {', '.join(left)} but no {CONFIG}, so it"
          " cannot be resumed; nothing was changed; choose another --workdir")
    return False
  stored, skipped = io.read_json(path), set(ignore)
  former = {k: v for k, v in stored["config"].items() if k not in skipped}
  lines = config_lib.difference(
      former, {k: v for k, v in config.items() if k not in skipped})
  if lines:
    shown = "\n".join(f"  {line}{_remedy(line, remedies or {})}"
                      for line in lines)
    unknown = sorted(set(config) - set(former) - skipped)
    commit = stored.get("versions", {}).get("commit") or "unknown"
    older = (f"\nIts {CONFIG} says nothing of {', '.join(unknown)}: another"
             f" experiment began it, or an earlier r1jax (commit {commit}),"
             " which goes on with it." if unknown else "")
    raise ValueError(
        f"{workdir} was made by another config (its -> yours):\n{shown}{older}"
        f"\nNothing was changed. Use its flags to resume it, or {otherwise}.")
  return True


def _plain(config: dict[str, Any]) -> dict[str, Any]:
  return json.loads(json.dumps(config))


def _remedy(line: str, remedies: Mapping[str, str]) -> str:
  """What to do about a line "name: former -> new", in brackets."""
  name, _, values = line.partition(": ")
  for known, remedy in remedies.items():
    if name == known or name.startswith(f"{known}."):
      return f" ({remedy.format(values.partition(' -> ')[0])})"
  return ""


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
    # A project under git may have this package in an untracked .venv.
    git("ls-files", "--error-unmatch", ".")
    changed = git("status", "--porcelain", "--untracked-files=no")
    return git("rev-parse", "HEAD") + ("+" if changed else "")
  except (OSError, subprocess.CalledProcessError):
    return ""

