"""Scores packed conversations with a reward model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from r1jax.accounting import cost
from r1jax.core import fitting
from r1jax.data.streams import preference
from r1jax.models.scalar_head import ScalarModel
from r1jax.sharding import processes
from r1jax.training import step


class Scoring:
  """Scores arrays of ids in batches of few shapes.

  Conversations of at most `row_length` tokens are packed into rows of that
  length. Longer ones (R1 trains with at most 8,192 tokens and scores without a
  limit) get rows of twice, four times, ... that length, fewer at a time, up to
  the model's context.
  """

  def __init__(self, model: ScalarModel, rows: int, row_length: int,
               mesh: jax.sharding.Mesh | None = None, *, parts: bool = False):
    """Compiles nothing yet.

    Args:
      model: the reward model.
      rows: rows per batch, over all processes; a multiple of the mesh's shards.
      row_length: tokens of a row.
      mesh: the parameters' mesh; None for one device.
      parts: whether each process scores its own conversations (all processes
        must then call at the same time); if not, all score the same ones.

    Raises:
      ValueError: the rows do not divide over the mesh.
    """
    step.check_rows(rows, row_length, mesh)
    self.model, self.mesh = model, mesh
    self._rows, self._length, self._parts = rows, row_length, parts
    self._least = 1 if mesh is None else len(mesh.devices.flat)
    self._score = jax.jit(
        lambda params, bias_LE, batch: model.scores(params, bias_LE, batch)[0])

  def __call__(self, params: Any, bias_LE: jax.Array,
               ids: Sequence[np.ndarray]) -> np.ndarray:
    """float32 scores [len(ids)]; NaN for empty or too long conversations."""
    scores = np.full(len(ids), np.nan, np.float32)
    groups: dict[int, list[int]] = {}
    for index, text in enumerate(ids):
      if capacity := self._capacity(len(text)):
        groups.setdefault(capacity, []).append(index)
    for capacity in sorted(self._everywhere(set(groups))):
      self._group(params, bias_LE, ids, groups.get(capacity, []), capacity,
                  scores)
    return scores

  def _capacity(self, length: int) -> int:
    """Length of the row for a conversation of `length` tokens; 0 for none."""
    longest = self.model.cfg.max_position
    if not 0 < length <= longest:
      return 0
    capacity = self._length
    while capacity < length:
      capacity *= 2
    return capacity

  def _group(self, params, bias_LE, ids, indices, capacity, all_scores) -> None:
    rows = max(self._least, self._rows * self._length // capacity)
    rows -= rows % self._least
    if self._parts:
      rows //= jax.process_count()
    plan = fitting.best_fit([len(ids[i]) for i in indices], capacity)
    batches = -(-len(plan) // rows)
    if self._parts:
      batches, = processes.largest(batches)
    for number in range(batches):
      part = plan[number * rows:][:rows]
      part += [[]] * (rows - len(part))
      laid = [preference.lay([_text(ids[indices[i]]) for i in row], capacity)
              for row in part]
      batch = jax.tree.map(lambda *x: np.concatenate(x), *laid)
      cost.read("reward", self.model.cfg, batch, scalar=True, part=self._parts)
      with step.on_mesh(self.mesh):
        scores = self._score(params, bias_LE, step.place(
            batch, self.mesh, parts=self._parts))
        # Read immediately: CPU collectives can hang with many queued programs.
        scores = (processes.own_rows(scores) if self._parts
                  else processes.whole(scores))
      for row, kept in enumerate(part):
        ends = np.flatnonzero(batch.mask_BT[row])
        for i, end in zip(kept, ends, strict=True):
          all_scores[indices[i]] = scores[row, end]

  def _everywhere(self, capacities: set[int]) -> set[int]:
    """The row lengths of all processes, which compute together."""
    if not self._parts:
      return capacities
    return {c for theirs in processes.gather(sorted(capacities))
            for c in theirs}

  def compilations(self) -> int:
    """Programs compiled so far."""
    return self._score._cache_size()


def _text(ids: np.ndarray) -> preference.Example:
  return preference.Example((ids,), 0.0, 0.0, "", (0,), 0)
