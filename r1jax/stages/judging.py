"""From token ids to verdicts: decoding, then the rules in child processes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from r1jax.core.types import Prompt, Rollout, Scored
from r1jax.data import templates
from r1jax.data.tokenizer import Tokenizer
from r1jax.rewards import combine, rules
from r1jax.rewards.combine import Combine
from r1jax.rewards.runner import Pool


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
    """
    rules.check(prompts)
    texts = self.texts(rollout) if texts is None else texts
    pending = self.pool.submit(combine.items(
        prompts, [self.tail(prompt) for prompt in prompts], texts))
    return lambda: combine.scored(
        self.rewards, rollout, prompts, texts, pending.result())
