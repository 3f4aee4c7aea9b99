"""The benchmark of memory with a model small enough for a test."""

import json
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest

from experiments.benchmarks import measured
from tests import processes

ROOT = pathlib.Path(__file__).parents[2]


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.slow
def test_import_sample_and_a_step(tmp_path):
  done = subprocess.run(
      [sys.executable, "-m", "experiments.benchmarks.memory", "--model=tiny",
       "--parts=import", "--parts=sample", "--parts=grpo", "--new=4",
       f"--folder={tmp_path}", "--json"], cwd=ROOT, capture_output=True,
      env=os.environ | {"XLA_FLAGS": processes.xla_flags()}, text=True)
  assert done.returncode == 0, done.stderr
  found = json.loads(done.stdout.splitlines()[-1])
  assert set(found) == {"import", "sample", "grpo"}
  # A Python with JAX takes some 150 MiB.
  assert all(100 < part["peak_mb"] < 4000 for part in found.values())
  assert found["import"]["of_model"] > 1


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_process_is_measured_without_the_memory_of_its_parent():
  held = np.ones(50_000_000)  # 400 MB, resident
  found = measured.run([sys.executable, "-c", (  # it is looked at in between
      "import time; x = bytearray(10**8); time.sleep(0.3)")])
  assert held.nbytes / 2**20 > 300
  assert 95 < found["peak_mb"] < 200
