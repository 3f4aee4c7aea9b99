"""What is installed: a wheel that works away from the repository."""

import os
import pathlib
import re
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile

import pytest

import r1jax
from experiments import command, files
from r1jax.stages import weights
from tests.stages import cases

ROOT = pathlib.Path(__file__).parents[1]
TOPS = ("r1jax", "experiments", "launch")
OWN = "experiments/mine.py"  # of a project that has r1jax installed
TASK = '''
import random

from experiments.mine import MOST
from r1jax.core.prompt import Prompt, ask


def prompts(split):
  draw = random.Random(split).randint
  return [Prompt(id=i, domain="math", source="own", verifier="own",
                 messages=ask(f"What is {draw(2, MOST)} + {i}?"), reference=i)
          for i in range(16)]


def verify(prompt, response):
  from r1jax.rewards.score import Score
  return Score(float(bool(response.answer)), True, "said")


VERIFIERS = {"own": verify}
'''
PLAN = """
[stages.copies]
run = "files"
out = "to"
"""


def installed(path):
  """Where a file of the repository lies in a wheel."""
  name = path.relative_to(ROOT).as_posix()
  return name if name.startswith("r1jax/") else f"r1jax/{name}"


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
       str(out)], capture_output=True, text=True, timeout=1200)
  assert run.returncode == 0, run.stderr
  (path,) = out.glob("*.whl")
  return path


@pytest.fixture(scope="module")
def project(wheel, tmp_path_factory):
  """Runs r1jax in a project that has an experiments/ and an r1jax/ of its own.

  The wheel is in an environment of its own, which finds what r1jax depends on
  where these tests find it.
  """
  top = tmp_path_factory.mktemp("away")
  venv.create(top / "env", symlinks=True)
  python = top / "env/bin/python"
  paths = sysconfig.get_paths(vars={"base": str(top / "env")})
  pathlib.Path(paths["purelib"], "others.pth").write_text("".join(
      f"{path}\n" for path in {sysconfig.get_paths()["purelib"],
                               sysconfig.get_paths()["platlib"]}))
  subprocess.run(
      [sys.executable, "-m", "pip", "--python", str(python), "install",
       "--no-deps", "--no-index", "--ignore-installed", "--quiet", str(wheel)],
      check=True, capture_output=True, text=True, timeout=1200)
  folder = top / "project"
  for path, text in ((OWN, "MOST = 9\n"), ("my_task.py", TASK),
                     ("plan.toml", PLAN), ("r1jax/odd.py", "")):
    (folder / path).parent.mkdir(parents=True, exist_ok=True)
    (folder / path).write_text(text)
  # One device, not those that these tests simulate.
  environ = {k: v for k, v in os.environ.items() if k not in (
      "PYTHONPATH", "GLIBC_TUNABLES", "XLA_FLAGS", "PJRT_NPROC")}

  def run(*words, status=0):
    done = subprocess.run(
        [top / "env/bin" / words[0], *words[1:]], cwd=folder, env=environ,
        capture_output=True, text=True, timeout=1800)
    assert done.returncode == status, done.stdout + done.stderr
    return done.stdout + done.stderr

  run.folder = folder
  return run


def test_wheel_has_every_module_and_data_file(wheel):
  inside = set(zipfile.ZipFile(wheel).namelist())
  want = {
      installed(path) for top in TOPS
      for path in (ROOT / top).rglob("*") if path.is_file()
      and path.suffix != ".pyc"}
  assert {"r1jax/core/io.py", "r1jax/py.typed", "r1jax/launch/local.sh",
          "r1jax/experiments/colab/quickstart.ipynb",
          "r1jax/experiments/plans/tiny.toml",
          "r1jax/experiments/recipes/dapo.flags"} <= want
  assert not want - inside
  # No name at the top but ours: a project has its own experiments and tests.
  tops = {name.partition("/")[0] for name in inside}
  assert tops == {"r1jax", f"r1jax-{r1jax.__version__}.dist-info"}
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
      cwd=tmp_path, env=environ, capture_output=True, text=True, timeout=1200)
  assert run.returncode == 0, run.stderr


def test_experiments_import_each_other_by_relative_names():
  """Their package has another name where it is installed."""
  found = [
      f"{path.relative_to(ROOT)}: {line}"
      for path in (ROOT / "experiments").rglob("*.py")
      for line in re.findall(r"^\s*(?:from|import) experiments\b.*",
                             path.read_text(), re.MULTILINE)]
  assert not found


def test_the_command_sets_what_launch_env_sets(monkeypatch):
  names = ("JAX_COMPILATION_CACHE_DIR", "GLIBC_TUNABLES",
           "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS")
  for name in names:
    monkeypatch.delenv(name, raising=False)
  shown = subprocess.run(
      ["bash", "-c", "source launch/env.sh; env"], cwd=ROOT, text=True,
      env=os.environ | {"R1JAX_VENV": "none"}, capture_output=True).stdout
  theirs = dict(line.partition("=")[::2] for line in shown.splitlines())
  ours = command.environment()
  assert {name: ours[name] for name in names} == {
      name: theirs[name] for name in names}
  monkeypatch.setenv("GLIBC_TUNABLES", "mine")
  assert command.environment()["GLIBC_TUNABLES"] == "mine"


def test_one_command_with_all_experiments(project):
  listed = project("r1jax")
  assert set(command.names()) <= set(re.findall(r"^  (\w+) ", listed, re.M))
  assert {"train_grpo", "evaluate", "export_hf", "r1"} <= set(command.names())
  assert project("r1jax", "--version") == f"r1jax {r1jax.__version__}\n"
  wrong = project("r1jax", "train_grp", status=1)
  assert wrong.startswith(
      "error: train_grp is not an experiment; did you mean train_grpo?")


def test_stages_are_the_installed_experiments(project):
  """Not what lies in the folder where the pipeline is started."""
  said = project("r1jax", "r1", "--plan=plan.toml", "--workdir=run")
  assert "$ python -P -m r1jax.experiments.files --to=run/copies" in said
  copies = project.folder / "run/copies"
  for name, source in (("launch/local.sh", "launch/local.sh"),
                       ("notebooks/quickstart.ipynb",
                        "experiments/colab/quickstart.ipynb"),
                       ("plans/tiny.toml", "experiments/plans/tiny.toml"),
                       ("recipes/dapo.flags", "experiments/recipes/dapo.flags")
                       ):
    assert (copies / name).read_bytes() == (ROOT / source).read_bytes()
  with pytest.raises(ValueError, match="has launch, plans, recipes, notebooks"):
    files.copy(copies)


@pytest.mark.slow
def test_trains_evaluates_and_exports(project):
  """On a task that imports the project's own experiments."""
  file = project.folder / "tiny.safetensors"
  policy = cases.policy(cases.DENSE)
  weights.save(file, cases.DENSE, policy.params, policy.router_bias_LE)
  sizes = ["--row_length=64", "--max_new_tokens=4"]
  said = project(
      "r1jax", "train_grpo", f"--init=file:{file}", "--recipe=embedded",
      "--data=my_task.py", "--workdir=run/zero", "--steps=3", "--questions=2",
      "--samples=2", "--micro_rows=2", "--eval.samples=1",
      "--eval.max_new_tokens=4", "--eval_every=0", *sizes)
  assert "2 questions x 2 samples = 4 completions a step" in said
  rows = (project.folder / "run/zero/metrics.jsonl").read_text().splitlines()
  assert len(rows) == 3
  said = project(
      "r1jax", "evaluate", "--init=orbax:run/zero", "--data=my_task.py",
      "--samples=1", "--max_new_tokens=4")
  assert "pass@1" in said
  project("r1jax", "export_hf", "--init=orbax:run/zero", "--out=exported")
  assert (project.folder / "exported/config.json").exists()
