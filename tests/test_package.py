"""What is installed: a wheel that works away from the repository."""

import os
import pathlib
import shutil
import subprocess
import sys
import zipfile

import pytest

ROOT = pathlib.Path(__file__).parents[1]
TOPS = ("r1jax", "experiments")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
  # Built from a copy: setuptools leaves its build folder where it builds.
  source = tmp_path_factory.mktemp("source")
  for name in TOPS:
    shutil.copytree(
        ROOT / name, source / name,
        ignore=shutil.ignore_patterns("__pycache__"))
  for name in ("setup.py", "pyproject.toml", "LICENSE", "r1jax/__init__.py"):
    shutil.copy(ROOT / name, source / name)
  out = tmp_path_factory.mktemp("wheel")
  run = subprocess.run(
      [sys.executable, "-m", "pip", "wheel", str(source), "--no-deps",
       "--no-index", "--no-build-isolation", "--quiet", "--wheel-dir",
       str(out)], capture_output=True, text=True, timeout=300)
  assert run.returncode == 0, run.stderr
  (path,) = out.glob("*.whl")
  return path


def test_wheel_has_every_module_and_data_file(wheel):
  inside = set(zipfile.ZipFile(wheel).namelist())
  want = {
      str(path.relative_to(ROOT)) for top in TOPS
      for path in (ROOT / top).rglob("*") if path.is_file()
      and path.suffix not in (".pyc", ".ipynb")}
  assert "r1jax/core/io.py" in want
  assert not want - inside
  assert not [name for name in inside if name.startswith("tests")]
  assert any(name.endswith("licenses/LICENSE") for name in inside)


def test_wheel_imports_from_another_directory(wheel, tmp_path):
  zipfile.ZipFile(wheel).extractall(tmp_path / "site")
  modules = sorted(
      ".".join(path.relative_to(ROOT).with_suffix("").parts)
      for path in (ROOT / "r1jax").rglob("*.py"))
  code = (
      "import importlib, pathlib, sys\n"
      "for name in sys.argv[2:]:\n"
      "  module = importlib.import_module(name.removesuffix('.__init__'))\n"
      "  at = pathlib.Path(module.__file__)\n"
      "  assert at.is_relative_to(sys.argv[1]), at\n")
  environ = os.environ | {"PYTHONPATH": str(tmp_path / "site")}
  run = subprocess.run(
      [sys.executable, "-c", code, str(tmp_path / "site"), *modules],
      cwd=tmp_path, env=environ, capture_output=True, text=True, timeout=300)
  assert run.returncode == 0, run.stderr
