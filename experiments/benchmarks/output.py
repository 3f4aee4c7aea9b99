"""How benchmarks print what they measured."""

from __future__ import annotations

from absl import flags

# One definition: a test may import several benchmarks.
JSON = flags.DEFINE_bool("json", False, "Print JSON instead of a table.")
