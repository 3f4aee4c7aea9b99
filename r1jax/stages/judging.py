"""Decodes token ids and judges the texts by rules and reward models."""

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
  """Words questions and judges answers.

  Attributes:
    tokenizer: the policy's tokenizer.
    template: name in `data.text.templates`.
    pool: child processes that apply the rules.
    rewards: weights of the rewards.
    models: reward models by the name of their reward.
    missing: rewards of the equation that have no model.
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
    """Decoded completions, Q tuples of G, without end-of-sequence ids."""
    q, g = rollout.lengths_QG.shape
    return tuple(tuple(self.text(rollout.completion(i, j)) for j in range(g))
                 for i in range(q))

  def text(self, ids_T: np.ndarray) -> str:
    """A decoded completion, without its end-of-sequence id."""
    ids = ids_T.tolist()
    return self.tokenizer.decode(
        ids[:-1] if ids[-1] in self.tokenizer.eos_ids else ids)

  def submit(self, rollout: Rollout, prompts: Sequence[Prompt],
             texts: Sequence[Sequence[str]] | None = None
             ) -> Callable[[], Scored]:
    """Starts judging; the returned function waits for the verdicts.

    Rules start at once, in child processes. Reward models compute on the device
    when the function is called, after what was dispatched before.

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
    """Starts judging a rollout of which some samples are still decoded.

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
    """Checks that the prompts can be judged.

    Raises:
      SandboxError, ValueError: a rule lacks what it needs (`rules.check`), or
        a prompt belongs to a reward model that was not given.
    """
    rules.check(prompts)
    for prompt in prompts:
      name = models_lib.belongs(prompt)
      check(name not in self.missing, f"prompt {prompt.id} of {prompt.source!r}"
            f" needs the reward model {name!r}: give"
            f" --rewards.{name}=orbax:WORKDIR, or leave such prompts out")


class Begun:
  """Judges a rollout sample by sample, before it is complete."""

  def __init__(self, judge: Judge, prompts: Sequence[Prompt]):
    self._judge, self._prompts = judge, prompts
    self._samples: dict[tuple[int, int], tuple[str, Any, Any]] = {}

  def add(self, question: int, sample: int, text: str) -> None:
    """Starts judging a completion.

    Args:
      question: the prompt's index.
      sample: the completion's number among those of this prompt.
      text: the decoded completion.
    """
    (item,) = self._judge._items([self._prompts[question]], [[text]])
    self._samples[question, sample] = text, item, self._judge.pool.submit(
        [item])

  def ended(self, question: int, sample: int, ids_T: np.ndarray) -> None:
    """`add` for a completion's token ids, as an engine hands it over."""
    self.add(question, sample, self._judge.text(ids_T))

  def judged(self) -> bool:
    """Whether the rules have ended for all samples that were added."""
    return all(future.done() for *_, future in self._samples.values())

  def submit(self, rollout: Rollout) -> Callable[[], Scored]:
    """Like `Judge.submit`, for the whole rollout.

    Either all its samples were added before, or none.
    """
    if not self._samples:
      return self._judge.submit(rollout, self._prompts)
    questions, samples = rollout.lengths_QG.shape
    found = [[self._samples[q, g] for g in range(samples)]
             for q in range(questions)]
    texts = tuple(tuple(text for text, *_ in group) for group in found)
    items = [item for group in found for _, item, _ in group]
    pending = [future for group in found for *_, future in group]
    return lambda: self._judge._scored(
        rollout, self._prompts, texts, items,
        [score for future in pending for score in future.result()])


def _report(scores: Sequence[Mapping[str, Score]]) -> None:
  """Warns once that verdicts are missing, with the commonest reason."""
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
  """A judge whose child processes live inside the `with` block.

  Args:
    tokenizer: the policy's tokenizer.
    template: name in `data.text.templates`.
    rewards: rewards, weights and number of child processes; default: R1-Zero's.
    own: accuracy rules by verifier, added to those of `rewards.rules` or
      replacing them; module-level functions of importable modules.
    models: reward models by the name of their reward, made by
      `reward_models.load`. A model reward of the equation without a model is
      left out of the sum, and prompts that need it are refused.

  Raises:
    ValueError: a reward has neither rule nor model, or a model has no weight.
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
