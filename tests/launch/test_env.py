"""launch/env.sh, as a terminal and as a script source it."""

import os
import pathlib
import shutil
import subprocess

import pytest

LAUNCH = pathlib.Path(__file__).parents[2] / "launch"


@pytest.fixture(params=["bash", "zsh"])
def shell(request, tmp_path):
  """Runs lines in a repository of which only env.sh and setup.py are there."""
  if shutil.which(request.param) is None:
    pytest.skip(f"needs {request.param}")
  (tmp_path / "launch").mkdir()
  shutil.copy(LAUNCH / "env.sh", tmp_path / "launch")
  shutil.copy(LAUNCH.parent / "setup.py", tmp_path)
  (tmp_path / "elsewhere").mkdir()
  kept = {k: v for k, v in os.environ.items()
          if not k.startswith("R1JAX") and k != "PYTHON"}

  def run(lines, **environ):
    return subprocess.run(
        [request.param, "-c", lines], cwd=tmp_path / "elsewhere",
        env=kept | environ, capture_output=True, text=True)

  return run


def test_a_terminal_outlives_an_error(shell):
  done = shell("""
    before=$-
    source ../launch/env.sh
    false
    [ "$-" = "$before" ] && echo "still here${NO_SUCH_VARIABLE} in $PWD"
    echo "$JAX_COMPILATION_CACHE_DIR" """,
               R1JAX_VENV="none", XDG_CACHE_HOME="/kept",
               JAX_COMPILATION_CACHE_DIR="")
  assert done.stderr == ""
  first, cache = done.stdout.splitlines()
  assert first.startswith("still here in ")
  assert not first.endswith("elsewhere")
  assert cache == "/kept/r1jax/xla"


def test_a_set_up_that_fails_says_so(shell):
  """A terminal goes on, a script does not."""
  lines = "source ../launch/env.sh\necho status $?"
  done = shell(lines, PYTHON="false")
  assert done.stdout == "status 1\n"
  assert "needs Python 3.11 or later" in done.stderr
  done = shell("set -euo pipefail\n" + lines, PYTHON="false")
  assert done.returncode == 1 and done.stdout == ""
