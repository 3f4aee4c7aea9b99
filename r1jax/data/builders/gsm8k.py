"""tfds data set of grade-school word problems from GSM8K's own JSONL.

Cobbe et al., arXiv:2110.14168. The reference is the number after `####`.
"""

from __future__ import annotations

import json
import os
import re

import numpy as np
import tensorflow_datasets as tfds
from absl import logging
from etils import epath

FILES = {"train": "train.jsonl", "test": "test.jsonl"}
# Upstream has no validation split: every 32nd row of train.jsonl serves as one.
VALIDATION_EVERY = 32
MAX_BAD_SHARE = 0.01

_FINAL = re.compile(r"####\s*([-+]?\$?[\d,]*\.?\d+)\s*$")


def parse(line: str) -> dict[str, str]:
  """question, answer (with its solution) and reference of one JSONL row.

  Raises:
    ValueError: the row is malformed; says why.
  """
  try:
    row = json.loads(line)
  except json.JSONDecodeError as error:
    raise ValueError(f"not JSON ({error})") from error
  if not isinstance(row, dict):
    raise ValueError(f"not an object but {type(row).__name__}")
  for key in ("question", "answer"):
    if not isinstance(row.get(key), str) or not row[key].strip():
      raise ValueError(f"no text under {key!r}")
  found = _FINAL.search(row["answer"])
  if not found:
    raise ValueError("the answer does not end in '#### NUMBER'")
  reference = found.group(1).replace(",", "").replace("$", "")
  return {
      "question": row["question"], "answer": row["answer"],
      "reference": reference,
  }


def read(
    path: str | os.PathLike) -> tuple[dict[int, dict[str, str]], list[str]]:
  """Rows by line index (from 0) and a report `file:line: reason` per bad row.

  Raises:
    ValueError: the file is missing or empty, or more than 1 % of it is bad.
  """
  try:
    lines = epath.Path(path).read_text().split("\n")
  except OSError as error:
    raise ValueError(
        f"{path} cannot be read ({error.strerror or error}); point --data_dir"
        f" at a folder with GSM8K's {' and '.join(FILES.values())}") from error
  rows, bad = {}, []
  for index, line in enumerate(lines):
    if not line.strip():
      continue
    try:
      rows[index] = parse(line)
    except ValueError as error:
      bad.append(f"{path}:{index + 1}: {error}")
  if not rows or len(bad) > MAX_BAD_SHARE * (len(rows) + len(bad)):
    raise ValueError(
        f"{path}: {len(bad)} of {len(rows) + len(bad)} rows are malformed (at"
        f" most {MAX_BAD_SHARE:.0%} may be); repair the file. First:"
        f" {'; '.join(bad[:3]) or 'the file is empty'}")
  return rows, bad


class Gsm8k(tfds.core.GeneratorBasedBuilder):
  """GSM8K; train, validation (held out of upstream's train) and test."""

  VERSION = tfds.core.Version("1.0.0")
  RELEASE_NOTES = {"1.0.0": "Every 32nd training row is validation."}

  def __init__(self, *, source: str | os.PathLike, **kwargs):
    """`source` is the folder that holds the JSONL files."""
    self._source = epath.Path(source)
    super().__init__(**kwargs)

  def _info(self) -> tfds.core.DatasetInfo:
    return tfds.core.DatasetInfo(
        builder=self,
        description="Grade-school mathematics in words (arXiv:2110.14168).",
        features=tfds.features.FeaturesDict({
            "id": tfds.features.Scalar(dtype=np.int64),
            "question": tfds.features.Text(),
            "answer": tfds.features.Text(),
            "reference": tfds.features.Text(),
        }))

  def _split_generators(self, dl_manager):
    del dl_manager
    train, test = (self._read(FILES[name]) for name in ("train", "test"))
    held = {i for i in train if i % VALIDATION_EVERY == VALIDATION_EVERY - 1}
    if not held:
      raise ValueError(
          f"{self._source / FILES['train']} has {len(train)} rows; it needs at"
          f" least {VALIDATION_EVERY}, since every {VALIDATION_EVERY}nd of them"
          " is held out for validation")
    return {
        "train": _examples({i: train[i] for i in train if i not in held}),
        "validation": _examples({i: train[i] for i in sorted(held)}),
        # Ids of different files lie a million apart.
        "test": _examples({1_000_000 + i: row for i, row in test.items()}),
    }

  def _generate_examples(self, rows):
    return _examples(rows)

  def _read(self, name: str) -> dict[int, dict[str, str]]:
    rows, bad = read(self._source / name)
    for report in bad:
      logging.warning("skipped %s", report)
    if bad:
      logging.warning("%s: skipped %d malformed rows", name, len(bad))
    return rows


def _examples(rows: dict[int, dict[str, str]]):
  for index, row in rows.items():
    yield index, {"id": index, **row}
