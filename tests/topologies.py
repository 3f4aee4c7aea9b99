"""Devices of machines that are not here, to compile for."""

from __future__ import annotations

import functools
import importlib.util
import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import SingleDeviceSharding

from r1jax.sharding import mesh


@functools.cache
def tpu(name: str) -> np.ndarray:
  """The devices of a TPU topology such as `v5e:4x4`; skips without libtpu."""
  if importlib.util.find_spec("libtpu") is None:
    pytest.skip("compiling for a TPU needs libtpu: pip install -e '.[aot]'")
  # libtpu reads XLA_FLAGS with its first program, and ends the process at one
  # of the CPU's that it does not know.
  with pytest.MonkeyPatch.context() as patch:
    patch.setenv("XLA_FLAGS", " ".join(
        flag for flag in os.environ["XLA_FLAGS"].split()
        if "xla_cpu" not in flag))
    devices = np.array(mesh.devices_of(name))
    jax.jit(jnp.negative).lower(jax.ShapeDtypeStruct(
        (), jnp.float32, sharding=SingleDeviceSharding(devices.flat[0])),
    ).compile()
  return devices
