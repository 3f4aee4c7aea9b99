"""A rollout's samples in packed rows: one minibatch for each update of a step.

The layout depends on the samples' lengths only, so a step is packed once, while
its rewards are still being computed. `Minibatch.trained` then makes the two
arrays that depend on the rewards.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import jax
import numpy as np

from r1jax.core import fitting
from r1jax.core.types import Rollout, TokenBatch
from r1jax.data.streams import packing
from r1jax.sharding import processes


class Minibatch(NamedTuple):
  """Samples of this process in packed rows, without advantages.

  Attributes:
    batch: NumPy arrays [B, T]; B is the same in every process.
    sample_BT: int32, the sample in each slot, as an index into the process's
      flattened [Q, G]; -1 for padding.
  """

  batch: TokenBatch
  sample_BT: np.ndarray

  def trained(self, advantages_QG: np.ndarray, keep_QG: np.ndarray
              ) -> dict[str, np.ndarray]:
    """The arrays that depend on rewards.

    Args:
      advantages_QG: float, of this process's samples.
      keep_QG: bool, the samples to train on.

    Returns:
      `advantages_BT` float32, and `mask_BT` float32, 0 for samples not kept.
    """
    real_BT = self.sample_BT >= 0
    advantages = np.where(real_BT, advantages_QG.reshape(-1)[self.sample_BT], 0)
    keep_BT = keep_QG.reshape(-1)[self.sample_BT]
    return {"advantages_BT": advantages.astype(np.float32),
            "mask_BT": self.batch.mask_BT * keep_BT.astype(np.float32)}


def partition(count: int, parts: int, seed: int, step: int, epoch: int
              ) -> list[np.ndarray]:
  """The indices 0..count-1 in `parts` random parts of equal size.

  A function of seed, step and epoch.

  Raises:
    ValueError: `parts` does not divide `count`.
  """
  address = (seed, step, epoch) if epoch else (seed, step)
  order = np.random.default_rng(address).permutation(count)
  return np.split(order, parts)


def own(parts: Sequence[np.ndarray]) -> list[np.ndarray]:
  """This process's samples of each part, as indices into its own samples.

  Every process has an equal, contiguous range of all samples.
  """
  size = sum(map(len, parts)) // jax.process_count()
  first = jax.process_index() * size
  return [part[(first <= part) & (part < first + size)] - first
          for part in parts]


def pack(rollout: Rollout, parts: Sequence[np.ndarray], row_length: int,
         unit: int) -> list[Minibatch]:
  """Packs each part of a rollout into rows, best-fit.

  All processes must call it at the same time.

  Args:
    rollout: this process's.
    parts: indices of its samples, from `own`.
    row_length: T, slots in a row.
    unit: this process's rows in a micro-batch. Each part gets the smallest
      positive multiple of it that suffices in every process.

  Raises:
    ValueError: a sample is longer than a row.
  """
  prompts_Q = np.array([len(tokens) for tokens in rollout.prompt_tokens])
  slots = (prompts_Q[:, None] + rollout.lengths_QG - 1).reshape(-1)
  counts = processes.largest(*(
      len(fitting.best_fit(slots[part], row_length)) for part in parts))
  return [_pack(rollout, part, row_length, max(1, -(-count // unit)) * unit)
          for part, count in zip(parts, counts, strict=True)]


def _pack(rollout, part, row_length, rows) -> Minibatch:
  sequences = []
  for q, g in zip(*np.unravel_index(part, rollout.lengths_QG.shape)):
    prompt, completion = rollout.prompt_tokens[q], rollout.completion(q, g)
    sequences.append(packing.Sequence(
        tokens=np.concatenate([prompt, completion]), prompt=len(prompt),
        logprobs=rollout.logprobs_QGT[q, g, :len(completion)],
        experts=_experts(rollout, q, g)))
  batch, index_BT = packing.pack_indexed(sequences, row_length, rows)
  if not sequences:  # all samples of this part are in other processes
    return Minibatch(_without_samples(batch, rollout), index_BT)
  return Minibatch(batch, np.where(
      index_BT >= 0, np.asarray(part)[index_BT], -1).astype(np.int32))


def _without_samples(batch: TokenBatch, rollout: Rollout) -> TokenBatch:
  """Adds the optional arrays that a batch with samples has, all zero."""
  experts = rollout.experts_QGSLA
  return batch.replace(
      sampler_logprobs_BT=batch.mask_BT,
      experts_BTLA=None if experts is None else np.zeros(
          (*batch.tokens_BT.shape, *experts.shape[3:]), np.int32))


def _experts(rollout, q, g):
  """The experts recorded at each input token of a sample: [n - 1, L, A]."""
  if rollout.experts_QGSLA is None:
    return None
  row = rollout.experts_QGSLA[q, g]
  prompt_slots = row.shape[0] - rollout.tokens_QGT.shape[2]
  after = prompt_slots + rollout.lengths_QG[q, g] - 1
  return np.concatenate(
      [row[:len(rollout.prompt_tokens[q])], row[prompt_slots:after]])


def relaid(values: Sequence[np.ndarray], laid: Sequence[Minibatch],
           wanted: Sequence[Minibatch]) -> list[np.ndarray]:
  """Moves values from the row layout of one epoch to that of another.

  Args:
    values: float32 [B, T] for each minibatch of `laid`.
    laid: the minibatches of the first epoch.
    wanted: those of the other epoch, with the same samples.

  Returns:
    float32 [B, T] for each minibatch of `wanted`; 0 in padding.
  """
  samples = 1 + max(int(m.sample_BT.max(initial=-1)) for m in laid)
  length = laid[0].sample_BT.shape[1]
  table = np.zeros((samples + 1, length), np.float32)  # last row: padding
  for array, minibatch in zip(values, laid, strict=True):
    table[minibatch.sample_BT, minibatch.batch.positions_BT] = array
  table[-1] = 0
  return [table[m.sample_BT, m.batch.positions_BT] for m in wanted]
