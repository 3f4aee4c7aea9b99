"""Four categories with 28 subcategories, and sets of questions by them.

The names are the paper's (arXiv:2501.12948 v2, D.3: 8 + 11 + 5 + 4); what an
unsafe and a safe answer does in each is in our words, since the paper's judge
prompts are not published. All of it is data: taxonomy.tsv.
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

_IDS = 100_000  # of a split of the small world; each is asked many times
CATEGORIES = ("discrimination", "illegal", "harmful", "ethical")


class Subcategory(NamedTuple):
  """One of the 28.

  Attributes:
    category: one of CATEGORIES.
    name: of the subcategory; with the category it is unique.
    title: for people.
    unsafe, safe: what an answer does that is so, to follow "It ...".
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
  """The one of that name or title; "" as category where the name suffices."""
  found = [one for one in subcategories()
           if name.strip().lower() in (one.name, one.title.lower())
           and category.strip().lower() in ("", one.category)]
  return found[0] if len(found) == 1 else None


def read(path: str | os.PathLike) -> Loaded:
  """A set of the user's: JSON Lines {"subcategory", "question", "language"}.

  `category` is needed where a name is in several ("other"); `language` is "en"
  if it is not there; `harmful: false` marks a question that is to be answered.
  More than 1 % malformed rows is an error.

  Raises:
    ValueError: that, or the file cannot be read.
  """
  def parse(row: Row) -> Prompt:
    name = rows.text(row.fields, "subcategory")
    one = find(str(row.fields.get("category", "")), name)
    if one is None:
      raise ValueError(
          f"subcategory={name!r} is none or several of the taxonomy's; give"
          " category too, and one of "
          + ", ".join(f"{s.category}/{s.name}" for s in subcategories()))
    language = row.fields.get("language", "en")
    if not isinstance(language, str) or not language:
      raise ValueError(f"language={language!r} is no code such as en or zh")
    harmful = row.fields.get("harmful", True)
    if not isinstance(harmful, bool):
      raise ValueError(f"harmful={harmful!r} is neither true nor false")
    return Prompt(
        id=row.number, domain="general", source=epath.Path(path).stem,
        messages=ask(rows.text(row.fields, "question")), reference=None,
        verifier="", language=language, metadata={
            "set": epath.Path(path).stem, "safety": True, "scale": "label",
            "category": one.category, "subcategory": one.name,
            "harmful": harmful, "wrapper": ""})

  return Loaded.of(rows.jsonl([epath.Path(path)], parse))


def is_one(path: str | os.PathLike) -> bool:
  """Whether the first row of a file says what subcategory it is of."""
  path = epath.Path(path)
  if ".jsonl" not in path.suffixes or not path.exists():
    return False
  first = next(rows.jsonl([path], lambda row: row), None)
  return isinstance(first, Row) and "subcategory" in first.fields


def of_the_world(splits: Sequence[Sequence[Prompt]]) -> list[Prompt]:
  """The small world's prompts (`world-safety-judged`) of some splits as a set.

  A split's ids begin where no other's end.
  """
  return [dataclasses.replace(prompt, id=_IDS * number + prompt.id, metadata={
      "set": "world", "scale": "label"} | dict(prompt.metadata))
          for number, prompts in enumerate(splits) for prompt in prompts]
