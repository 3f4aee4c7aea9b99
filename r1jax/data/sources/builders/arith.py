"""The built-in arithmetic task as prompts; `hard` is out of distribution."""

from __future__ import annotations

from collections.abc import Iterator

from r1jax.core.prompt import Prompt, ask
from r1jax.data.sources import arithmetic

SPLITS = {"train": 20000, "validation": 256, "test": 256, "hard": 256}


def prompts(split: str) -> Iterator[Prompt]:
  """The prompts of a split, with ids from 0."""
  for index, problem in enumerate(arithmetic.examples(split, SPLITS[split])):
    yield Prompt(
        id=index, domain="math", source="arith",
        messages=ask(problem.question), reference=str(problem.answer),
        verifier="math",
        metadata={"level": problem.level, "kind": problem.kind})
