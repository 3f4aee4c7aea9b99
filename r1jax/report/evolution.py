"""How a policy changes: reflective words, the same questions early and late.

Reflective words are those of the paper's self-evolution of R1-Zero.
"""

from __future__ import annotations

import collections
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from r1jax.core.thoughts import TAGS

# The paper's list, merged from three experts.
REFLECTIVE = ("wait", "mistake", "however", "but", "retry", "error", "verify",
              "wrong", "evaluate", "check")
_WORD = re.compile(r"[a-z]+")
_TAG = re.compile("|".join(map(re.escape, TAGS)))


def reflection(texts: Iterable[str]) -> dict[str, float]:
  """Share of all words that each reflective word makes up.

  Whole words, case ignored (`checked` is not `check`: the paper is silent on
  inflection); tags are no words. Returns {word: share} and their sum under
  "all"; zeros without words.
  """
  counts: collections.Counter[str] = collections.Counter()
  for text in texts:
    counts.update(_words(text))
  total = max(counts.total(), 1)
  shares = {word: counts[word] / total for word in REFLECTIVE}
  return shares | {"all": sum(shares.values())}


def occurrences(texts: Sequence[str], words: Iterable[str] = REFLECTIVE
                ) -> float:
  """How often a text uses any of `words`, in the mean; read as `reflection`.

  Unlike a share it says something of texts with few words, such as sums.
  """
  wanted = frozenset(words)
  return float(np.mean([
      sum(word in wanted for word in _words(text)) for text in texts]))


def changes(before: Iterable[Mapping[str, Any]],
            after: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
  """What became of each question that two evaluations of a run share.

  Args:
    before, after: their samples, as `evals.runner` stores them.

  Returns:
    In the order of `before` {"id", "question", NAME: (before, after)}, NAME
    being "length" (tokens), every reward that judged the question ("accuracy")
    and "reflective" (words of the paper's list), each a mean over samples.
  """
  then, now = (_by_question(rows) for rows in (before, after))
  entries = []
  for number in then:
    if number in now:
      first, last = _measures(then[number]), _measures(now[number])
      entries.append(
          {"id": number, "question": then[number][0]["question"]}
          | {name: (first[name], last[name]) for name in first if name in last})
  return entries


def _words(text: str) -> list[str]:
  return _WORD.findall(_TAG.sub(" ", text).lower())


def _by_question(rows):
  by_question = collections.defaultdict(list)
  for row in rows:
    by_question[row["id"]].append(row)
  return by_question


def _measures(rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
  """Means over the samples of one question."""
  rewards = {name: float(np.mean([row["parts"][name] for row in rows]))
             for name in rows[0]["parts"]}
  return {"length": float(np.mean([row["length"] for row in rows])),
          **rewards,
          "reflective": occurrences([row["completion"] for row in rows])}
