"""RewardBench 1 and 2 from local files: questions, right and wrong answers.

JSONL with the fields of the published sets (allenai/reward-bench: `prompt`,
`chosen`, `rejected`, `subset`, `id`; allenai/reward-bench-2: the same with
lists of answers). The sets are not part of this repository.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any, NamedTuple

from r1jax.core.config import DataError, check
from r1jax.core.prompt import Message
from r1jax.data.sources import json_rows
from r1jax.data.sources.sft_rows import ROLES


class Item(NamedTuple):
  """A question with its answers, the right ones first.

  Attributes:
    id: the row's; "tied:N" or "ref:N" in RewardBench 2's subset Ties.
    subset: the part of the benchmark.
    conversations: question and answer, one for each answer.
    right: the number of right answers.
  """

  id: str
  subset: str
  conversations: tuple[tuple[Message, ...], ...]
  right: int


def read(path: str | os.PathLike) -> tuple[int, list[Item]]:
  """(version of RewardBench, 1 or 2; all items).

  Raises:
    DataError: the file cannot be read, is empty or mixes versions, or a row
      has neither version's form; the message names it.
  """
  items, versions = [], set()
  for where, line in json_rows.lines(path):
    number = int(where.rpartition(":")[2])
    try:
      version, item = _item(json_rows.parse(line), number)
    except ValueError as error:
      raise DataError(f"{where}: {error}") from error
    versions.add(version)
    items.append(item)
  check(bool(items), f"{path} has no rows", DataError)
  check(len(versions) == 1, f"{path} mixes rows of both versions; give one file"
        " for each", DataError)
  return versions.pop(), items


def _item(row: Any, number: int) -> tuple[int, Item]:
  missing = [k for k in ("prompt", "chosen", "rejected", "subset")
             if k not in row]
  check(not missing, f"it has no {', '.join(missing)}")
  chosen, rejected = row["chosen"], row["rejected"]
  version = 2 if isinstance(chosen, list) else 1
  if version == 1:
    chosen, rejected = [chosen], [rejected]
  check(isinstance(rejected, list) and bool(chosen) and bool(rejected)
        and all(isinstance(text, str) for text in [*chosen, *rejected]),
        "chosen and rejected are neither two strings nor two lists of strings")
  asked = _asked(row["prompt"])
  conversations = tuple(
      (*asked, {"role": "assistant", "content": text})
      for text in [*chosen, *rejected])
  return version, Item(str(row.get("id", number)), str(row["subset"]),
                       conversations, len(chosen))


def _asked(prompt: Any) -> tuple[Message, ...]:
  if isinstance(prompt, str):
    return ({"role": "user", "content": prompt},)
  check(isinstance(prompt, list) and bool(prompt) and all(
      isinstance(m, dict) and m.get("role") in ROLES
      and isinstance(m.get("content"), str) for m in prompt),
      "its prompt is neither a string nor a list of messages")
  return tuple({"role": m["role"], "content": m["content"]} for m in prompt)


def texts(items: Sequence[Item]) -> list[tuple[Message, ...]]:
  """The conversations of all items, in order."""
  return [one for item in items for one in item.conversations]
