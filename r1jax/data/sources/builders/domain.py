"""What the tfds data sets of all domains share: sources, splits, records."""

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

SKIPPED = "skipped.json"  # malformed rows, beside the prepared files
SPLIT_IDS = 1_000_000  # ids of different files of a source lie so far apart

Reader = Callable[[Sequence[epath.Path], str], rows.Items]


@dataclasses.dataclass(eq=False, kw_only=True)
class Source(tfds.core.BuilderConfig):
  """One data set of a domain, in the files of its publisher or generated.

  Attributes:
    reader: yields the prompts and the malformed rows of a split's files, with
      ids from 0.
    files: by split the glob patterns of its files; of several patterns the
      first counts that any file has. A split whose files are missing is not
      there. `{}`: every FILE.jsonl is a split of that name.
    beside: glob pattern of what the reader, or the module, needs beside these.
    folder: name of the source's folder in a folder of several sources; its
      own name if empty.
    first_ids: by split what is added to ids; by default splits in order lie a
      million apart.
    module: instead of reader and files, a module that generates: `SPLITS`, rows
      by split, and `prompts(split)`; "module:name" is something in it that has
      these two.
  """

  reader: Reader | None = None
  files: Mapping[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)
  beside: str = ""
  folder: str = ""
  first_ids: Mapping[str, int] = dataclasses.field(default_factory=dict)
  module: str = ""

  def find(self, data_dir: epath.Path | None) -> epath.Path | None:
    """The folder with the source's files: `data_dir` or one of that name in it.

    A folder may add to the name: DIR/gsm8k or DIR/gsm8k_v1.
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
    """The files of every split that is there."""
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
    """All files that decide what is read."""
    if self.module:
      module = self.module.partition(":")[0]
      path = epath.Path(importlib.util.find_spec(module).origin)
      return [path, *(path.parent.glob(self.beside) if self.beside else ())]
    split_files = self.splits(folder).values()
    files = {path for paths in split_files for path in paths}
    return sorted(files | set(folder.glob(self.beside) if self.beside else ()))

  def code(self) -> str:
    """A digest of the code that shapes the prompts: readers, wordings, records.
    """
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
    """The splits that there are."""
    if self.module:
      return list(self._generator().SPLITS)
    return list(self.splits(folder))

  def needs(self) -> str:
    """The files, in words."""
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
  """What tfds says where a source's files are not in `manual_dir`."""
  return "Files that a source needs in manual_dir:\n" + "\n".join(
      f"  {source.name}: {source.needs()}"
      for source in sources if not source.module)


class Domain(tfds.core.GeneratorBasedBuilder, skip_registration=True):
  """A data set of prompts; `builder_config` is its source.

  Malformed rows are skipped, logged and listed in SKIPPED beside the
  prepared files.
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
        # Splits may share a file.
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
    # For now data_dir is a folder of its own, renamed when all is done.
    (pathlib.Path(self.data_dir) / SKIPPED).write_text(
        json.dumps([str(bad) for bad in skipped], indent=1) + "\n")
