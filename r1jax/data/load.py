"""Prompts by name: one door for every data set.

Data sets are prepared once (tfds, array_record files, no TensorFlow) under
$XDG_CACHE_HOME/r1jax/tfds, by default ~/.cache/r1jax/tfds.
"""

from __future__ import annotations

import collections.abc
import contextlib
import hashlib
import io
import os
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import tensorflow_datasets as tfds
from absl import logging
from etils import epath

from r1jax.core.types import Prompt
from r1jax.data.builders import arithmetic, gsm8k


class Prompts(collections.abc.Sequence):
  """Random access to the prompts of a prepared split; read when asked for."""

  def __init__(self, source, convert: Callable[[Mapping[str, Any]], Prompt]):
    self._source = source
    self._convert = convert

  def __len__(self) -> int:
    return len(self._source)

  def __getitem__(self, index):
    """A Prompt, or a list of them for a slice."""
    if isinstance(index, slice):
      return [self[i] for i in range(*index.indices(len(self)))]
    if not -len(self) <= index < len(self):
      raise IndexError(f"prompt {index} of {len(self)}")
    return self._convert(self._source[int(index) % len(self)])


def load(
    name: str, data_dir: str | os.PathLike | None, split: str) -> Prompts:
  """The prompts of a split.

  Args:
    name: "arith" (embedded; splits train, validation, test, hard) or "gsm8k"
      (train, validation, test).
    data_dir: for "gsm8k" the folder with its train.jsonl and test.jsonl; for
      "arith" where to keep the prepared files instead of the cache.
    split: a split of the data set, or a slice of one as tfds writes it
      ("test[:100]").
  Raises:
    ValueError: unknown name or split, missing or malformed data.
  """
  if name not in _BUILDERS:
    raise ValueError(
        f"data={name!r} is unknown; choose from {', '.join(_BUILDERS)}")
  make, convert = _BUILDERS[name]
  builder = _prepared(lambda: make(data_dir))
  if split.partition("[")[0] not in builder.info.splits:
    raise ValueError(
        f"{name} has no split {split!r}; it has"
        f" {', '.join(builder.info.splits)}")
  return Prompts(builder.as_data_source(split=split), convert)


def cache_dir() -> epath.Path:
  """Where prepared data sets are kept unless told otherwise."""
  root = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
  return epath.Path(root).expanduser() / "r1jax" / "tfds"


def _prepared(make: Callable[[], tfds.core.DatasetBuilder]):
  with _expecting_nothing():
    return _prepare(make)


def _prepare(make):
  builder = make()
  if builder.is_prepared():
    return builder
  print(f"preparing {builder.name} in {builder.data_dir} (once)", flush=True)
  tfds.disable_progress_bar()
  try:
    # What tfds prints is about downloads; there are none.
    with contextlib.redirect_stdout(io.StringIO()):
      builder.download_and_prepare()
  except OSError:
    # Another process may have finished the same data set first.
    builder = make()
    if not builder.is_prepared():
      raise
  return builder


@contextlib.contextmanager
def _expecting_nothing() -> Iterator[None]:
  """Keeps tfds from warning of the empty folder that it is about to fill."""
  def other(record):
    return not str(record.msg).startswith("Variant folder")

  logger = logging.get_absl_logger()
  logger.addFilter(other)
  try:
    yield
  finally:
    logger.removeFilter(other)


def _arithmetic(data_dir) -> tfds.core.DatasetBuilder:
  return arithmetic.Arithmetic(
      data_dir=data_dir or cache_dir(), file_format="array_record")


def _gsm8k(data_dir) -> tfds.core.DatasetBuilder:
  if not data_dir:
    raise ValueError(
        "data='gsm8k' needs --data_dir=DIR, a folder with GSM8K's"
        f" {' and '.join(gsm8k.FILES.values())}")
  # Other source files, another folder: nothing stale is ever read.
  digest = hashlib.sha256()
  for name in gsm8k.FILES.values():
    path = epath.Path(data_dir) / name
    if not path.exists():
      raise ValueError(
          f"{path} does not exist; --data_dir must hold GSM8K's"
          f" {' and '.join(gsm8k.FILES.values())}")
    digest.update(path.read_bytes())
  return gsm8k.Gsm8k(
      source=data_dir, data_dir=cache_dir() / digest.hexdigest()[:12],
      file_format="array_record")


def _arithmetic_prompt(row: Mapping[str, Any]) -> Prompt:
  return Prompt(
      id=int(row["id"]), domain="math", source="arith",
      question=_text(row["question"]), reference=_text(row["answer"]),
      metadata={"level": int(row["level"]), "kind": _text(row["kind"])})


def _gsm8k_prompt(row: Mapping[str, Any]) -> Prompt:
  return Prompt(
      id=int(row["id"]), domain="math", source="gsm8k",
      question=_text(row["question"]), reference=_text(row["reference"]),
      metadata={"solution": _text(row["answer"])})


def _text(value: bytes | str) -> str:
  return value.decode() if isinstance(value, bytes) else str(value)


_BUILDERS = {
    "arith": (_arithmetic, _arithmetic_prompt),
    "gsm8k": (_gsm8k, _gsm8k_prompt),
}
