"""Reads training text to check evaluations for contamination."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from typing import Any

from etils import epath

from r1jax.core import io
from r1jax.core.config import DataError, check
from r1jax.core.prompt import Prompt, ask
from r1jax.data.sources import json_rows, sft_rows
from r1jax.evals import contamination
from r1jax.evals import samples as samples_lib
from r1jax.stages import tasks

FILE = "contamination.json"


def texts(names: str, data_dir: str | os.PathLike = ""
          ) -> Iterator[tuple[str, Prompt]]:
  """Yields (location, text) of everything that `names` lists.

  Args:
    names: separated by commas: data sets as NAME@SPLIT (train by default), and
      .jsonl files of dialogues, as for SFT, or of {"text"}.
    data_dir: see `data.sources.load`.

  Raises:
    DataError: a file cannot be read, or has a malformed row; the message names
      it.
  """
  for name in filter(None, map(str.strip, names.split(","))):
    if name.endswith(".jsonl"):
      yield from _lines(name)
      continue
    data, _, split = name.partition("@")
    for source, prompts in tasks.load(data, split or "train", data_dir).items():
      for prompt in prompts:
        yield f"{source}@{split or 'train'}:{prompt.id}", prompt


def try_out(names: str, data_dir: str | os.PathLike = "") -> None:
  """Reads the first text of each of `names`, to detect wrong ones early.

  Args, raises: as `texts`.
  """
  for name in names.split(","):
    next(texts(name, data_dir), None)


def mark(problems: Sequence[Prompt], names: str, folder: str | os.PathLike,
         data_dir: str | os.PathLike = "") -> dict[str, Any]:
  """Writes FOLDER/contamination.json; returns its summary for result.json.

  Args:
    problems: the evaluated problems.
    names: see `texts`.
    folder: has the stored generations.
    data_dir: see `texts`.

  Returns:
    `evals.contamination.summary`, and `names` as "seen".
  """
  marked = contamination.marks(problems, texts(names, data_dir))
  io.write_json(epath.Path(folder) / FILE, {"seen": names, "marked": marked})
  return {"seen": names} | contamination.summary(
      samples_lib.stored(folder), [row["id"] for row in marked])


def _lines(path: str) -> Iterator[tuple[str, Prompt]]:
  check(epath.Path(path).exists(), f"{path} does not exist; give a JSONL file"
        " of dialogues or of texts", DataError)
  for where, line in json_rows.lines(path):
    yield where, _read(line, where)


def _read(line: bytes, where: str) -> Prompt:
  """A row as a prompt: a dialogue's first question is compared as a question,
  its other messages as text.
  """
  try:
    row = json_rows.parse(line)
  except ValueError as error:
    raise DataError(f"{where}: {error}") from error
  if isinstance(row.get("text"), str):
    question, rest = row["text"], []
  else:
    row = sft_rows.parsed(line)
    check(not isinstance(row, str), f"{where}: {row}; a row is a"
          ' dialogue, as for train_sft, or {"text"}', DataError)
    questions = [m["content"] for m in row.messages if m["role"] == "user"]
    question = questions[0] if questions else ""
    rest = [m["content"] for m in row.messages if m["content"] != question]
  return Prompt(id=0, domain="", source="", messages=ask(question),
                reference=rest, verifier="")
