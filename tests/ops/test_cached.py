"""Which way of reading the cache a step takes."""

import jax.numpy as jnp
import pytest

from r1jax.ops import cached
from r1jax.ops.cached import BLOCK, FEW, LONG, WHOLE, Reading

BY_BLOCK, BY_ROW = Reading(BLOCK), Reading(row_block=BLOCK)


@pytest.mark.parametrize("change,want", [
    ({}, BY_ROW), (dict(tokens=FEW), BY_ROW), (dict(slots=LONG - 1), WHOLE),
    (dict(latent=False), WHOLE), (dict(dtype=jnp.bfloat16), WHOLE),
    (dict(backend="gpu"), WHOLE), (dict(backend="tpu"), BY_BLOCK),
    (dict(backend="tpu", slots=8), BY_BLOCK),
    (dict(tokens=FEW + 1), BY_BLOCK),
    (dict(tokens=FEW + 1, backend="gpu", latent=False), BY_BLOCK)])
def test_reading(change, want):
  given = dict(backend="cpu", tokens=1, slots=LONG, dtype=jnp.float32,
               latent=True)
  assert cached.reading(**given | change) == want
