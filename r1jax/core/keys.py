"""Random keys are derived from an address, not split off a running key.

The address says what the key is for (step, prompt, sample, position), so a
sample depends neither on its place in a batch, nor on its neighbours, nor on
restarts.
"""

from __future__ import annotations

import jax


def fold(key: jax.Array, *address: int | jax.Array) -> jax.Array:
  """The key at `address` (each part below 2**32) under `key`."""
  for part in address:
    key = jax.random.fold_in(key, part)
  return key
