"""The arrays that travel: Prompt -> Rollout -> Scored -> TokenBatch."""

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
  """What the engine returns: token ids only, on the host.

  Attributes:
    prompt_tokens: Q arrays of int32 ids, one per question, of any length.
    prompt_ids_Q: int32, the questions' addresses.
    tokens_QGT: int32 completions, their end-of-sequence id included; what lies
      beyond a row's length is meaningless.
    lengths_QG: int32, tokens of each completion (at least 1).
    truncated_QG: bool, the completion met the length limit without ending.
    logprobs_QGT: float32, the sampler's own log-probability of each token under
      the distribution it sampled from.
    experts_QGSLA: int32 routed experts of every position that was computed
      (S = longest prompt + T, the prompt right-padded to P, then completions),
      for each mixture layer; None unless recorded.
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
  """Those from `begin` to before `end`."""
  return Rollout(**{
      name: value if value is None else value[begin:end]
      for name, value in vars(rollout).items()})


def joined(rollouts: Sequence[Rollout]) -> Rollout:
  """The questions of all rollouts, one after the other.

  They have room for completions of one length, and no recorded experts.
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
  """A rollout and its judgement.

  Attributes:
    rollout: what was sampled.
    prompts: the Q questions.
    texts: Q tuples of G decoded completions.
    parts: reward by name, float32 [Q, G] each; 0 where invalid, NaN where the
      rule does not apply to the question.
    rewards_QG: float32, the combined reward.
    valid_QG: bool; False where no verdict could be had (a crash, a deadline):
      such a sample is kept out of its group's baseline and of the update.
    answers: Q tuples of G final answers in one spelling, for voting; None
      where none was found.
    reasons: Q tuples of G reasons by rule.
    measures: Q tuples of G measurements behind the verdicts, "rule/name" to
      number: logged, not rewarded.
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
  """Packed rows, aligned to the position that predicts.

  At position t the model reads `tokens_BT[:, t]` and is trained, where
  `mask_BT` is 1, to predict `targets_BT[:, t]`. No other module shifts.

  Attributes:
    tokens_BT: int32 inputs.
    targets_BT: int32, the next token of the same segment.
    segments_BT: int32, 1, 2, ... within a row; 0 is padding. A segment lies
      whole in one row.
    positions_BT: int32, restarting at 0 with each segment.
    mask_BT: float32, 1 where the target is trained (completions), else 0.
    advantages_BT: float32, of the sequence, repeated over its tokens (RL only).
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
  """Whole conversations, packed, each to be scored at its last token.

  In pairs the rows come in twos: what is preferred lies in rows 0, 2, ..., what
  is not in the row after it, in the segment of the same number.

  Attributes:
    tokens_BT: int32.
    segments_BT: int32, 1, 2, ... within a row; 0 is padding. A conversation
      lies whole in one row.
    positions_BT: int32, restarting at 0 with each conversation.
    mask_BT: float32, 1 at the last token of each conversation, else 0.
    labels_BT: float32 at the last tokens: the margin of a pair, or whether a
      single answer is good (0 to 1).
    weights_BT: float32 at the last tokens, factor of the loss.
  """

  tokens_BT: Array
  segments_BT: Array
  positions_BT: Array
  mask_BT: Array
  labels_BT: Array
  weights_BT: Array
