"""A workdir holds one run; its stored config decides whether a run resumes."""

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
BEST = "best"  # WORKDIR@best is the best checkpoint of a run
# What a folder has only after its config was written.
_OF_A_RUN = ("checkpoints", "checkpoints_inside", "metrics.jsonl", "rollouts",
             "samples", "samples_0", "answers")


def named(what: str) -> tuple[str, str]:
  """Splits the part behind `orbax:` into (WORKDIR, checkpoint).

  Args:
    what: WORKDIR, WORKDIR@STEP or WORKDIR@best.

  Returns:
    The folder, and STEP, "best" or "" (the newest checkpoint).
  """
  folder, _, at = what.rpartition("@")
  return (folder, at) if folder and (
      at == BEST or at.isdecimal()) else (what, "")


def take(workdir: str | os.PathLike, config: dict[str, Any],
         versions: dict[str, str], *, ignore: Iterable[str] = (),
         remedies: Mapping[str, str] | None = None,
         otherwise: str = OTHERWISE) -> Lock:
  """Locks the folder, calls `prepare`, and returns the lock.

  Raises:
    ValueError: as `prepare`.
    OSError: another process holds the folder (EBUSY), or it cannot be written.
  """
  how = dict(ignore=ignore, remedies=remedies, otherwise=otherwise)
  resumes(workdir, config, **how)  # raises before the folder is changed
  lock = Lock(workdir)
  prepare(workdir, config, versions, **how)
  return lock


def prepare(
    workdir: str | os.PathLike, config: dict[str, Any],
    versions: dict[str, str], *, ignore: Iterable[str] = (),
    remedies: Mapping[str, str] | None = None,
    otherwise: str = OTHERWISE) -> bool:
  """Sets up `workdir` for a run of `config`; returns whether it resumes a run.

  Writes {"config": ..., "versions": ...} to config.json in a new folder. A used
  folder is resumed if its config is the same; versions may differ. Call it in
  process 0.

  Args:
    workdir: folder of the run, local or gs://.
    config: resolved value of every flag, JSON-serialisable.
    versions: of packages, and the commit, see `versions()`.
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
  """Sets up the output folder of a command that does not resume.

  Args:
    result: name of the file that the command writes last; a folder of this
      command without it holds nothing worth keeping and is used again.
    folder: --out of the command.
    config: what the result depends on, JSON-serialisable.
    versions: of packages, and the commit, see `versions()`.

  Raises:
    ValueError: the folder has a result of another config, or of an unknown
      one, or is of another command.
    OSError: the disk is full or read-only.
  """
  otherwise, folder = "choose another --out", epath.Path(folder)
  if not (folder / result).exists():
    if (folder / CONFIG).exists():
      check(stored_in(folder)["config"].keys() == config.keys(),
            f"{folder} is of another command, as its {CONFIG} says; nothing was"
            f" changed; {otherwise}")
    else:
      resumes(folder, config, otherwise=otherwise)  # raises if it is a run's
    io.write_json(folder / CONFIG,
                  {"config": _plain(config), "versions": versions})
    return
  check(resumes(folder, config, otherwise=otherwise),
        f"{folder} has {result} but no {CONFIG} that says what made it; nothing"
        f" was changed; {otherwise}")


def stored_in(workdir: str | os.PathLike) -> dict[str, Any]:
  """What the config.json of a run holds: "config", and perhaps "versions".

  Raises:
    ValueError: it is damaged, or not of a run.
  """
  path = epath.Path(workdir) / CONFIG
  stored = io.read_json(path)
  check(isinstance(stored, dict) and isinstance(stored.get("config"), dict),
        f"{path} is not the config of a run" + (
            f"; it is that of a Hugging Face model: hf:{workdir} reads it"
            if isinstance(stored, dict) and "model_type" in stored else
            "; name the --workdir of a run, or restore the file"))
  return stored


def resumes(
    workdir: str | os.PathLike, config: dict[str, Any], *,
    ignore: Iterable[str] = (), remedies: Mapping[str, str] | None = None,
    otherwise: str = OTHERWISE) -> bool:
  """True if `workdir` holds a run of `config`, False if it holds no run.

  Args:
    workdir: folder of the run, local or gs://.
    config: resolved value of every flag, JSON-serialisable.
    ignore: top-level keys of `config` that may differ (`workdir` itself, a
      longer `steps`).
    remedies: {dotted name of a setting, or its beginning: advice that is added
      where that setting differs}; `{}` in it stands for the former value.
    otherwise: the advice instead of resuming, for the error.

  Raises:
    ValueError: the folder holds a run of another config, or a run without
      config.json; or it is on gs:// and gcsfs is missing.
  """
  check(not os.fspath(workdir).startswith("gs://")
        or importlib.util.find_spec("gcsfs") is not None,
        f"{workdir} needs gcsfs: pip install -e '.[gcs]'")
  path, config = epath.Path(workdir) / CONFIG, _plain(config)
  if not path.exists():
    left = [name for name in _OF_A_RUN if (path.parent / name).exists()]
    check(not left, f"{workdir} has {', '.join(left)} but no {CONFIG}, so it"
          f" cannot be resumed; nothing was changed; {otherwise}")
    return False
  stored, skipped = stored_in(workdir), set(ignore)
  former = {k: v for k, v in stored["config"].items() if k not in skipped}
  lines = config_lib.difference(
      former, {k: v for k, v in config.items() if k not in skipped})
  if lines:
    shown = "\n".join(f"  {line}{_remedy(line, remedies or {})}"
                      for line in lines)
    unknown = sorted(set(config) - set(former) - skipped)
    commit = stored.get("versions", {}).get("commit") or "unknown"
    older = (f"\nIts {CONFIG} lacks {', '.join(unknown)}: it was begun by"
             f" another experiment, or by an earlier r1jax (commit {commit}),"
             " which can resume it." if unknown else "")
    raise ValueError(
        f"{workdir} was made by another config (its -> yours):\n{shown}{older}"
        f"\nNothing was changed. Use its flags to resume it, or {otherwise}.")
  return True


def _plain(config: dict[str, Any]) -> dict[str, Any]:
  return json.loads(json.dumps(config))


def _remedy(line: str, remedies: Mapping[str, str]) -> str:
  """The advice about a line "name: former -> new", in brackets."""
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

  The commit ends in `+` if tracked files differ from it. It is "" if `root` (by
  default the folder of this package) is not in a git checkout.
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
    # Fails if this package is in an untracked .venv of another repository.
    git("ls-files", "--error-unmatch", ".")
    changed = git("status", "--porcelain", "--untracked-files=no")
    return git("rev-parse", "HEAD") + ("+" if changed else "")
  except (OSError, subprocess.CalledProcessError):
    return ""

