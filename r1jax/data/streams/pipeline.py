"""Endless grain streams whose position can be saved as a small JSON value.

`get_state()` of an iterator made here returns it; after `set_state(state)`
another such iterator yields exactly what the saved one would have.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import grain
import numpy as np
from grain import experimental

from r1jax.core.prompt import Prompt
from r1jax.core.types import TokenBatch
from r1jax.data.sources.mixture import Mixture
from r1jax.data.streams import packing
from r1jax.data.text.tokenizer import Tokenizer

# Documents packed together: more fill the rows better, fewer start faster.
_CHUNK = 512
_FIELDS = ("tokens_BT", "targets_BT", "segments_BT", "positions_BT", "mask_BT")


def prompt_batches(
    prompts: Sequence[Prompt] | Mixture, batch: int, seed: int
) -> grain.DatasetIterator:
  """Endless lists of `batch` prompts, each epoch in a new order.

  A sequence has every prompt once per epoch, a mixture in its proportions. A
  batch may span two epochs.

  Raises:
    ValueError: there are no prompts, or batch or seed is out of range.
  """
  mixed = isinstance(prompts, Mixture)
  count = prompts.period if mixed else len(prompts)
  if not count or batch < 1 or not 0 <= seed < 2**32:
    raise ValueError(
        f"{count} prompts, batch={batch}, seed={seed}: give at least one"
        " prompt, batch >= 1 and seed in 0..2**32-1")
  if mixed:
    dataset = grain.MapDataset.range(2**40).map(prompts.order(seed))
  else:
    dataset = grain.MapDataset.source(prompts).shuffle(seed=seed).repeat(None)
  dataset = dataset.batch(batch, batch_fn=list)
  return iter(dataset.to_iter_dataset(grain.ReadOptions(num_threads=0)))


def size(prompts: Sequence[Prompt] | Mixture) -> int:
  """The number of different prompts."""
  if isinstance(prompts, Mixture):
    return sum(len(stream.rows) for stream in prompts.streams)
  return len(prompts)


def documents(
    text_at: Callable[[int], str], tokenizer: Tokenizer, *, rows: int,
    capacity: int, seed: int = 0) -> grain.DatasetIterator:
  """Endless TokenBatches [rows, capacity] for pre-training.

  Documents 0, 1, ... are packed best-fit in chunks of 512, each as bos (if the
  tokenizer's `bos_id` is set) + text + eos. None is dropped or cut. The rows of
  a chunk are in random order.

  Args:
    text_at: number -> document; a pure function.
    tokenizer: the smallest of its `eos_ids` ends a document.
    rows: B.
    capacity: T.
    seed: of the order of rows.

  Raises:
    ValueError: an argument is out of range; or (from next) a document needs
      more than `capacity` slots.
  """
  if rows < 1 or capacity < 1 or seed < 0:
    raise ValueError(
        f"rows={rows}, capacity={capacity}, seed={seed}: rows and capacity must"
        " be positive, seed not negative")
  dataset = grain.MapDataset.range(2**40).map(
      lambda chunk: _chunk_rows(text_at, tokenizer, capacity, seed, chunk))
  options = grain.ReadOptions(num_threads=1, prefetch_buffer_size=2)
  stream = experimental.FlatMapIterDataset(
      dataset.to_iter_dataset(options), _Each())
  return iter(stream.batch(rows, drop_remainder=True, batch_fn=_stack))


class _Each(experimental.FlatMapTransform):
  """Flattens lists."""

  max_fan_out = _CHUNK

  def flat_map(self, element):
    return element


def _chunk_rows(
    text_at, tokenizer, capacity: int, seed: int, chunk: int
) -> list[dict[str, np.ndarray]]:
  eos = min(tokenizer.eos_ids)
  bos = [] if tokenizer.bos_id is None else [tokenizer.bos_id]
  sequences = []
  for number in range(chunk * _CHUNK, (chunk + 1) * _CHUNK):
    ids = tokenizer.encode(text_at(number))
    sequences.append(packing.Sequence(
        tokens=np.array([*bos, *ids, eos], np.int32)))
  batch = packing.pack(sequences, capacity)
  arrays = {name: getattr(batch, name) for name in _FIELDS}
  order = np.random.default_rng((seed, chunk)).permutation(
      len(batch.tokens_BT))
  return [{name: array[row] for name, array in arrays.items()} for row in order]


def _stack(rows: Sequence[dict[str, np.ndarray]]) -> TokenBatch:
  return TokenBatch(
      **{name: np.stack([row[name] for row in rows]) for name in _FIELDS})
