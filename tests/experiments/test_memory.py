"""What experiments do about memory on a CPU."""

import ctypes
import json
import os
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[2]
# Page faults of buffers that are made and freed for the fourth time.
FAULTS = """
import resource, sys
from experiments import start
if sys.argv[1] == "start":
  start._keep_freed_memory()
for _ in range(4):
  before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
  made = [bytearray(b"x") * (6 << 20) for _ in range(4)]
  del made
  last = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
print(last)
"""


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "gnu_get_libc_version"),
                    reason="another C library's allocator")
def test_freed_memory_is_kept():
  """Without it, an update on a CPU spends its time in page faults."""
  given = {k: v for k, v in os.environ.items()
           if k != "GLIBC_TUNABLES" and not k.startswith("MALLOC_")}
  before, after, chosen = (int(subprocess.run(
      [sys.executable, "-c", FAULTS, how], cwd=ROOT, env=given | more,
      check=True, capture_output=True, text=True).stdout)
                   for how, more in (
                       ("no", {}), ("start", {}),
                       ("start", {"GLIBC_TUNABLES": "glibc.malloc.perturb=0"})))
  assert after < 20 < min(before, chosen)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.slow
def test_a_model_is_in_memory_once():
  """On one device, with what does not grow with it; a copy would be 374."""
  done = subprocess.run(
      [sys.executable, "-m", "experiments.benchmarks.import_memory",
       "--devices=1", "--gb=0.4", "--margin_mb=100", "--json"], cwd=ROOT,
      capture_output=True, text=True)
  assert done.returncode == 0, done.stderr
  found = json.loads(done.stdout)
  assert found["params_mb"] > 350
  assert max(found["extra_mb"], found["write_mb"]) < 160, found
