"""Packs sequences of different lengths into rows of one length, uncut."""

from __future__ import annotations

import dataclasses

import numpy as np

from r1jax.core.fitting import best_fit
from r1jax.core.types import TokenBatch


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sequence:
  """A sequence of n >= 2 tokens to train on.

  Attributes:
    tokens: int32 [n], prompt and completion.
    prompt: number of leading tokens that are not trained on, 0 <= prompt < n
      (the first token is never a target, so 0 and 1 have the same effect).
    advantage: of the whole sequence (RL only).
    logprobs: float32 [n - prompt], the sampler's log-probabilities of the
      completion (RL only).
    experts: int32 [n - 1, L, A], the experts that the engine's router chose at
      each input token, for router replay (RL only).
    weights: float32 [n], factor of each token's loss; tokens with 0 are not
      trained on. If set, `prompt` is ignored (supervised only: several answers
      in one sequence).
  """

  tokens: np.ndarray
  prompt: int = 0
  advantage: float | None = None
  logprobs: np.ndarray | None = None
  experts: np.ndarray | None = None
  weights: np.ndarray | None = None


def pack(
    sequences: list[Sequence], capacity: int, rows: int | None = None
) -> TokenBatch:
  """The batch of `pack_indexed`."""
  return pack_indexed(sequences, capacity, rows)[0]


def pack_indexed(
    sequences: list[Sequence], capacity: int, rows: int | None = None
) -> tuple[TokenBatch, np.ndarray]:
  """Packs sequences, best-fit, into a batch of rows of `capacity` slots.

  A sequence of n tokens takes n - 1 slots: inputs tokens[:-1], targets
  tokens[1:]. No sequence is cut or dropped.

  Args:
    sequences: all with the same optional fields set.
    capacity: T, the slots in a row.
    rows: B; empty rows are added up to it, so that batches have one shape and
      compile once. None for as many as best-fit needs.

  Returns:
    (batch: NumPy arrays [B, T], with token 0, segment 0 and mask 0 in padding;
      the optional arrays whose fields the sequences set.
    index_BT: int32, the index of the sequence in each slot, -1 in padding).

  Raises:
    ValueError: a sequence is malformed or longer than a row, or `rows` are too
      few.
  """
  lengths = np.array([len(s.tokens) - 1 for s in sequences], np.int64)
  _check(sequences)
  plan = best_fit(lengths, capacity)
  count = len(plan) if rows is None else rows
  if len(plan) > count:
    raise ValueError(
        f"{len(sequences)} sequences need {len(plan)} rows of {capacity}, not"
        f" rows={rows}; raise rows or pass fewer sequences")

  order = [index for row in plan for index in row]
  slots, positions, segments = _slots(plan, lengths, capacity)
  ordered = [sequences[index] for index in order]
  prompts = np.array([s.prompt for s in ordered], np.int64)
  lengths = lengths[order]

  def scatter(values, dtype, *tail):
    flat = np.zeros((count * capacity, *tail), dtype)
    flat[slots] = values
    return flat.reshape(count, capacity, *tail)

  # The slot of token t predicts token t + 1, trained if t + 1 >= prompt.
  trained = positions + 1 >= np.repeat(prompts, lengths)
  if ordered and ordered[0].weights is not None:
    trained = _joined([s.weights[1:] for s in ordered]) > 0
  numbers = np.repeat(np.array(order, np.int64) + 1, lengths)
  index_BT = scatter(numbers, np.int32) - 1
  batch = TokenBatch(
      tokens_BT=scatter(_joined([s.tokens[:-1] for s in ordered]), np.int32),
      targets_BT=scatter(_joined([s.tokens[1:] for s in ordered]), np.int32),
      segments_BT=scatter(np.repeat(segments, lengths), np.int32),
      positions_BT=scatter(positions, np.int32),
      mask_BT=scatter(trained, np.float32),
      **_optional(ordered, lengths, trained, scatter))
  return batch, index_BT


def _optional(ordered, lengths, trained, scatter) -> dict[str, np.ndarray]:
  """The batch arrays of the optional fields that the sequences set."""
  arrays = {}
  if not ordered:
    return arrays
  if ordered[0].advantage is not None:
    arrays["advantages_BT"] = scatter(
        np.repeat([s.advantage for s in ordered], lengths), np.float32)
  if ordered[0].logprobs is not None:
    logprobs = np.zeros(len(trained), np.float32)
    # Without a prompt no slot predicts the first token.
    logprobs[trained] = _joined(
        [s.logprobs if s.prompt else s.logprobs[1:] for s in ordered])
    arrays["sampler_logprobs_BT"] = scatter(logprobs, np.float32)
  if ordered[0].experts is not None:
    arrays["experts_BTLA"] = scatter(
        _joined([s.experts for s in ordered]), np.int32,
        *ordered[0].experts.shape[1:])
  if ordered[0].weights is not None:
    arrays["weights_BT"] = scatter(
        _joined([s.weights[1:] for s in ordered]), np.float32)
  return arrays


def _joined(parts):
  return np.concatenate(parts) if parts else 0


def _slots(plan, lengths, capacity):
  """Flat slot and position of each input token, segment of each sequence."""
  starts, segments = [], []
  for row, items in enumerate(plan):
    start = row * capacity
    for segment, index in enumerate(items, 1):
      starts.append(start)
      segments.append(segment)
      start += int(lengths[index])
  ordered = lengths[[index for row in plan for index in row]]
  before = np.repeat(np.cumsum(ordered) - ordered, ordered)
  positions = np.arange(len(before)) - before
  slots = np.repeat(np.array(starts, np.int64), ordered) + positions
  return slots, positions, np.array(segments, np.int64)


def _check(sequences: list[Sequence]) -> None:
  for index, s in enumerate(sequences):
    n, first = len(s.tokens), sequences[0]
    if n < 2 or not 0 <= s.prompt < n:
      raise ValueError(
          f"sequence {index} has {n} tokens, {s.prompt} of them prompt; it"
          " needs at least 2, and at least 1 after the prompt")
    if s.logprobs is not None and len(s.logprobs) != n - s.prompt:
      raise ValueError(
          f"sequence {index} has {len(s.logprobs)} logprobs for"
          f" {n - s.prompt} completion tokens; give one for each")
    if s.experts is not None and len(s.experts) != n - 1:
      raise ValueError(
          f"sequence {index} has experts for {len(s.experts)} tokens; give them"
          f" for the {n - 1} input tokens")
    if s.weights is not None and len(s.weights) != n:
      raise ValueError(
          f"sequence {index} has {len(s.weights)} weights for {n} tokens; give"
          " one for each")
    for field in ("advantage", "logprobs", "experts", "weights"):
      if (getattr(s, field) is None) != (getattr(first, field) is None):
        raise ValueError(
            f"sequence {index} and sequence 0 differ in having {field}; set it"
            " for all or for none")
