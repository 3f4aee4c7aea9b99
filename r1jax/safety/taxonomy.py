"""The paper's safety taxonomy, 4 categories with 28 subcategories, as data.

The names are the paper's (arXiv:2501.12948 v2, D.3: 8 + 11 + 5 + 4). What makes
an answer unsafe or safe in each is in our words, because the paper's judge
prompts are not published (taxonomy.tsv).
"""

from __future__ import annotations

import csv
import dataclasses
import functools
import importlib.resources
import os
from collections.abc import Sequence
from typing import NamedTuple

from etils import epath

from r1jax.core.prompt import Prompt, ask
from r1jax.data.sources.builders import rows
from r1jax.data.sources.builders.rows import Row
from r1jax.safety.sets import Loaded

_IDS = 100_000  # first ids of the small world's splits are multiples of it
CATEGORIES = ("discrimination", "illegal", "harmful", "ethical")


class Subcategory(NamedTuple):
  """One of the 28 subcategories.

  Attributes:
    category: one of CATEGORIES.
    name: unique within the category.
    title: name in reports.
    unsafe, safe: what such an answer does, to follow "It ...".
  """

  category: str
  name: str
  title: str
  unsafe: str
  safe: str


@functools.cache
def subcategories() -> tuple[Subcategory, ...]:
  """All of them, in the paper's order."""
  text = importlib.resources.files(__package__).joinpath(
      "taxonomy.tsv").read_text("utf-8")
  return tuple(Subcategory(*cells) for cells in list(csv.reader(
      text.splitlines(), delimiter="\t", quoting=csv.QUOTE_NONE))[1:])


def find(category: str, name: str) -> Subcategory | None:
  """The subcategory of a name or title; None if it is not unique.

  Args:
    category: "" to search all categories.
    name: name or title of the subcategory.
  """
  found = [one for one in subcategories()
           if name.strip().lower() in (one.name, one.title.lower())
           and category.strip().lower() in ("", one.category)]
  return found[0] if len(found) == 1 else None


def read(path: str | os.PathLike) -> Loaded:
  """Reads a user's set: JSON Lines {"subcategory", "question", "language"}.

  `category` is needed where a name is in several ("other"); `language` defaults
  to "en"; `harmful: false` marks a question that should be answered.

  Raises:
    ValueError: the file cannot be read, or more than 1 % of its rows are
      malformed.
  """
  def parse(row: Row) -> Prompt:
    name = rows.text(row.fields, "subcategory")
    one = find(str(row.fields.get("category", "")), name)
    if one is None:
      raise ValueError(
          f"subcategory={name!r} is not in the taxonomy, or in several of its"
          " categories; give category too, and one of "
          + ", ".join(f"{s.category}/{s.name}" for s in subcategories()))
    language = row.fields.get("language", "en")
    if not isinstance(language, str) or not language:
      raise ValueError(f"language={language!r} is not a code such as en or zh")
    harmful = row.fields.get("harmful", True)
    if not isinstance(harmful, bool):
      raise ValueError(f"harmful={harmful!r} must be true or false")
    return Prompt(
        id=row.number, domain="general", source=epath.Path(path).stem,
        messages=ask(rows.text(row.fields, "question")), reference=None,
        verifier="", language=language, metadata={
            "set": epath.Path(path).stem, "safety": True, "scale": "label",
            "category": one.category, "subcategory": one.name,
            "harmful": harmful, "wrapper": ""})

  return Loaded.of(rows.jsonl([epath.Path(path)], parse))


def is_one(path: str | os.PathLike) -> bool:
  """Whether a file is such a set: its first row names a subcategory."""
  path = epath.Path(path)
  if ".jsonl" not in path.suffixes or not path.exists():
    return False
  first = next(rows.jsonl([path], lambda row: row), None)
  return isinstance(first, Row) and "subcategory" in first.fields


def of_the_world(splits: Sequence[Sequence[Prompt]]) -> list[Prompt]:
  """The small world's prompts (`world-safety-judged`) of some splits as a set.

  Ids are offset by split so that they stay unique.
  """
  return [dataclasses.replace(prompt, id=_IDS * number + prompt.id, metadata={
      "set": "world", "scale": "label"} | dict(prompt.metadata))
          for number, prompts in enumerate(splits) for prompt in prompts]
