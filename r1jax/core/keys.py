"""Randomness is addressed, not consumed.

A key is folded from where it is used, so a sample depends on neither its slot
in a batch, nor its neighbours, nor a restart.
"""

from __future__ import annotations

import jax


def fold(key: jax.Array, *address: int | jax.Array) -> jax.Array:
  """The key at `address` (each part below 2**32) under `key`."""
  for part in address:
    key = jax.random.fold_in(key, part)
  return key
