"""Whether files and folders that a stage read are still the same."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator

from etils import epath

from r1jax.report import workdir

_HEAD = 1 << 16  # bytes of each file that are looked at
_KINDS = ("orbax", "hf", "file")
# What others read of the folder of a run: not its log, nor its figures.
_OF_A_RUN = ("config.json", "reward.json", "tokenizer", "checkpoints")


def named(value: str, filled: Callable[[str], str]) -> Iterator[str]:
  """The parts of a flag's value that name a file or folder.

  They are those of a list that stand for a folder of the pipeline, and paths
  that are there: orbax:DIR, A.jsonl, my_task.py:2, rewriter.py:function.

  Args:
    value: with names in braces, which may stand for folders that are not there.
    filled: text with folders in place of those.
  """
  for part in value.split(","):
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
  """A digest of names, sizes and beginnings of all files; None without any.

  A change within a file that keeps its size and its first 64 KiB is not seen:
  checkpoints can have terabytes, and those that are made anew have other names
  or sizes in them.

  Args:
    name: a path, or orbax:DIR (or DIR@STEP), of which only that counts which
      others read.
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


def _files(path: epath.Path) -> Iterator[epath.Path]:
  if path.is_dir():
    for inner in sorted(path.iterdir()):
      yield from _files(inner)
  elif path.exists():
    yield path
