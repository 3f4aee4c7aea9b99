"""Counts, lengths and languages of prompts, by domain and source."""

from __future__ import annotations

import collections
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from r1jax.core.prompt import Prompt
from r1jax.data.text import ngrams
from r1jax.report import tables


class Group(NamedTuple):
  """Prompts of one domain and source.

  Attributes:
    domain, source: their names; "all" stands for all sources or domains.
    lengths: float [prompts], words in each prompt's messages (`ngrams.words`),
      ascending.
    languages: language -> number of prompts, the most frequent first.
  """

  domain: str
  source: str
  lengths: np.ndarray
  languages: dict[str, int]


def groups(prompts: Iterable[Prompt]) -> list[Group]:
  """A group for each domain and source, in alphabetical order."""
  lengths = collections.defaultdict(list)
  languages = collections.defaultdict(collections.Counter)
  for prompt in prompts:
    key = prompt.domain, prompt.source
    lengths[key].append(sum(
        ngrams.words(message["content"]) for message in prompt.messages))
    languages[key][prompt.language] += 1
  return [Group(*key, np.sort(lengths[key]), _ordered(languages[key]))
          for key in sorted(lengths)]


def joined(groups: Sequence[Group], domain: str) -> Group:
  """The groups combined into one, with source "all"."""
  counts: collections.Counter[str] = collections.Counter()
  for group in groups:
    counts.update(group.languages)
  return Group(domain, "all", np.sort(np.concatenate(
      [np.zeros(0), *(group.lengths for group in groups)])), _ordered(counts))


def table(groups: Sequence[Group]) -> str:
  """A text table: all groups, domains with several sources, and the total."""
  rows = []
  domains = sorted({group.domain for group in groups})
  for domain in domains:
    mine = [group for group in groups if group.domain == domain]
    rows += map(_cells, mine)
    if len(mine) > 1:
      rows.append(_cells(joined(mine, domain)))
  if len(domains) > 1:
    rows.append(_cells(joined(groups, "all")))
  return tables.render(
      ["domain", "source", "prompts", "mean", "median", "95 %", "max words",
       "languages"], rows)


def _cells(group: Group) -> list[str]:
  lengths = group.lengths
  numbers = ["-"] * 4
  if len(lengths):
    numbers = [f"{x:.1f}" for x in (
        lengths.mean(), np.median(lengths), np.quantile(lengths, 0.95),
        lengths[-1])]
  return [group.domain, group.source, str(len(lengths)), *numbers,
          ", ".join(f"{k} {v}" for k, v in group.languages.items())]


def _ordered(counts: collections.Counter[str]) -> dict[str, int]:
  return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))
