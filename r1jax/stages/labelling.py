"""Preference pairs: a policy's answers, judged, and balanced by length.

R1's helpful model is trained on 66,000 pairs. DeepSeek-V3 judged each four
times with random order of the answers; pairs were kept if the mean preference
exceeded 1, and lengths of chosen and rejected answers were balanced
(arXiv:2501.12948, section 3.1).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from r1jax.core.prompt import Prompt
from r1jax.evals import preference as evals
from r1jax.rewards import response
from r1jax.rewards.judge import Pair, Preference
from r1jax.rewards.models import SUMMARY


def shown(text: str, part: str) -> str:
  """The part of an answer that a reward model reads: the summary, or all."""
  return response.split("", text).answer if part == SUMMARY else text.strip()


def draw_pairs(prompts: Sequence[Prompt], answers: Sequence[Sequence[str]],
               per_prompt: int, seed: int) -> list[Pair]:
  """Random pairs of different answers to the same question.

  Args:
    prompts: the questions.
    answers: to each question, of all policies; blank ones are not used.
    per_prompt: the most pairs per question.
    seed: of the choice.
  """
  pairs = []
  for number, (prompt, texts) in enumerate(zip(prompts, answers, strict=True)):
    texts = [text for text in dict.fromkeys(texts) if text.strip()]
    every = [(i, j) for i in range(len(texts)) for j in range(i)]
    order = np.random.default_rng((seed, prompt.id)).permutation(len(every))
    for k, at in enumerate(order[:per_prompt]):
      i, j = every[at]
      pairs.append(Pair(id=number * per_prompt + k, messages=prompt.messages,
                        first=texts[j], second=texts[i]))
  return pairs


def balanced(kept: Sequence[Preference], seed: int,
             length: Callable[[str], int] = len) -> list[Preference]:
  """Balances lengths: the longer answer is chosen in half of the pairs.

  This holds in every class of length difference (1, 2-3, 4-7, ...), so that
  length does not predict the choice: pairs of the more frequent kind are
  dropped at random. Pairs of equal length are kept.

  Args:
    kept: preferences with a choice.
    seed: not negative.
    length: length of an answer's text.
  """
  classes: dict[int, tuple[list[int], list[int]]] = {}
  stay = []
  for at, one in enumerate(kept):
    lead = _longer(one, length)
    if lead:
      sides = classes.setdefault(abs(lead).bit_length(), ([], []))
      sides[lead > 0].append(at)
    else:
      stay.append(at)
  rng = np.random.default_rng(seed)
  for _, sides in sorted(classes.items()):
    count = min(map(len, sides))
    for side in sides:
      stay += rng.permutation(side)[:count].tolist()
  return [kept[at] for at in sorted(stay)]


def report(judged: Sequence[Preference], kept: Sequence[Preference],
           used: Sequence[Preference], length: Callable[[str], int] = len
           ) -> dict[str, Any]:
  """Statistics of the pairs; JSON-ready.

  Args:
    judged: all preferences.
    kept: those with a choice.
    used: those that are written.
    length: length of an answer's text.

  Returns:
    `pairs`, `kept`, `ties` (mean preference of at most 1), `no_verdict` (no
    vote in one of the orders), `written`; `queries` and `unparsed`;
    `position_bias`, the mean vote for the answer shown first, from -2 to 2;
    and, `before` and `after` balancing, `longer_is_chosen`, a share of the
    pairs of unequal length, and `length_correlation` of choice and length.
  """
  votes = [(vote, swapped) for one in judged for vote, swapped in zip(
      one.votes, one.swapped)]
  first = [-vote if swapped else vote for vote, swapped in votes
           if vote is not None]
  silent = sum(not _decided(one) for one in judged)
  return {
      "pairs": len(judged), "kept": len(kept), "no_verdict": silent,
      "ties": len(judged) - len(kept) - silent, "written": len(used),
      "queries": len(votes), "unparsed": len(votes) - len(first),
      "position_bias": float(np.mean(first)) if first else None,
      "before": _lengths(kept, length), "after": _lengths(used, length)}


def row(one: Preference, source: str) -> dict[str, Any]:
  """A JSON-ready row for `data.streams.preference`."""
  answers = one.pair.first, one.pair.second
  return {"messages": list(one.pair.messages), "chosen": answers[one.chosen],
          "rejected": answers[1 - one.chosen], "margin": abs(one.delta),
          "source": source}


def _decided(one: Preference) -> bool:
  """Whether each order that was queried has a vote."""
  return all(any(vote is not None and swapped == side for vote, swapped in zip(
      one.votes, one.swapped)) for side in set(one.swapped))


def _longer(one: Preference, length: Callable[[str], int]) -> int:
  lead = length(one.pair.first) - length(one.pair.second)
  return -lead if one.chosen else lead


def _lengths(preferences: Sequence[Preference], length: Callable[[str], int]
             ) -> dict[str, float | None]:
  leads = [_longer(one, length) for one in preferences]
  unequal = [lead > 0 for lead in leads if lead]
  sizes = [length(text) for one in preferences
           for text in (one.pair.first, one.pair.second)]
  picked = [side == one.chosen for one in preferences for side in (0, 1)]
  return {"longer_is_chosen": float(np.mean(unequal)) if unequal else None,
          "length_correlation": evals.correlation(picked, sizes)}
