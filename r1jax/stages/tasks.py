"""Questions by the names of their data sets, and tasks of one's own.

A task of one's own is a Python file with `prompts(split)`, a list of Prompts,
and, where their verifiers are rules of its own, `VERIFIERS`, a dict from
verifier to rule. Wherever a data set is named, the path of such a file will do.
"""

from __future__ import annotations

import dataclasses
import hashlib
import importlib
import json
import os
import pathlib
import re
import sys
import types
from collections.abc import Mapping, Sequence
from typing import Any

from r1jax.core.config import check
from r1jax.core.prompt import Prompt
from r1jax.data.sources import load as load_lib
from r1jax.data.sources import mixture
from r1jax.rewards.score import Rule
from r1jax.stages.judging import Judge


def load(text: str, split: str, data_dir: str | os.PathLike = ""
         ) -> dict[str, Sequence[Prompt]]:
  """Questions of a split of every data set that `text` names.

  Args:
    text: as --data; amounts in it are not looked at.
    split: a split of each of them, e.g. "train" or "test[:100]".
    data_dir: see `data.sources.load`; what is generated needs none.
  """
  return {name: _own_prompts(name, split) if name.endswith(".py")
          else load_lib.load(name, data_dir or None, split)
          for name, _ in mixture.parse(text).amounts}


def verifiers(text: str) -> dict[str, Rule]:
  """The rules that the Python files in `text` (as --data) bring."""
  file_rules = {}
  for name, _ in mixture.parse(text).amounts:
    if name.endswith(".py"):
      file_rules |= getattr(own(name), "VERIFIERS", {})
  return file_rules


def own(path: str | os.PathLike) -> types.ModuleType:
  """A Python file of the user's with questions, imported as it is now.

  Raises:
    ValueError: there is no such file, or it has no `prompts`.
  """
  imported = module(path, "--data")
  check(hasattr(imported, "prompts"), f"{path} has no function prompts(split)")
  return imported


def module(path: str | os.PathLike, flag: str) -> types.ModuleType:
  """A Python file of the user's, imported as it is now.

  Args:
    path: of the file.
    flag: that names it.

  Raises:
    ValueError: there is no such file, or its name is taken.
  """
  file = pathlib.Path(path).resolve()
  check(file.is_file(), f"{flag} names {path}, which is not a file")
  # Under its own name, so that the children that judge can import it too.
  if str(file.parent) not in sys.path:
    sys.path.append(str(file.parent))
  importlib.invalidate_caches()  # the file may be younger than the folder's
  before = sys.modules.get(file.stem)
  imported = importlib.import_module(file.stem)
  check(getattr(imported, "__file__", None) == str(file),
        f"{path} cannot be imported as {file.stem!r}, which is"
        f" {getattr(imported, '__file__', 'a built-in module')}; rename it")
  if imported is before:  # a notebook may have written it anew
    imported = importlib.reload(imported)
  return imported


def rule_digests(text: str) -> dict[str, str]:
  """Of the Python files in `text` (as --data) that bring rules, by name.

  A rule may be any function of its file, so that it is the file that counts.
  They were imported before, and are not again: rules that children judge by
  would then be others than those of the module.
  """
  paths = [pathlib.Path(name) for name, _ in mixture.parse(text).amounts
           if name.endswith(".py")]
  return {path.name: file_digest(path) for path in paths if getattr(
      sys.modules.get(path.stem) or own(path), "VERIFIERS", None)}


def file_digest(path: str | os.PathLike) -> str:
  """Of a file's contents."""
  return hashlib.sha256(pathlib.Path(path).read_bytes()).hexdigest()[:16]


def digest(prompts: Sequence[Prompt]) -> str:
  """Of all that is asked and judged by: a run goes on with the same questions.
  """
  hasher = hashlib.sha256()
  for prompt in prompts:
    fields = [getattr(prompt, field.name) for field in
              dataclasses.fields(prompt)]
    hasher.update(json.dumps(fields, default=_written).encode(
        errors="surrogatepass"))
  return hasher.hexdigest()[:16]


def _written(value: Any) -> Any:
  """What JSON lacks and a task of one's own may have, the same in any process.
  """
  if isinstance(value, Mapping):
    return dict(value)
  if isinstance(value, set | frozenset):
    return sorted(map(repr, value))
  return getattr(value, "__dict__", None) or type(value).__qualname__


def _own_prompts(path: str, split: str) -> list[Prompt]:
  match = re.fullmatch(r"(\w+)(?:\[(\d*):(\d*)\])?", split)
  check(match is not None, f"split={split!r} of {path}: write train or"
        " test[:100]")
  name, first, last = match.groups()
  prompts = list(own(path).prompts(name))
  return prompts[int(first or 0):int(last) if last else None]


def joined(parts: Mapping[str, Sequence[Prompt]]) -> list[Prompt]:
  """All questions of all sources, numbered as in a mixture."""
  return [mixture.number(parts, name, prompt)
          for name, prompts in parts.items() for prompt in prompts]


def fitting(prompts: Sequence[Prompt], judge: Judge, limit: int,
            what: str) -> Sequence[Prompt]:
  """The prompts of at most `limit` tokens; prints how many are left out.

  What is measured on the rest is about the rest alone: it is said, and
  evaluation stores the count beside its numbers.

  Args:
    prompts: all that there are.
    judge: phrases them.
    limit: tokens that max_new_tokens leaves of context and row.
    what: name of the prompts, for the message.

  Raises:
    ValueError: none fits.
  """
  prompts = list(prompts)  # read once
  lengths = [_length(prompt, judge) for prompt in prompts]
  kept = [p for p, n in zip(prompts, lengths, strict=True) if n <= limit]
  remedy = ("lower max_new_tokens, raise row_length (training) or choose a"
            " model with a longer context")
  judge.check(kept)  # before the work
  check(len(kept) > 0, f"none of {len(prompts)} {what} prompts fits the"
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
  except ValueError as error:  # one of thousands must be found
    head = " ".join(prompt.question.split())[:60]
    raise ValueError(f"question {prompt.id} of {prompt.source!r} ({head!r}):"
                     f" {error}") from error


def all_fitting(parts: Mapping[str, Sequence[Prompt]], judge: Judge,
                limit: int, what: str) -> dict[str, Sequence[Prompt]]:
  """`fitting` of every source."""
  return {name: fitting(
      prompts, judge, limit, what if len(parts) == 1 else f"{name} {what}")
          for name, prompts in parts.items()}
