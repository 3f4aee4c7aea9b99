"""From token ids to verdicts: decoding, then the rules in child processes."""

from __future__ import annotations

import collections
import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from absl import logging

from r1jax.core.config import check
from r1jax.core.types import Prompt, Rollout, Scored
from r1jax.data import templates
from r1jax.data.tokenizer import Tokenizer
from r1jax.rewards import combine, rules
from r1jax.rewards.combine import Combine, RewardConfig
from r1jax.rewards.runner import Pool
from r1jax.rewards.score import Rule, Score


class Judge(NamedTuple):
  """What is needed to phrase questions and to judge answers.

  Attributes:
    tokenizer: of the policy.
    template: name in `data.templates`.
    pool: child processes with the rules.
    rewards: weight of each rule.
  """

  tokenizer: Tokenizer
  template: str
  pool: Pool
  rewards: Combine

  def tokens(self, prompt: Prompt) -> np.ndarray:
    """int32 ids of the rendered question."""
    return np.array(self._rendered(prompt).ids, np.int32)

  def tail(self, prompt: Prompt) -> str:
    """The beginning of the answer that the template gives, e.g. `<think>`."""
    return self._rendered(prompt).tail

  def _rendered(self, prompt: Prompt) -> templates.Rendered:
    return templates.prompt(prompt.messages, self.template, self.tokenizer)

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

    Raises:
      SandboxError, ValueError: a rule lacks what it needs (`rules.check`).
      RuntimeError: from the result, if no sample at all has a verdict.
    """
    rules.check(prompts)
    texts = self.texts(rollout) if texts is None else texts
    pending = self.pool.submit(combine.items(
        prompts, [self.tail(prompt) for prompt in prompts], texts))

    def scored() -> Scored:
      found = pending.result()
      _report(found)
      return combine.scored(self.rewards, rollout, prompts, texts, found)

    return scored


def _report(scores: Sequence[Mapping[str, Score]]) -> None:
  """Says once that verdicts are missing, and why most of them are.

  Raises:
    RuntimeError: all are: nothing could be learned, and nothing will be.
  """
  missing = [next((s.reason for s in sample.values() if not s.valid), None)
             for sample in scores]
  reasons = collections.Counter(filter(None, missing)).most_common(1)
  if not reasons:
    return
  count = len(missing) - missing.count(None)
  why = f"the commonest reason, {reasons[0][1]} times: {reasons[0][0]}"
  if count == len(scores):
    raise RuntimeError(
        f"none of {count} samples has a verdict; {why}. A reference that its"
        " verifier cannot read, or a rule that fails, would do that")
  logging.log_first_n(
      logging.WARNING,
      "%d of %d samples have no verdict and are left out of the update; %s",
      1, count, len(scores), why)


@contextlib.contextmanager
def judge(tokenizer: Tokenizer, template: str,
          rewards: RewardConfig | None = None,
          own: Mapping[str, Rule] | None = None) -> Iterator[Judge]:
  """A judge whose children live inside the `with` block.

  Args:
    tokenizer: of the policy.
    template: name in `data.templates`.
    rewards: which, how much, by how many children; by default R1-Zero's.
    own: accuracy rules by verifier, beside or instead of those of
      `rewards.rules`; functions at the top of importable modules.

  Raises:
    ValueError: no rule gives one of the rewards.
  """
  rewards = rewards or RewardConfig()
  weights, found = rewards.resolve(), rules.select(rewards)
  found["accuracy"] = dict(found["accuracy"]) | dict(own or {})
  unknown = sorted(set(weights.weights) - set(found))
  check(not unknown, f"no rule gives the reward {', '.join(unknown)}; choose"
        f" from {', '.join(found)} (reward models cannot be named by flags)")
  with Pool({name: found[name] for name in weights.weights},
            workers=rewards.children, deadline=rewards.deadline) as pool:
    yield Judge(tokenizer, template, pool, weights)
