"""From token ids to verdicts: decoding, then the rules in child processes."""

from __future__ import annotations

import collections
import contextlib
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from absl import logging

from r1jax.core.config import check
from r1jax.core.prompt import Prompt
from r1jax.core.types import Rollout, Scored
from r1jax.data.text import templates
from r1jax.data.text.tokenizer import Tokenizer
from r1jax.rewards import asked, combine, rules
from r1jax.rewards import models as models_lib
from r1jax.rewards.combine import Combine, RewardConfig
from r1jax.rewards.models import HELPFUL, SAFETY, Scorer
from r1jax.rewards.pool.runner import Pool
from r1jax.rewards.score import Rule, Score
from r1jax.sharding import processes


class Judge(NamedTuple):
  """What is needed to phrase questions and to judge answers.

  Attributes:
    tokenizer: of the policy.
    template: name in `data.text.templates`.
    pool: child processes with the rules.
    rewards: weight of each rule, and of each model.
    models: reward models by the name of their reward.
    missing: rewards that belong to the equation and have no model.
  """

  tokenizer: Tokenizer
  template: str
  pool: Pool
  rewards: Combine
  models: Mapping[str, Scorer] = types.MappingProxyType({})
  missing: tuple[str, ...] = ()

  def tokens(self, prompt: Prompt) -> np.ndarray:
    """int32 ids of the rendered question."""
    return np.array(self._rendered(prompt).ids, np.int32)

  def tail(self, prompt: Prompt) -> str:
    """The beginning of the answer that the template gives, e.g. `<think>`."""
    return self._rendered(prompt).tail

  def _rendered(self, prompt: Prompt) -> templates.Rendered:
    chat = templates.chat_of(self.template)
    messages = (asked.instructed(prompt) if chat and chat.instructs
                else prompt.messages)
    return templates.prompt(messages, self.template, self.tokenizer)

  def texts(self, rollout: Rollout) -> tuple[tuple[str, ...], ...]:
    """Decoded completions, Q tuples of G; end-of-sequence ids are left out."""
    q, g = rollout.lengths_QG.shape
    eos = self.tokenizer.eos_ids

    def decode(row, column):
      ids = rollout.completion(row, column).tolist()
      return self.tokenizer.decode(ids[:-1] if ids[-1] in eos else ids)

    return tuple(tuple(decode(i, j) for j in range(g)) for i in range(q))

  def submit(self, rollout: Rollout, prompts: Sequence[Prompt],
             texts: Sequence[Sequence[str]] | None = None
             ) -> Callable[[], Scored]:
    """Starts judging; call the result to wait for it.

    Rules start at once in their children. Reward models compute, on the device,
    when the result is called: what was dispatched before comes first.

    Raises:
      SandboxError, ValueError: see `check`.
    """
    self.check(prompts)
    texts = self.texts(rollout) if texts is None else texts
    items = self._items(prompts, texts)
    pending = self.pool.submit(items)
    return lambda: self._scored(rollout, prompts, texts, items,
                                pending.result())

  def begin(self, prompts: Sequence[Prompt]) -> Begun:
    """Judges samples of these questions while others of them still grow.

    Raises:
      SandboxError, ValueError: see `check`.
    """
    self.check(prompts)
    return Begun(self, prompts)

  def _items(self, prompts, texts):
    return combine.items(
        prompts, [self.tail(prompt) for prompt in prompts], texts)

  def _scored(self, rollout, prompts, texts, items, ruled) -> Scored:
    judged = models_lib.merge(ruled, models_lib.score(self.models, items))
    _report(judged)
    return combine.scored(self.rewards, rollout, prompts, texts, judged)

  def check(self, prompts: Sequence[Prompt]) -> None:
    """Makes sure that there is what judges these prompts.

    Raises:
      SandboxError, ValueError: a rule lacks what it needs (`rules.check`), or
        a prompt belongs to a reward model that was not given.
    """
    rules.check(prompts)
    for prompt in prompts:
      name = models_lib.belongs(prompt)
      check(name not in self.missing, f"prompt {prompt.id} of {prompt.source!r}"
            f" belongs to the reward model {name!r}: give"
            f" --rewards.{name}=orbax:WORKDIR, or leave such prompts out")


class Begun:
  """The judgement of a rollout, begun before it is complete."""

  def __init__(self, judge: Judge, prompts: Sequence[Prompt]):
    self._judge, self._prompts = judge, prompts
    self._groups: dict[int, tuple[tuple[str, ...], Any, Any]] = {}

  def add(self, question: int, group: Rollout,
          texts: Sequence[str] | None = None) -> None:
    """Starts to judge the samples of one question, a rollout of it alone.

    Its completions are decoded, unless they are given as `texts`.
    """
    judge = self._judge
    if texts is None:
      (texts,) = judge.texts(group)
    items = judge._items([self._prompts[question]], [texts])
    self._groups[question] = tuple(texts), items, judge.pool.submit(items)

  def judged(self) -> bool:
    """Whether all groups were added and the rules are done with them."""
    return len(self._groups) == len(self._prompts) and all(
        future.done() for _, _, future in self._groups.values())

  def submit(self, rollout: Rollout) -> Callable[[], Scored]:
    """As `Judge.submit`, of the whole rollout, its groups added or none."""
    if not self._groups:
      return self._judge.submit(rollout, self._prompts)
    groups = [self._groups[q] for q in range(len(self._prompts))]
    texts, items, pending = zip(*groups, strict=True)
    return lambda: self._judge._scored(
        rollout, self._prompts, texts, sum(items, []),
        [score for future in pending for score in future.result()])


def _report(scores: Sequence[Mapping[str, Score]]) -> None:
  """Says once that verdicts are missing, and why most of them are."""
  missing = [next((s.reason for s in sample.values() if not s.valid), None)
             for sample in scores]
  reasons = collections.Counter(filter(None, missing)).most_common(1)
  if not reasons:
    return
  count = len(missing) - missing.count(None)
  why = f"the commonest reason, {reasons[0][1]} times: {reasons[0][0]}"
  logging.log_first_n(
      logging.WARNING,
      "%d of %d samples have no verdict and are left out of the update; %s",
      1, count, len(scores), why)


@contextlib.contextmanager
def judge(tokenizer: Tokenizer, template: str,
          rewards: RewardConfig | None = None,
          own: Mapping[str, Rule] | None = None,
          models: Mapping[str, Scorer] | None = None) -> Iterator[Judge]:
  """A judge whose children live inside the `with` block.

  Args:
    tokenizer: of the policy.
    template: name in `data.text.templates`.
    rewards: which, how much, by how many children; by default R1-Zero's.
    own: accuracy rules by verifier, beside or instead of those of
      `rewards.rules`; functions at the top of importable modules.
    models: reward models by the name of their reward, as `reward_models.load`
      gives them. A name of the equation that has none is left out of the sum,
      and prompts that belong to it are refused.

  Raises:
    ValueError: nothing gives one of the rewards, or a model has no weight.
  """
  rewards, models = rewards or RewardConfig(), dict(models or {})
  weights, selected = rewards.resolve().weights, rules.select(rewards)
  selected["accuracy"] = dict(selected["accuracy"]) | dict(own or {})
  asked = {name for name in (HELPFUL, SAFETY) if name in weights}
  unknown = sorted(set(weights) - set(selected) - set(models) - asked)
  check(not unknown, f"no rule gives the reward {', '.join(unknown)}; choose"
        f" from {', '.join(selected)}, {HELPFUL}, {SAFETY}")
  check(not asked or bool(models), f"no model gives the reward"
        f" {' and '.join(sorted(asked))}: give --rewards.helpful=orbax:WORKDIR"
        " or --rewards.safety=orbax:WORKDIR of experiments.train_reward")
  idle = sorted(set(models) - set(weights))
  check(not idle, f"the equation has no weight for {', '.join(idle)}; set"
        " --rewards.equation=r1-stage2, or --rewards.weights="
        + ",".join(f"{name}:1" for name in idle))
  missing = tuple(sorted(asked - set(models)))
  weights = {k: v for k, v in weights.items() if k not in missing}
  with Pool({name: selected[name] for name in weights if name not in models},
            workers=rewards.children(processes.processors()),
            deadline=rewards.deadline) as pool:
    yield Judge(tokenizer, template, pool, Combine(weights=weights), models,
                missing)
