"""Prints the measurements of a benchmark, as text or JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping

from absl import flags

# One definition: a test may import several benchmarks.
JSON = flags.DEFINE_bool("json", False, "Print JSON instead of a table.")


def show(measures: Mapping[str, float]) -> None:
  """Prints numbers, one per line, or as a JSON object with --json."""
  print(json.dumps(measures) if JSON.value else "\n".join(
      f"{name}: {value:.4g}" for name, value in measures.items()))
