"""What the stages of a step exchange: Prompt, Rollout, Scored, TokenBatch."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import flax.struct
import jax
import numpy as np

from r1jax.core.prompt import Prompt

Array = jax.Array | np.ndarray


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rollout:
  """What the engine returns: token ids and what was recorded, on the host.

  Attributes:
    prompt_tokens: Q arrays of int32 ids, one per question, of any length.
    prompt_ids_Q: integer `Prompt.id` of each question.
    tokens_QGT: int32 completions, their end-of-sequence id included; entries
      beyond a completion's length are meaningless.
    lengths_QG: int32, tokens of each completion (at least 1).
    truncated_QG: bool, the completion reached the length limit without ending.
    logprobs_QGT: float32, the sampler's log-probability of each token under
      the distribution that it sampled from.
    experts_QGSLA: int32 routed experts of every position that was computed, in
      each mixture layer (S: the prompt right-padded to the longest one, then
      the completion); None unless recorded.
  """

  prompt_tokens: tuple[np.ndarray, ...]
  prompt_ids_Q: np.ndarray
  tokens_QGT: np.ndarray
  lengths_QG: np.ndarray
  truncated_QG: np.ndarray
  logprobs_QGT: np.ndarray
  experts_QGSLA: np.ndarray | None = None

  def completion(self, question: int, sample: int) -> np.ndarray:
    """Token ids of one completion, int32 [length]."""
    length = self.lengths_QG[question, sample]
    return self.tokens_QGT[question, sample, :length]


def questions(rollout: Rollout, begin: int, end: int) -> Rollout:
  """The part of a rollout with the questions `begin`..`end` - 1."""
  return Rollout(**{
      name: value if value is None else value[begin:end]
      for name, value in vars(rollout).items()})


def joined(rollouts: Sequence[Rollout]) -> Rollout:
  """The rollouts combined into one, along the questions, in order.

  All must have the same G and T. Recorded experts are dropped.
  """
  def all_of(name):
    values = [getattr(rollout, name) for rollout in rollouts]
    if isinstance(values[0], tuple):
      return tuple(one for value in values for one in value)
    return np.concatenate(values)

  return Rollout(**{
      field.name: all_of(field.name) for field in dataclasses.fields(Rollout)
      if field.name != "experts_QGSLA"})


@dataclasses.dataclass(frozen=True, kw_only=True)
class Scored:
  """A rollout with its rewards.

  Attributes:
    rollout: what was sampled.
    prompts: the Q questions.
    texts: Q tuples of G decoded completions.
    parts: name of each reward to float32 [Q, G]; 0 where invalid, NaN where
      the rule does not apply to the question.
    rewards_QG: float32, the combined reward.
    valid_QG: bool; False if a rule or model gave no verdict, as after a crash.
      Such a sample is left out of its group's baseline and of the update.
    answers: Q tuples of G final answers in normalised spelling, for majority
      votes; None if no answer was found.
    reasons: Q tuples of G mappings from a rule to the reason of its verdict.
    measures: Q tuples of G mappings from "rule/name" to a number that the rule
      measured: logged, not rewarded.
  """

  rollout: Rollout
  prompts: tuple[Prompt, ...]
  texts: tuple[tuple[str, ...], ...]
  parts: Mapping[str, np.ndarray]
  rewards_QG: np.ndarray
  valid_QG: np.ndarray
  answers: tuple[tuple[str | None, ...], ...]
  reasons: tuple[tuple[Mapping[str, str], ...], ...]
  measures: tuple[tuple[Mapping[str, float], ...], ...]


@flax.struct.dataclass
class TokenBatch:
  """Packed rows; every array is aligned to the position that predicts.

  At position t the model reads `tokens_BT[:, t]` and is trained, where
  `mask_BT` is 1, to predict `targets_BT[:, t]`. Tokens and targets are shifted
  against each other here and nowhere else.

  Attributes:
    tokens_BT: int32 inputs.
    targets_BT: int32, the next token of the same segment.
    segments_BT: int32, 1, 2, ... within a row; 0 is padding. A segment is never
      split over rows.
    positions_BT: int32, restarting at 0 with each segment.
    mask_BT: float32, 1 where the target is trained (completions), else 0.
    advantages_BT: float32, the sequence's advantage at each of its tokens (RL
      only).
    sampler_logprobs_BT: float32, recorded by the sampler (RL only).
    old_logprobs_BT: float32, of the policy before the update (RL only).
    ref_logprobs_BT: float32, of the reference policy (RL only).
    teacher_logprobs_BT: float32, of the teacher (on-policy distillation only).
    experts_BTLA: int32 recorded experts to replay, or None.
    weights_BT: float32, factor of the target's loss (supervised only).
  """

  tokens_BT: Array
  targets_BT: Array
  segments_BT: Array
  positions_BT: Array
  mask_BT: Array
  advantages_BT: Array | None = None
  sampler_logprobs_BT: Array | None = None
  old_logprobs_BT: Array | None = None
  ref_logprobs_BT: Array | None = None
  teacher_logprobs_BT: Array | None = None
  experts_BTLA: Array | None = None
  weights_BT: Array | None = None


@flax.struct.dataclass
class ConversationBatch:
  """Whole conversations, packed; each is scored at its last token.

  For pairs, rows 0, 2, ... hold the preferred conversations. The other side of
  a pair is in the next row, in the segment of the same number.

  Attributes:
    tokens_BT: int32.
    segments_BT: int32, 1, 2, ... within a row; 0 is padding. A conversation is
      never split over rows.
    positions_BT: int32, restarting at 0 with each conversation.
    mask_BT: float32, 1 at the last token of each conversation, else 0.
    labels_BT: float32 at the last tokens: the margin of a pair, or how good a
      single answer is (0 bad to 1 good).
    weights_BT: float32 at the last tokens: factor of the loss.
  """

  tokens_BT: Array
  segments_BT: Array
  positions_BT: Array
  mask_BT: Array
  labels_BT: Array
  weights_BT: Array
