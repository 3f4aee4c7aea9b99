"""`load`: the prompts of any data set, by its name.

A data set is prepared once (with tfds, as array_record files, without
TensorFlow) under $XDG_CACHE_HOME/r1jax/tfds, by default ~/.cache/r1jax/tfds. It
is prepared again when its source files or the code that reads them change.
"""

from __future__ import annotations

import collections.abc
import contextlib
import difflib
import hashlib
import io
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import tensorflow_datasets as tfds
from absl import logging
from etils import epath

from r1jax.core import io as core_io
from r1jax.core.config import DataError, SplitError, check
from r1jax.core.prompt import Prompt
from r1jax.data.sources.builders import (
  code,
  domain,
  general,
  logic,
  math,
  record,
  stem,
)

READ = 512  # prompts that iteration reads at a time


class Prompts(collections.abc.Sequence):
  """Random access to the prompts of a prepared split, read on access.

  Attributes:
    skipped: for each malformed row of the data set "FILE:LINE: reason".
  """

  def __init__(self, source, convert: Callable[[Mapping[str, Any]], Prompt],
               skipped: Sequence[str] = ()):
    self._source = source
    self._convert = convert
    self.skipped = tuple(skipped)

  def __len__(self) -> int:
    return len(self._source)

  def __getitem__(self, index):
    """A Prompt, or a list of them for a slice."""
    if isinstance(index, slice):
      wanted = range(*index.indices(len(self)))
      return [self._convert(row) for row in self._source.__getitems__(wanted)]
    if not -len(self) <= index < len(self):
      raise IndexError(f"prompt {index} of {len(self)}")
    return self._convert(self._source[int(index) % len(self)])

  def __iter__(self) -> Iterator[Prompt]:
    for begin in range(0, len(self), READ):  # twice as fast as one by one
      yield from self[begin:begin + READ]


def load(
    name: str, data_dir: str | os.PathLike | None, split: str) -> Prompts:
  """The prompts of a split.

  Args:
    name: one of SOURCES. "prompts" are the user's own prompts in SPLIT.jsonl
      files, one JSON object per line (`builders.record.from_json`); in
      "math/prompts" all are of one domain.
    data_dir: the folder with the source's files, or its parent if the folder
      has the source's name; None for generated data.
    split: a split, or a slice of one in tfds's notation ("test[:100]"), which
      may end beyond the split's end.

  Raises:
    DataError: unknown name, missing data.
    SplitError: unknown split, or one without prompts.
    ValueError: malformed data.
  """
  if name not in SOURCES:
    raise DataError(f"{name!r} is unknown; {_hint(name)}choose from"
                    f" {', '.join(SOURCES)}")
  cls = _BUILDERS[SOURCES[name]]
  source = cls.builder_configs[name.rpartition("/")[2]]
  folder = None if source.module else _folder(name, source, data_dir)
  # The folder's name depends on the files' contents and on the code that reads
  # them, so stale prepared data is never read.
  where = cache_dir() / _digest(source.sources(folder), source.code())
  builder = _prepared(
      lambda: cls(
          config=source.name, data_dir=where, file_format="array_record"),
      folder)
  if split.partition("[")[0] not in builder.info.splits:
    raise SplitError(
        f"{name} has no split {split!r}; it has"
        f" {', '.join(builder.info.splits)}"
        + (f" in {folder} (files: {source.needs()})" if folder else ""))
  sizes = {part: info.num_examples
           for part, info in builder.info.splits.items()}
  split = _within(name, split, sizes, builder)
  return Prompts(
      builder.as_data_source(split=split), record.decode,
      core_io.read_json(epath.Path(builder.data_dir) / domain.SKIPPED))


def _hint(name: str) -> str:
  """Advice for a file in place of a name, or for a misspelt name."""
  if "." in name or os.path.exists(name):
    return ("for your own prompts give --data=prompts --data_dir=DIR with"
            " DIR/train.jsonl and DIR/validation.jsonl, for a task in Python"
            " (questions and a reward rule) --data=FILE.py; otherwise ")
  alike = difflib.get_close_matches(name, SOURCES, n=1)
  return f"did you mean {alike[0]}? Otherwise " if alike else ""


def _within(name: str, split: str, sizes: Mapping[str, int],
            builder: domain.Domain) -> str:
  """The split; a slice cut to the split's size, since tfds raises otherwise.

  Raises:
    SplitError: it is no split or slice, or has no prompts.
  """
  cut = split
  if match := re.fullmatch(r"(\w+)\[(\d*):(\d*)\]", split):
    part, first, last = match.groups()
    end = min(int(last or sizes[part]), sizes[part])
    cut = f"{part}[{min(int(first or 0), end)}:{end}]"
  try:
    count = builder.info.splits[cut].num_examples
  except (ValueError, KeyError, AssertionError) as error:
    raise SplitError(f"{split!r} of {name} is not a split or a slice of one;"
                     " write train, test[:100] or test[:10%]") from error
  check(count > 0, f"{split!r} of {name} has no prompts; there are "
        + ", ".join(f"{size} in {part}" for part, size in sizes.items()),
        SplitError)
  return cut


def _folder(
    name: str, source: domain.Source, data_dir: str | os.PathLike | None,
) -> epath.Path:
  needed = f"a folder with its files: {source.needs()}"
  if not data_dir:
    raise DataError(f"{name!r} needs --data_dir=DIR, {needed}")
  folder = source.find(epath.Path(data_dir).expanduser())
  if folder is None:
    inside = source.folder or source.name
    raise DataError(
        f"{name} is neither in {data_dir} nor in {data_dir}/{inside}; it needs"
        f" {needed}")
  return folder


def _digest(paths: Sequence[epath.Path], code: str) -> str:
  """Digest of the files' names and contents and of `code`, 12 hex digits."""
  digest = hashlib.sha256(code.encode())
  for path in paths:
    digest.update(f"{path.parent.name}/{path.name}\n".encode())
    with core_io.opened(path) as file:
      content = hashlib.sha256()
      while block := file.read(1 << 20):
        content.update(block)
    digest.update(content.digest())
  return digest.hexdigest()[:12]


def cache_dir() -> epath.Path:
  """The folder of prepared data sets."""
  root = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
  return epath.Path(root).expanduser() / "r1jax" / "tfds"


def _prepared(
    make: Callable[[], domain.Domain], folder: epath.Path | None,
) -> domain.Domain:
  with _expecting_nothing():
    builder = make()
    if builder.is_prepared():
      return builder
    print(f"preparing {builder.info.full_name} in {builder.data_dir} (once)",
          flush=True)
    tfds.disable_progress_bar()
    config = tfds.download.DownloadConfig(manual_dir=folder)
    try:
      # tfds prints about downloads; there are none.
      with contextlib.redirect_stdout(io.StringIO()):
        builder.download_and_prepare(download_config=config)
    except OSError as error:
      # Another process may have finished the same data set first.
      builder = make()
      if not builder.is_prepared():
        raise OSError(
            error.errno, f"could not prepare {builder.info.full_name} in"
            f" {builder.data_dir}: {error.strerror or error};"
            f" {core_io.remedy(error.errno)}, by XDG_CACHE_HOME") from error
    return builder


@contextlib.contextmanager
def _expecting_nothing() -> Iterator[None]:
  """Silences tfds's warning that the folder to be prepared is empty."""
  def other(record):
    return not str(record.msg).startswith("Variant folder")

  logger = logging.get_absl_logger()
  logger.addFilter(other)
  try:
    yield
  finally:
    logger.removeFilter(other)


_BUILDERS: dict[str, type[domain.Domain]] = {
    cls.name: cls for cls in (
        math.Math, code.Code, stem.Stem, logic.Logic, general.General,
        general.Mixed)}

# Name -> domain ("mixed": any).
SOURCES: dict[str, str] = {
    source.name: cls.name for cls in _BUILDERS.values()
    for source in cls.BUILDER_CONFIGS}
SOURCES |= {
    f"{name}/prompts": name for name in _BUILDERS if name != "mixed"}
