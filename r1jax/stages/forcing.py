"""Budget forcing: cuts thoughts at a number of tokens and samples answers.

A sample's tokens do not depend on its length limit, so that one long sample
serves all budgets: a thought that is not closed within the budget is cut there,
`close` is appended, and the model continues with the answer. Thoughts that end
within the budget stay unchanged (Muennighoff et al., arXiv:2501.19393, who also
prolong thoughts, which is not done here).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import numpy as np

from r1jax.core import keys, thoughts
from r1jax.core.config import check
from r1jax.core.prompt import Prompt
from r1jax.core.types import Rollout, joined, questions
from r1jax.rollout.engine import Engine
from r1jax.stages.evaluating import Group, Sample
from r1jax.stages.judging import Judge

# Folded into the key, so that samples differ from training's and evaluations'.
_STREAM = 2**31 + 1


class Forcing:
  """Answers to questions under a budget of thought tokens.

  Attributes:
    forced: samples whose thought was cut under the last budget.
    asked: all samples under the last budget.
  """

  def __init__(self, engine: Engine, params: Any, bias_LE: jax.Array,
               judge: Judge, samples: int, seed: int, *, close: str,
               answer_tokens: int):
    """Samples nothing yet.

    Args:
      engine: engine of the policy; its max_new_tokens limits uncut samples.
      params: the policy's parameters in the decode layout.
      bias_LE: its router bias, float32 [L, E].
      judge: words the questions and decodes.
      samples: samples of each question.
      seed: seed of the samples.
      close: text that ends a thought and begins the answer, with `</think>`.
      answer_tokens: longest answer after it, in tokens.

    Raises:
      ValueError: `close` has no `</think>`.
    """
    check(thoughts.CLOSE in close, f"close={close!r} does not end a thought; it"
          f" must have {thoughts.CLOSE}, and may have how an answer begins")
    self._engine, self._params, self._bias_LE = engine, params, bias_LE
    self._judge, self._samples, self._seed = judge, samples, seed
    self._close = np.array(judge.tokenizer.encode_chat(close), np.int32)
    self._answering = Engine(
        engine.model, dataclasses.replace(
            engine.cfg, max_new_tokens=answer_tokens),
        judge.tokenizer.eos_ids, engine.mesh,
        max_rows=engine.max_rows or None, untold=engine.untold)
    self._whole: Rollout | None = None
    self._numbers: dict[int, int] = {}
    self.forced = self.asked = 0

  def draw(self, prompts: Sequence[Prompt], ended: Callable[[int], None]
           ) -> None:
    """Draws the uncut samples, once for all budgets.

    Args:
      prompts: the questions.
      ended: called after each decoding call with the number of questions whose
        samples it completed.
    """
    found: dict[int, Rollout] = {}
    for complete in self._engine.groups(
        self._params, self._bias_LE, [self._judge.tokens(p) for p in prompts],
        [p.id for p in prompts], self._samples, self._key()):
      found.update(complete)
      ended(len(complete))
    self._whole = joined([found[q] for q in range(len(prompts))])
    self._numbers = {p.id: q for q, p in enumerate(prompts)}

  def sample(self, budget: int) -> Sample:
    """The `Sample` function of a budget, as `evaluating.answers` takes it."""
    def sample(batches: Sequence[Sequence[Prompt]]) -> Iterator[list[Group]]:
      forced = self.under(budget)
      for at, batch in enumerate(batches):
        groups = []
        for q, prompt in enumerate(batch):
          number = self._numbers[prompt.id]
          groups.append(Group(at, q, questions(forced, number, number + 1)))
        yield groups

    return sample

  def under(self, budget: int) -> Rollout:
    """All samples under a budget of thought tokens; log-probabilities are 0."""
    whole = self._whole
    open_ = self._open(whole, budget)
    self.forced, self.asked = len(open_), whole.lengths_QG.size
    answers = self._answers(whole, open_, budget)
    longest = max([int(whole.lengths_QG.max()), *(
        budget + len(self._close) + len(ids) for ids, _ in answers.values())])
    tokens = np.zeros((*whole.lengths_QG.shape, longest), np.int32)
    tokens[..., :whole.tokens_QGT.shape[2]] = whole.tokens_QGT[..., :longest]
    lengths, truncated = whole.lengths_QG.copy(), whole.truncated_QG.copy()
    for (q, g), (answer, cut) in answers.items():
      ids = np.concatenate(
          [whole.tokens_QGT[q, g, :budget], self._close, answer])
      tokens[q, g, :len(ids)] = ids
      lengths[q, g], truncated[q, g] = len(ids), cut
    return dataclasses.replace(
        whole, tokens_QGT=tokens, lengths_QG=lengths, truncated_QG=truncated,
        logprobs_QGT=np.zeros(tokens.shape, np.float32))

  def _key(self) -> jax.Array:
    return keys.fold(jax.random.key(self._seed), _STREAM)

  def _open(self, whole: Rollout, budget: int) -> list[tuple[int, int]]:
    """(question, sample) of the thoughts not closed within the budget."""
    found = []
    for q, g in np.ndindex(whole.lengths_QG.shape):
      ids = whole.completion(q, g)[:budget]
      # Whether the sample ended by itself within the budget.
      ended = whole.lengths_QG[q, g] <= budget and not whole.truncated_QG[q, g]
      if not ended and thoughts.CLOSE not in self._judge.tokenizer.decode(
          ids.tolist()):
        found.append((q, g))
    return found

  def _answers(self, whole: Rollout, open_: Sequence[tuple[int, int]],
               budget: int) -> dict[tuple[int, int], tuple[np.ndarray, bool]]:
    """(answer ids, whether truncated) of the cut thoughts."""
    if not open_:
      return {}
    rollout = self._answering.generate(
        self._params, self._bias_LE,
        [np.concatenate([whole.prompt_tokens[q],
                         whole.tokens_QGT[q, g, :budget], self._close])
         for q, g in open_],
        [self._address(whole, q, g) for q, g in open_], 1,
        keys.fold(self._key(), budget), repeats_Q=[0] * len(open_))
    return {at: (rollout.completion(row, 0), bool(rollout.truncated_QG[row, 0]))
            for row, at in enumerate(open_)}

  def _address(self, whole: Rollout, q: int, g: int) -> int:
    return (int(whole.prompt_ids_Q[q]) * self._samples + g) % 2**31
