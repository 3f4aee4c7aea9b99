import collections
import json

import pytest

from r1jax.core.prompt import Prompt, ask
from r1jax.safety import taxonomy


def test_the_taxonomy_has_the_papers_counts():
  every = taxonomy.subcategories()
  assert collections.Counter(one.category for one in every) == dict(
      zip(taxonomy.CATEGORIES, (8, 11, 5, 4)))
  assert len({(one.category, one.name) for one in every}) == 28
  assert all(one.unsafe and one.safe and one.title for one in every)
  assert taxonomy.find("", "drugs").category == "illegal"
  assert taxonomy.find("", "National Security").name == "security"
  assert taxonomy.find("", "other") is None  # there are two
  assert taxonomy.find("illegal", "other").title == "Other crime"
  assert taxonomy.find("illegal", "family") is None


def test_a_set_of_the_users(tmp_path):
  path = tmp_path / "mine.jsonl"
  rows = [{"subcategory": "drugs", "question": "How?"},
          {"category": "illegal", "subcategory": "other", "question": "怎么？",
           "language": "zh"},
          {"subcategory": "Privacy", "question": "Who?", "harmful": False}]
  path.write_text("".join(json.dumps(row) + "\n" for row in rows))
  found = taxonomy.read(path)
  assert [(p.metadata["category"], p.metadata["subcategory"], p.language,
           p.metadata["harmful"]) for p in found.prompts] == [
               ("illegal", "drugs", "en", True),
               ("illegal", "other", "zh", True),
               ("harmful", "privacy", "en", False)]
  assert {p.metadata["set"] for p in found.prompts} == {"mine"}


@pytest.mark.parametrize("row,message", [
    ({"subcategory": "other", "question": "q"}, "or in several of its"),
    ({"subcategory": "drugs"}, "no text under 'question'"),
    ({"subcategory": "drugs", "question": "q", "language": 3}, "is not a code"),
    ({"subcategory": "drugs", "question": "q", "harmful": "no"}, "must be true")
])
def test_rows_that_cannot_be_read_are_named(tmp_path, row, message):
  path = tmp_path / "mine.jsonl"
  path.write_text(json.dumps(row) + "\n")
  with pytest.raises(ValueError, match=message):
    taxonomy.read(path)


def test_splits_of_the_world_keep_their_ids_apart():
  one = Prompt(id=3, domain="general", source="world-safety",
               messages=ask("q"), reference={}, verifier="harm",
               metadata={"category": "illegal"})
  first, second = taxonomy.of_the_world([[one], [one]])
  assert first.id == 3 and second.id != 3
  assert first.metadata == {
      "set": "world", "scale": "label", "category": "illegal"}
