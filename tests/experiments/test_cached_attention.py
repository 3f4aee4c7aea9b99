"""The benchmark of reading the cache, at sizes for tests."""

import json
import os
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[2]


@pytest.mark.parametrize("attention", ["mla", "gqa"])
def test_every_way_is_timed(attention):
  done = subprocess.run(
      [sys.executable, "-m", "experiments.benchmarks.cached_attention",
       f"--attention={attention}", "--rows=3", "--slots=4,16", "--blocks=8",
       "--heads=4", "--width=8", "--rope=4", "--filled=0.5", "--reps=1",
       "--json"], cwd=ROOT, capture_output=True, text=True,
      env=os.environ | {"JAX_PLATFORMS": "cpu"})
  assert done.returncode == 0, done.stderr
  found = [json.loads(line) for line in done.stdout.splitlines()]
  assert [(row["slots"], row["reading"]) for row in found] == [
      (4, "whole"), (16, "whole"), (16, "by 8"), (16, "row by row, by 8")]
  assert all(row["ms"] > 0 and row["attention"] == attention for row in found)
