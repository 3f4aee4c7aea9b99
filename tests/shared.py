"""Real benchmark data beside the checkout, where there is any."""

from __future__ import annotations

import pathlib

import pytest

_ROOT = pathlib.Path(__file__).parents[2] / "shared" / "data"


def folder(name: str) -> pathlib.Path:
  """The folder of a data set; skips the test where it is missing."""
  path = _ROOT / name
  if not path.is_dir():
    pytest.skip(f"needs the data set {name!r} in {path}, which is not there")
  return path
