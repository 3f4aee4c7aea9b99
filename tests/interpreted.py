"""Pallas kernels for TPUs, run on a CPU by JAX's interpreter."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import jax.numpy as jnp
import pytest
from jax.experimental.pallas import tpu as pltpu


def _store(ref, value, mask):
  ref[...] = jnp.where(mask, value, ref[...])


@contextlib.contextmanager
def kernels() -> Iterator[None]:
  """Kernels traced in this context are interpreted.

  `InterpretParams`, the closer imitation of a TPU, does not know views of a
  buffer in another shape; True is the plainer interpreter, which does not know
  masked stores to a part of a buffer.
  """
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(pltpu, "store", _store)
    with pltpu.force_tpu_interpret_mode(True):
      yield
