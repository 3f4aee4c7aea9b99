"""Fingerprints of the files and folders that a command reads."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator

from etils import epath

from r1jax.report import workdir

_HEAD = 1 << 16  # bytes of each file that are hashed
_KINDS = ("orbax", "hf", "file")
# What other stages read of a run's folder: not its logs or figures.
_OF_A_RUN = ("config.json", "reward.json", "tokenizer", "checkpoints")


def named(value: str, filled: Callable[[str], str]) -> Iterator[str]:
  """Yields the parts of a flag's value that name a file or folder.

  These are items of a comma-separated list that begin with a placeholder of the
  pipeline or are existing paths: orbax:DIR, A.jsonl, my_task.py:2,
  rewriter.py:function.

  Args:
    value: the flag's value, with placeholders in braces.
    filled: replaces placeholders in a text by folders.
  """
  for part in map(str.strip, value.split(",")):
    kind, colon, path = part.partition(":")
    path = path if colon and kind in _KINDS else part
    head, suffix, _ = path.partition(".py:")
    path = head + ".py" if suffix else path
    folder = workdir.named(path)[0] if kind == "orbax" else path
    local = "." in path or os.sep in path
    if path.startswith("{") or local and "http" not in kind and (
        epath.Path(filled(folder)).exists()):
      yield f"{kind}:{path}" if colon and kind in _KINDS else path


def of(name: str) -> str | None:
  """A hash of the names, sizes and first 64 KiB of all files; None without any.

  Whole files are not hashed because checkpoints can have terabytes; a change
  that keeps a file's size and first 64 KiB is therefore missed.

  Args:
    name: a path, or orbax:DIR (or DIR@STEP), where only the config, the
      tokenizer and the checkpoints count.
  """
  kind, colon, path = name.partition(":")
  top = epath.Path(path if colon and kind in _KINDS else name)
  if kind == "orbax":
    top = epath.Path(workdir.named(path)[0])
  parts = [top / part for part in _OF_A_RUN] if kind == "orbax" else [top]
  digest, any_file = hashlib.sha256(), False
  for part in parts:
    for file in _files(part):
      any_file = True
      with file.open("rb") as opened:
        head = opened.read(_HEAD)
      digest.update(f"{file.relative_to(top)} {file.stat().length}\n".encode())
      digest.update(hashlib.sha256(head).digest())
  return digest.hexdigest()[:16] if any_file else None


def of_model(init: str) -> str | None:
  """`of` the model in --init; of a run only that checkpoint, if it is named."""
  kind, _, what = init.partition(":")
  folder, step = workdir.named(what)
  return of(f"{folder}/checkpoints/{step}" if kind == "orbax" and step
            else init)


def _files(path: epath.Path) -> Iterator[epath.Path]:
  if path.is_dir():
    for inner in sorted(path.iterdir()):
      yield from _files(inner)
  elif path.exists():
    yield path
