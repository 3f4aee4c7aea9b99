"""Tests that run programs need a sandbox."""

from __future__ import annotations

import os

import pytest

from r1jax.rewards.programs import sandbox


def require():
  """Skips where programs cannot be run; fails there if CI=true."""
  try:
    sandbox.check()
  except sandbox.SandboxError as error:
    if os.environ.get("CI") == "true":
      pytest.fail(f"CI=true and there is no sandbox: {error}", pytrace=False)
    pytest.skip(str(error))
