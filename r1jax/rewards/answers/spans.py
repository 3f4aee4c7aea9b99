"""Answers of reading comprehension: texts and numbers, scored by DROP's F1."""

from __future__ import annotations

import re
import string
from collections.abc import Sequence
from typing import TYPE_CHECKING

from r1jax.rewards.logic import verdicts
from r1jax.rewards.score import Score, clock_stopped

if TYPE_CHECKING:
  from r1jax.core.prompt import Prompt
  from r1jax.rewards.response import Response

SEPARATOR = "|"  # between several spans of an answer
_MAX_CHARS = 2000
_MAX_SPANS = 100
_ARTICLES = re.compile(r"\b(?:a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)


def verify(prompt: Prompt, response: Response) -> Score:
  """DROP's F1 with the closest of the reference answers (arXiv:1903.00161).

  `prompt.reference` is {"answers": [[span, ...], ...]}. The final answer is
  found as in `verdicts.exact`; several spans are separated by "|". Parts:
  exact, whether all spans match. Reasons: "correct" (F1 = 1), "partly",
  "wrong", "too long" and those of `verdicts.final_answer`.
  """
  answer, reason = verdicts.final_answer(response)
  if answer is None:
    return Score(0.0, True, reason, {"exact": 0.0})
  if len(answer) > _MAX_CHARS:
    return Score(0.0, True, "too long", {"exact": 0.0})
  spans = [span for span in answer.split(SEPARATOR) if span.strip()] or [""]
  spans = spans[:_MAX_SPANS]
  found = [measured(spans, gold) for gold in prompt.reference["answers"]]
  exact, f1 = (max(values) for values in zip(*found))
  reason = "correct" if f1 == 1 else "partly" if f1 else "wrong"
  return Score(f1, True, reason, {"exact": exact},
               answer=f" {SEPARATOR} ".join(sorted(map(normal, spans))))


def measured(spans: Sequence[str], gold: Sequence[str]) -> tuple[float, float]:
  """(exact match, F1) of predicted spans and the spans of one gold answer.

  Spans are paired one to one so that the sum of the F1 of their bags of words
  is largest; it is divided by the length of the longer list. A pair with a gold
  span that has numbers counts only if it shares one. F1 is rounded to 1e-4, as
  in the publisher's evaluator.
  """
  ours, theirs = ([normal(span) for span in part] for part in (spans, gold))
  exact = float(len(ours) == len(theirs) and set(ours) == set(theirs))
  scores = [[_overlap(set(a.split()), set(b.split())) for b in ours]
            for a in theirs]
  return exact, round(
      100 * _best(scores) / max(len(ours), len(theirs)), 2) / 100


def normal(text: str) -> str:
  """The text in lower case without punctuation and articles, numbers as floats.
  """
  words = []
  for word in re.split("[ -]", text.lower()):
    if not _is_number(word):
      word = word.translate(_PUNCTUATION)
    if _is_number(word):
      word = str(float(word))
    words += _ARTICLES.sub(" ", word).split()
  return " ".join(words)


def _overlap(gold: set[str], bag: set[str]) -> float:
  numbers = set(filter(_is_number, gold))
  if numbers and not numbers & set(filter(_is_number, bag)):
    return 0.0
  shared = len(gold & bag)
  precision = shared / len(bag) if bag else 1.0
  recall = shared / len(gold) if gold else 1.0
  total = precision + recall
  return 2 * precision * recall / total if total else 0.0


def _best(scores: Sequence[Sequence[float]]) -> float:
  """The largest sum of entries, at most one per row and column."""
  if min(len(scores), len(scores[0])) == 1:
    return max(max(row) for row in scores)
  with clock_stopped():
    from scipy import optimize

  rows, columns = optimize.linear_sum_assignment(scores, maximize=True)
  return sum(scores[i][j] for i, j in zip(rows, columns))


def _is_number(word: str) -> bool:
  try:
    float(word)
  except ValueError:
    return False
  return True
