"""Preference labels: pairs of a policy's answers, judged, balanced by length.

R1's helpful model is trained on 66,000 pairs that DeepSeek-V3 judged four times
in either order, kept where the mean vote exceeds one step, with the lengths of
chosen and rejected answers balanced (arXiv:2501.12948, section 3.1).
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
  """What a reward model will see of an answer: the summary, or all of it."""
  return response.split("", text).answer if part == SUMMARY else text.strip()


def draw_pairs(prompts: Sequence[Prompt], answers: Sequence[Sequence[str]],
               per_prompt: int, seed: int) -> list[Pair]:
  """Pairs of different answers to one question.

  Args:
    prompts: the questions.
    answers: to each, of all policies; blank ones make no pair.
    per_prompt: pairs of each question at most.
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
  """As many pairs whose chosen answer is longer as ones where it is shorter.

  So in every class of difference (1, 2-3, 4-7, ...), so that what remains
  teaches nothing about length; of the commoner kind some go, drawn by the seed.
  Pairs of equal length stay.

  Args:
    kept: preferences with a choice.
    seed: not negative.
    length: of an answer.
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
  """What became of the pairs; JSON-ready.

  Args:
    judged: all preferences.
    kept: those with a choice.
    used: those that are written.
    length: of an answer.

  Returns:
    `pairs`, `kept`, `ties` (|delta| at most one step), `no_verdict` (an order
    without any vote), `written`; `queries` and `unparsed`; `position_bias`, the
    mean vote for what was shown first, from -2 to 2; `longer_is_chosen`, the
    share of pairs of unequal length, and `length_correlation` of being chosen
    with length, both before and after balancing.
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
  """A line for `data.streams.preference`."""
  answers = one.pair.first, one.pair.second
  return {"messages": list(one.pair.messages), "chosen": answers[one.chosen],
          "rejected": answers[1 - one.chosen], "margin": abs(one.delta),
          "source": source}


def _decided(one: Preference) -> bool:
  """Whether each order that was asked has a vote."""
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
