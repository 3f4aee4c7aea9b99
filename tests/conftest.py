"""Settings of the test process; they must precede the first use of JAX."""

from __future__ import annotations

import gc
import os
import pathlib

os.environ.setdefault("JAX_PLATFORMS", "cpu")
# Programs here are tiny and run a few times: what XLA and LLVM would do for
# their speed takes half of all processor time.
os.environ["XLA_FLAGS"] = (
    os.environ.get("XLA_FLAGS", "")
    + " --xla_force_host_platform_device_count=8"
    + " --xla_backend_optimization_level=0"
    + " --xla_llvm_disable_expensive_passes=true"
    + " --xla_cpu_use_fusion_emitters=false"
    + " --xla_cpu_parallel_codegen_split_count=1")
# A collective that waits for the other devices holds a thread. With one thread
# a device (the default on few cores) independent collectives of one program,
# begun in different orders, wait for each other until XLA aborts the process.
os.environ["PJRT_NPROC"] = "64"
_CACHE = pathlib.Path(
    os.environ.get("XDG_CACHE_HOME", pathlib.Path.home() / ".cache"))
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(_CACHE / "r1jax/xla"))
# The same small programs are compiled by many tests, and processes of tests.
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
# No stack of Python's for each operation of a program: a tenth of the time.
os.environ["JAX_TRACEBACK_IN_LOCATIONS_LIMIT"] = "0"
os.environ.setdefault("MPLBACKEND", "agg")
# Tracing makes many objects and little garbage: Python looks for it less often.
gc.set_threshold(20_000)

import jax  # noqa: E402

# [B] + [B, 1] is almost always a mistake: ranks are matched by hand.
jax.config.update("jax_numpy_rank_promotion", "raise")


def pytest_collection_finish():
  """Modules and tests stay: the search for garbage leaves them out.

  It would take half a second each time.
  """
  gc.collect()
  gc.freeze()
