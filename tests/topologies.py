"""Devices of machines that are not here, to compile for."""

from __future__ import annotations

import importlib.util

import numpy as np
import pytest

from r1jax.sharding import mesh


def tpu(name: str) -> np.ndarray:
  """The devices of a TPU topology such as `v5e:4x4`; skips without libtpu."""
  if importlib.util.find_spec("libtpu") is None:
    pytest.skip("compiling for a TPU needs libtpu: pip install 'r1jax[aot]'")
  return np.array(mesh.devices_of(name))
