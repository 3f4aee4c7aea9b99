"""Base of the tfds data sets of all domains: sources, splits, records."""

from __future__ import annotations

import dataclasses
import functools
import importlib
import importlib.util
import json
import pathlib
from collections.abc import Callable, Iterator, Mapping, Sequence

import tensorflow_datasets as tfds
from absl import logging
from etils import epath

from r1jax.core.prompt import Prompt
from r1jax.data.sources.builders import record, rows, shaping

SKIPPED = "skipped.json"  # list of malformed rows, beside the prepared files
SPLIT_IDS = 1_000_000  # distance between the ids of a source's splits

Reader = Callable[[Sequence[epath.Path], str], rows.Items]


@dataclasses.dataclass(eq=False, kw_only=True)
class Source(tfds.core.BuilderConfig):
  """One data set of a domain: its publisher's files, or a generator.

  Attributes:
    reader: yields the prompts, with ids from 0, and the malformed rows of a
      split's files.
    files: {split: glob patterns of its files}. The first pattern that matches
      any file is used. A split without files does not exist. With `{}` every
      FILE.jsonl is a split of that name.
    beside: glob pattern of further files that the reader or module needs.
    folder: name of the source's folder in a folder of several sources; its
      own name if empty.
    first_ids: {split: number added to its ids}; by default `SPLIT_IDS` times
      the split's index.
    module: instead of reader and files, a module with `SPLITS` ({split: number
      of rows}) and `prompts(split)`; or "module:name", an object in it that has
      both.
  """

  reader: Reader | None = None
  files: Mapping[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)
  beside: str = ""
  folder: str = ""
  first_ids: Mapping[str, int] = dataclasses.field(default_factory=dict)
  module: str = ""

  def find(self, data_dir: epath.Path | None) -> epath.Path | None:
    """The folder with the source's files: `data_dir` or a subfolder.

    The subfolder is named like the source, or has a suffix: DIR/gsm8k,
    DIR/gsm8k_v1. None if there is no such folder.
    """
    if not data_dir or not data_dir.is_dir():
      return None
    name = self.folder or self.name
    longer = sorted(data_dir.glob(f"{name}_*"))
    for folder in (data_dir, data_dir / name, *longer):
      if folder.is_dir() and self.splits(folder):
        return folder
    return None

  def splits(self, folder: epath.Path) -> dict[str, list[epath.Path]]:
    """{split: files} of the splits that exist in a folder."""
    if not self.files:
      return {path.stem: [path] for path in sorted(folder.glob("*.jsonl"))
              if path.stem.isidentifier()}
    by_split = {}
    for split, patterns in self.files.items():
      for pattern in patterns:
        if paths := sorted(folder.glob(pattern)):
          by_split[split] = paths
          break
    return by_split

  def sources(self, folder: epath.Path | None) -> list[epath.Path]:
    """All files that the prompts are made from."""
    if self.module:
      module = self.module.partition(":")[0]
      path = epath.Path(importlib.util.find_spec(module).origin)
      return [path, *(path.parent.glob(self.beside) if self.beside else ())]
    split_files = self.splits(folder).values()
    files = {path for paths in split_files for path in paths}
    return sorted(files | set(folder.glob(self.beside) if self.beside else ()))

  def code(self) -> str:
    """A digest of the code that makes the prompts, see `shaping.digest`."""
    reader = self.reader
    while isinstance(reader, functools.partial):
      reader = reader.func
    made = self.module.partition(":")[0] or reader.__module__
    return shaping.digest((made, __name__))

  def read(self, folder: epath.Path | None, split: str) -> rows.Items:
    """The prompts of a split, with their final ids, and its malformed rows."""
    if self.module:
      names = self._generator().SPLITS
      items = self._generator().prompts(split)
    else:
      names = self.files
      items = self.reader(self.splits(folder)[split], split)
    first = self.first_ids.get(
        split, SPLIT_IDS * list(names).index(split) if names else 0)
    for item in items:
      if first and isinstance(item, Prompt):
        item = dataclasses.replace(item, id=first + item.id)
      yield item

  def split_names(self, folder: epath.Path | None) -> list[str]:
    """Names of the splits that exist."""
    if self.module:
      return list(self._generator().SPLITS)
    return list(self.splits(folder))

  def needs(self) -> str:
    """The names of the files that the source needs, for messages."""
    if self.module:
      return "no files"
    if not self.files:
      return "SPLIT.jsonl"
    choices = dict.fromkeys(
        " or ".join(patterns) for patterns in self.files.values())
    return ", ".join((*choices, *filter(None, [self.beside])))

  def _generator(self):
    name, _, inside = self.module.partition(":")
    module = importlib.import_module(name)
    return getattr(module, inside) if inside else module


def instructions(sources: Sequence[Source]) -> str:
  """The text that tfds shows if a source's files are not in `manual_dir`."""
  return "Files that a source needs in manual_dir:\n" + "\n".join(
      f"  {source.name}: {source.needs()}"
      for source in sources if not source.module)


class Domain(tfds.core.GeneratorBasedBuilder, skip_registration=True):
  """A data set of prompts; `builder_config` is its `Source`.

  Malformed rows are skipped, logged, and listed in the file `SKIPPED`.
  """

  VERSION = tfds.core.Version("1.0.0")
  RELEASE_NOTES = {"1.0.0": "One record for all domains."}

  def _info(self) -> tfds.core.DatasetInfo:
    return tfds.core.DatasetInfo(
        builder=self, description=self.__doc__, features=record.features())

  def _split_generators(self, dl_manager):
    source = self.builder_config
    folder = None if source.module else epath.Path(dl_manager.manual_dir)
    skipped: dict[rows.BadRow, None] = {}
    return {split: self._generate_examples(folder, split, skipped)
            for split in source.split_names(folder)}

  def _generate_examples(
      self, folder: epath.Path | None, split: str,
      skipped: dict[rows.BadRow, None]) -> Iterator[tuple[int, dict]]:
    source, known, count = self.builder_config, len(skipped), 0
    for item in source.read(folder, split):
      if isinstance(item, rows.BadRow):
        # Splits may share a file, so a row may be skipped several times.
        skipped.setdefault(item)
      else:
        count += 1
        yield item.id, record.encode(item)
    if not count:
      raise ValueError(
          f"no row of {folder or source.module} is in split {split!r} of"
          f" {source.name}; give it more rows")
    new = list(skipped)[known:]
    for bad in new:
      logging.warning("skipped %s", bad)
    if new:
      logging.warning("%s: skipped %d malformed rows", source.name, len(new))
    # data_dir is a temporary folder, which tfds renames at the end.
    (pathlib.Path(self.data_dir) / SKIPPED).write_text(
        json.dumps([str(bad) for bad in skipped], indent=1) + "\n")
