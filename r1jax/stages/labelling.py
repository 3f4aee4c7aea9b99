"""Preference labels: pairs of a policy's answers, judged, balanced by length.

R1's helpful model is trained on 66,000 pairs that DeepSeek-V3 judged four times
in either order, kept where the mean vote exceeds one step, with the lengths of
chosen and rejected answers balanced (arXiv:2501.12948, section 3.1).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from r1jax.accounting import cost
from r1jax.core import keys
from r1jax.core.types import Message, Prompt
from r1jax.data import templates
from r1jax.data.tokenizer import Tokenizer
from r1jax.evals import preference as evals
from r1jax.rewards import response
from r1jax.rewards.judge import Pair, Preference
from r1jax.rewards.models import SUMMARY
from r1jax.rollout.engine import Engine
from r1jax.stages.weights import Weights


class Writer:
  """A model that answers conversations: a policy, or a judge.

  As a judge it is a `judge.Generate`.
  """

  def __init__(self, engine: Engine, policy: Weights, tokenizer: Tokenizer,
               template: str, *, batch: int, seed: int):
    """Compiles nothing yet.

    Args:
      engine: of its model.
      policy: its parameters, as the engine's mesh lays them.
      tokenizer: its own.
      template: how conversations become text.
      batch: conversations that are answered at once.
      seed: of the samples.
    """
    self.engine, self.policy, self.tokenizer = engine, policy, tokenizer
    self.template, self._batch, self._seed = template, batch, seed

  def __call__(self, conversations: Sequence[Sequence[Message]]
               ) -> list[str | None]:
    """One answer each, with the beginning that the template gives.

    None where the template refuses the conversation, or context lacks for it
    and an answer.
    """
    answers = self.samples(conversations, range(len(conversations)), 1)
    return [texts and texts[0] for texts in answers]

  def samples(self, conversations: Sequence[Sequence[Message]],
              ids: Sequence[int], count: int) -> list[list[str] | None]:
    """`count` answers each; None as above.

    Args:
      conversations: what is answered.
      ids: below 2**31, of each: the address of its samples.
      count: of samples.
    """
    answers: list[list[str] | None] = [None] * len(conversations)
    fitting = [(at, rendered) for at, rendered in enumerate(
        map(self._rendered, conversations)) if rendered]
    key = keys.fold(jax.random.key(self._seed))
    for start in range(0, len(fitting), self._batch):
      part = fitting[start:start + self._batch]
      # The last batch is as large as the others: one shape.
      asked = part + part[:1] * (self._batch - len(part))
      rollout = self.engine.generate(
          self.policy.params, self.policy.router_bias_LE,
          [np.array(r.ids, np.int32) for _, r in asked],
          [ids[at] for at, _ in asked], count, key)
      cost.sampled(self.engine.model.cfg, rollout)
      for row, (at, rendered) in enumerate(part):
        answers[at] = [rendered.tail + self._text(rollout.completion(row, g))
                       for g in range(count)]
    return answers

  def _text(self, tokens: np.ndarray) -> str:
    ends = self.tokenizer.eos_ids
    return self.tokenizer.decode([i for i in tokens.tolist() if i not in ends])

  def _rendered(self, messages: Sequence[Message]
                ) -> templates.Rendered | None:
    try:
      rendered = templates.prompt(messages, self.template, self.tokenizer)
    except ValueError:  # such as a control token in an answer to be judged
      return None
    room = (self.engine.model.cfg.max_position
            - self.engine.cfg.max_new_tokens)
    return rendered if len(rendered.ids) <= room else None


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
  """A line for `data.preference`."""
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
