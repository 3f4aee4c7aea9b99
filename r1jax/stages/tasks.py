"""Loads questions by data set name, and users' own tasks.

A task is a Python file with a function `prompts(split)` that returns a list of
Prompts and, for verifiers of its own, a dict `VERIFIERS` from verifier to rule.
Its path can be given wherever a data set is named.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import importlib
import json
import os
import pathlib
import re
import sys
import traceback
import types
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from r1jax.core.config import DataError, SplitError, check
from r1jax.core.prompt import Prompt
from r1jax.data.sources import load as load_lib
from r1jax.data.sources import mixture
from r1jax.rewards.score import Rule
from r1jax.stages.judging import Judge

# Where errors in a user's code pass through.
_OURS = (os.path.dirname(importlib.__file__), os.path.dirname(__file__))


def load(text: str, split: str, data_dir: str | os.PathLike = ""
         ) -> dict[str, Sequence[Prompt]]:
  """Questions of a split of every data set that `text` names.

  Args:
    text: the value of --data; amounts in it are ignored.
    split: a split of each data set, e.g. "train" or "test[:100]".
    data_dir: see `data.sources.load`; generated data sets need none.
  """
  return {name: _own_prompts(name, split) if name.endswith(".py")
          else load_lib.load(name, data_dir or None, split)
          for name, _ in mixture.parse(text).amounts}


def verifiers(text: str) -> dict[str, Rule]:
  """The rules of the task files in `text` (the value of --data)."""
  file_rules = {}
  for name, _ in mixture.parse(text).amounts:
    if name.endswith(".py"):
      file_rules |= getattr(own(name), "VERIFIERS", {})
  return file_rules


def own(path: str | os.PathLike) -> types.ModuleType:
  """Imports (or reloads) a task file.

  Raises:
    DataError: there is no such file, or it has no `prompts`.
  """
  imported = module(path)
  check(hasattr(imported, "prompts"), f"{path} has no function prompts(split)",
        DataError)
  return imported


def module(path: str | os.PathLike) -> types.ModuleType:
  """Imports (or reloads) a user's Python file.

  Raises:
    DataError: there is no such file, or another module has its name.
  """
  file = pathlib.Path(path).resolve()
  check(file.is_file(), f"{path} is not a file", DataError)
  # By its own name, so that the child processes that judge can import it too.
  if str(file.parent) not in sys.path:
    sys.path.append(str(file.parent))
  importlib.invalidate_caches()  # the file may be newer than the import cache
  before = sys.modules.get(file.stem)
  with told(f"{path} cannot be imported"):
    imported = importlib.import_module(file.stem)
  check(getattr(imported, "__file__", None) == str(file),
        f"{path} cannot be imported as {file.stem!r}, which is"
        f" {getattr(imported, '__file__', 'a built-in module')}; rename it",
        DataError)
  if imported is before:  # a notebook may have rewritten it
    with told(f"{path} cannot be imported"):
      imported = importlib.reload(imported)
  return imported


@contextlib.contextmanager
def told(what: str) -> Iterator[None]:
  """Turns an error in a user's code into one sentence with the line.

  Args:
    what: has failed; the file is named in it.

  Raises:
    DataError: instead of anything else that the block raises.
  """
  try:
    yield
  except DataError:
    raise
  except (Exception, SystemExit) as error:
    said, places = str(error), [
        (at.filename, at.lineno)
        for at in traceback.extract_tb(error.__traceback__)
        if os.path.isfile(at.filename) and not at.filename.startswith(_OURS)]
    if isinstance(error, SyntaxError):
      said, places = error.msg, [(error.filename, error.lineno)]
    # The last in the file that was called, not in what that has called.
    lines = [line for file, line in places if file == places[0][0]]
    place = f", line {lines[-1]} of {places[0][0]}" if places else ""
    raise DataError(
        f"{what}: {type(error).__name__} ({said}){place}") from error


def rule_digests(text: str) -> dict[str, str]:
  """Digests of the task files in `text` (the value of --data) that have rules.

  The whole file is hashed, because a rule may call any function of it. Modules
  that are imported already are not reloaded, because child processes may judge
  by their present rules.
  """
  paths = [pathlib.Path(name) for name, _ in mixture.parse(text).amounts
           if name.endswith(".py")]
  return {path.name: file_digest(path) for path in paths if getattr(
      sys.modules.get(path.stem) or own(path), "VERIFIERS", None)}


def file_digest(path: str | os.PathLike) -> str:
  """A short hash of a file's contents."""
  return hashlib.sha256(pathlib.Path(path).read_bytes()).hexdigest()[:16]


def digest(prompts: Sequence[Prompt]) -> str:
  """A short hash of all fields of the questions, to detect changes on resume.
  """
  hasher = hashlib.sha256()
  for prompt in prompts:
    fields = [getattr(prompt, field.name) for field in
              dataclasses.fields(prompt)]
    hasher.update(json.dumps(fields, default=_written).encode(
        errors="surrogatepass"))
  return hasher.hexdigest()[:16]


def _written(value: Any) -> Any:
  """JSON for other types in a user's prompts, the same in every process."""
  if isinstance(value, Mapping):
    return dict(value)
  if isinstance(value, set | frozenset):
    return sorted(map(repr, value))
  return getattr(value, "__dict__", None) or type(value).__qualname__


def _own_prompts(path: str, split: str) -> list[Prompt]:
  match = re.fullmatch(r"(\w+)(?:\[(\d*):(\d*)\])?", split)
  check(match is not None, f"{split!r} is not a split of {path}; write train or"
        " test[:100]", SplitError)
  name, first, last = match.groups()
  imported = own(path)
  with told(f"{path}: prompts({name!r}) fails"):
    prompts = imported.prompts(name)
    check(isinstance(prompts, Iterable), f"{path}: prompts({name!r}) returns"
          f" {prompts!r}, not a list of Prompts", DataError)
    prompts = list(prompts)
  for prompt in prompts:
    check(isinstance(prompt, Prompt), f"{path}: prompts({name!r}) returns a"
          f" list with {prompt!r}, not of Prompts", DataError)
  return prompts[int(first or 0):int(last) if last else None]


def joined(parts: Mapping[str, Sequence[Prompt]]) -> list[Prompt]:
  """All questions of all sources, with ids as in a mixture."""
  return [mixture.number(parts, name, prompt)
          for name, prompts in parts.items() for prompt in prompts]


def fitting(prompts: Sequence[Prompt], judge: Judge, limit: int,
            what: str) -> Sequence[Prompt]:
  """The prompts of at most `limit` tokens; prints how many are left out.

  The number matters for evaluations, which then cover the rest only, and store
  it with their results.

  Args:
    prompts: the questions.
    judge: renders them.
    limit: tokens that max_new_tokens leaves of context and row.
    what: name of the prompts, for the message.

  Raises:
    ValueError: there is no prompt, or none fits.
  """
  prompts = list(prompts)  # read once
  check(len(prompts) > 0, f"there are no {what} prompts, the split is empty;"
        " choose another split or other data")
  lengths = [_length(prompt, judge) for prompt in prompts]
  kept = [p for p, n in zip(prompts, lengths, strict=True) if n <= limit]
  remedy = ("lower max_new_tokens, raise row_length (training) or choose a"
            " model with a longer context")
  judge.check(kept)  # before the work
  check(len(kept) > 0, f"none of {len(prompts)} {what} prompts fits into the"
        f" {max(limit, 0)} tokens that are left for it (the shortest has"
        f" {min(lengths, default=0)}): {remedy}")
  if len(kept) < len(prompts):
    print(f"{len(prompts) - len(kept)} of {len(prompts)} {what} prompts are"
          f" left out: they have more than {limit} tokens; to use them,"
          f" {remedy}", flush=True)
  return kept


def _length(prompt: Prompt, judge: Judge) -> int:
  try:
    return len(judge.tokens(prompt))
  except ValueError as error:  # name the question, one of thousands
    head = " ".join(prompt.question.split())[:60]
    raise ValueError(f"question {prompt.id} of {prompt.source!r} ({head!r}):"
                     f" {error}") from error


def all_fitting(parts: Mapping[str, Sequence[Prompt]], judge: Judge,
                limit: int, what: str) -> dict[str, Sequence[Prompt]]:
  """`fitting` of every source."""
  return {name: fitting(
      prompts, judge, limit, what if len(parts) == 1 else f"{name} {what}")
          for name, prompts in parts.items()}
