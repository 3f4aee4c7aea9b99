"""How a policy changes in training: reflective words, and question by question.

The reflective words are those of the paper's figure on R1-Zero's evolution.
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
  """The share of all words of `texts` that each reflective word has.

  Whole words are matched, ignoring case; inflected forms do not match (the
  paper does not say). Tags are not words.

  Returns:
    {word: share in [0, 1]}, and the sum of all under "all"; zeros if there are
    no words.
  """
  counts: collections.Counter[str] = collections.Counter()
  for text in texts:
    counts.update(_words(text))
  total = max(counts.total(), 1)
  shares = {word: counts[word] / total for word in REFLECTIVE}
  return shares | {"all": sum(shares.values())}


def occurrences(texts: Sequence[str], words: Iterable[str] = REFLECTIVE
                ) -> float:
  """Mean number of occurrences of any of `words` per text.

  Words are matched as in `reflection`. Unlike a share, it is informative for
  texts with few words, such as sums.
  """
  wanted = frozenset(words)
  return float(np.mean([
      sum(word in wanted for word in _words(text)) for text in texts]))


def changes(before: Iterable[Mapping[str, Any]],
            after: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
  """Compares two evaluations of a run question by question.

  Args:
    before, after: their samples, as `evals.runner` stores them.

  Returns:
    For each question of both, in the order of `before`, {"id", "question",
    NAME: (before, after)}, where NAME is "length" (tokens), the name of each
    reward that judged the question (such as "accuracy"), and "reflective"
    (occurrences of reflective words), each a mean over samples.
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
