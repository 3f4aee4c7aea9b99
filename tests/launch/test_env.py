"""launch/env.sh, as a terminal and as a script source it."""

import os
import pathlib
import shutil
import subprocess
import sys

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


def _venv(tmp_path, *files):
  """A .venv whose Python has no pip, as uv and an interrupted start leave it.
  """
  venv = tmp_path / ".venv"
  (venv / "bin").mkdir(parents=True)
  (venv / "bin/python").symlink_to("/bin/false")
  for name in ("bin/activate", "kept", *files):
    (venv / name).write_text(f"VIRTUAL_ENV={venv}")
  return venv


@pytest.mark.parametrize("linked", [False, True])
def test_a_venv_of_somebody_else_is_left_alone(shell, tmp_path, linked):
  venv = _venv(tmp_path)
  if linked:  # to one that another folder has made
    elsewhere = venv.rename(tmp_path / "elsewhere/.venv")
    (elsewhere / "r1jax-made").touch()
    venv.symlink_to(elsewhere)
  done = shell("source ../launch/env.sh\necho status $?", R1JAX_JAX="jax",
               PYTHON=sys.executable)
  assert done.stdout == "status 1\n"
  assert f"{venv} was not made by launch/env.sh" in done.stderr
  assert "uv pip install -e ." in done.stderr
  assert (venv / "kept").exists() and venv.is_symlink() == linked


def test_an_interrupted_venv_of_its_own_is_made_anew(shell, tmp_path):
  venv = _venv(tmp_path, "r1jax-made")
  (tmp_path / "python").write_text(
      f'#!/bin/sh\n[ "$1" = -c ] && exec "{sys.executable}" "$@"\nexit 1\n')
  (tmp_path / "python").chmod(0o755)
  done = shell("source ../launch/env.sh\necho status $?", R1JAX_JAX="jax",
               PYTHON=str(tmp_path / "python"))
  assert done.stdout == "status 1\n" and "Could not make .venv" in done.stderr
  assert [path.name for path in venv.iterdir()] == ["r1jax-made"]
