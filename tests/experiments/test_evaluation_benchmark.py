"""The benchmark of evaluations on what is small enough for a test."""

import json

import pytest

from tests.experiments.calls import calls
from tests.experiments.test_commands import succeeds


def test_measure(model_file):
  (call,) = calls("experiments.benchmarks.evaluation", [
      f"--init=file:{model_file}", "--problems=5", "--samples=2",
      "--max_rows=8", "--max_new_tokens=8", "--json"])
  found = json.loads(succeeds(call).splitlines()[-1])
  assert (found["problems"], found["samples"]) == (5, 2)
  assert 2 * 5 <= found["tokens"] <= 2 * 5 * 8
  assert 0 < found["engine_inside_s"] < found["evaluation_s"]
  assert found["added"] > 0 < found["kept"]
  for name in ("engine", "evaluation"):
    assert found[f"{name}_tokens_per_s"] * found[f"{name}_s"] == (
        pytest.approx(found["tokens"]))
