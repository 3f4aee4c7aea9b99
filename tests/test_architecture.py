"""The rules of ARCHITECTURE.md that a parser can hold.

Each checker takes the root of a tree and returns one line per violation. It is
run on this repository, and on a small tree that breaks its rule.
"""

from __future__ import annotations

import ast
import pathlib
import re
from collections.abc import Iterator

import pytest

ROOT = pathlib.Path(__file__).parents[1]
MAX_FILE, MAX_FUNCTION = 500, 80

ROWS = (
    {"core"},
    {"sharding", "report"},
    {"ops"},
    {"models"},
    {"checkpoint", "data", "rewards", "rollout", "losses", "accounting"},
    {"training", "evals", "safety"},
    {"stages", "serving", "ahead", "plans"},
)
# Within a package: a room imports nothing of those that come after it.
ROOMS = (
    ("data/text", "data/sources", "data/streams"),
    ("stages/loop", "stages", "stages/reports"),
)
ROW = {name: row for row, names in enumerate(ROWS) for name in names}
HOSTILE = ("pickle", "cloudpickle", "dill", "marshal", "shelve")


def sources(root: pathlib.Path, *tops: str) -> Iterator[tuple[str, str]]:
  for top in tops:
    for path in sorted((root / top).rglob("*.py")):
      yield str(path.relative_to(root)), path.read_text()


def imports(name: str, tree: ast.AST) -> Iterator[tuple[int, str]]:
  """(line, dotted target) of every import, relative ones made absolute."""
  package = name.split("/")[:-1]
  for node in ast.walk(tree):
    if isinstance(node, ast.Import):
      for alias in node.names:
        yield node.lineno, alias.name
    elif isinstance(node, ast.ImportFrom):
      up = package[:len(package) - node.level + 1] if node.level else []
      base = ".".join([*up, *filter(None, [node.module])])
      for alias in node.names:
        yield node.lineno, f"{base}.{alias.name}"


def layers(root: pathlib.Path) -> list[str]:
  found = []
  for name, text in sources(root, "r1jax"):
    parts = name.split("/")
    if len(parts) == 2:  # r1jax/__init__.py
      own, row = None, -1
    else:
      own, row = parts[1], ROW.get(parts[1])
    if row is None:
      found.append(f"{name}: {own} is in no layer")
      continue
    for line, target in imports(name, ast.parse(text)):
      top, *rest = target.split(".")
      if top in ("experiments", "tests"):
        found.append(f"{name}:{line}: imports {target}")
      elif top == "r1jax" and rest and rest[0] != own:
        # `from r1jax import __version__` names no package.
        below = ROW.get(rest[0], -1 if rest[0].startswith("__") else len(ROWS))
        if below >= row:
          found.append(f"{name}:{line}: {own} imports {target}")
  return found


def rooms(root: pathlib.Path) -> list[str]:
  def place(path: str, order: tuple[str, ...]) -> int:
    inside = [room for room in order if f"{path}/".startswith(f"{room}/")]
    return order.index(max(inside, key=len)) if inside else -1

  found = []
  for name, text in sources(root, "r1jax"):
    for order in ROOMS:
      own = place(name.removeprefix("r1jax/"), order)
      for line, target in imports(name, ast.parse(text)) if own >= 0 else ():
        path = target.removeprefix("r1jax.").replace(".", "/")
        if place(path, order) > own:
          found.append(f"{name}:{line}: {order[own]} imports {target}")
  return found


def flags(root: pathlib.Path) -> list[str]:
  return [
      f"{name}:{line}: {target}"
      for name, text in sources(root, "r1jax")
      for line, target in imports(name, ast.parse(text))
      if f"{target}.".startswith(("absl.flags.", "absl.app."))]


def sizes(root: pathlib.Path) -> list[str]:
  found = []
  for name, text in sources(root, "r1jax", "experiments"):
    if (n := len(text.splitlines())) > MAX_FILE:
      found.append(f"{name}: {n} lines")
    for node in ast.walk(ast.parse(text)):
      if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
        if (n := node.end_lineno - node.lineno + 1) > MAX_FUNCTION:
          found.append(f"{name}: {node.name} has {n} lines")
  return found


def hostile(root: pathlib.Path) -> list[str]:
  """Calls that would run what a model or a file says."""
  found = []
  for name, text in sources(root, "r1jax"):
    tree = ast.parse(text)
    for node in ast.walk(tree):
      if not isinstance(node, ast.Call):
        continue
      called = ast.unparse(node.func)
      module, _, function = called.rpartition(".")
      if called in ("eval", "exec", "builtins.eval", "builtins.exec") or (
          module in HOSTILE and function in ("load", "loads", "open")):
        found.append(f"{name}:{node.lineno}: {called}")
    found += [
        f"{name}:{line}: from {target}" for line, target in imports(name, tree)
        if target in {f"{m}.{f}" for m in HOSTILE for f in ("load", "loads")}]
  return found


def surroundings(root: pathlib.Path) -> list[str]:
  """Questions of operations and layers about where they run: they are told."""
  asks = re.compile(
      r"get_abstract_mesh|default_backend|\bbackend\(\)|free_axes|Place\.here")
  return [
      f"{name}:{line}: {text.strip()}"
      for name, whole in (*sources(root, "r1jax/ops"),
                          *sources(root, "r1jax/models"))
      for line, text in enumerate(whole.splitlines(), 1)
      if asks.search(text) and name != "r1jax/models/model.py"]


def pragmas(root: pathlib.Path) -> list[str]:
  return [
      f"{name}: {line.strip()}"
      for name, text in sources(root, "r1jax", "experiments")
      for line in text.splitlines() if "type: " + "ignore" in line]


CHECKERS = layers, rooms, flags, sizes, hostile, surroundings, pragmas


@pytest.mark.parametrize("checker", CHECKERS)
def test_repository(checker):
  assert not checker(ROOT)


def test_the_repository_is_seen():
  assert len(list(sources(ROOT, "r1jax"))) > 10
  assert any(
      target.startswith("absl.flags") for name, text
      in sources(ROOT, "experiments")
      for _, target in imports(name, ast.parse(text)))


LONG_FUNCTION = "def f():\n" + "  x = 1\n" * MAX_FUNCTION
BROKEN = [
    (layers, "ops/a.py", "from r1jax.models import model"),
    (layers, "ops/a.py", "import r1jax.models.model"),
    (layers, "ops/a.py", "from r1jax import models"),
    (layers, "ops/a.py", "from ..models import model"),
    (layers, "ops/a.py", "def f():\n  from r1jax.stages import grpo"),
    (layers, "ops/a.py", "from r1jax import surprise"),
    (layers, "data/a.py", "from r1jax.rewards import math"),
    (layers, "data/sources/builders/a.py", "from r1jax.rollout import engine"),
    (layers, "stages/a.py", "from experiments import flagset"),
    (layers, "stages/a.py", "import tests.reference"),
    (layers, "utils/a.py", "x = 1"),
    (layers, "__init__.py", "from r1jax.models import model"),
    (rooms, "data/text/a.py", "from r1jax.data.sources import load"),
    (rooms, "data/sources/world/a.py", "import r1jax.data.streams.sft"),
    (rooms, "stages/a.py", "from r1jax.stages import reports"),
    (rooms, "stages/loop/a.py", "from r1jax.stages.grpo import run"),
    (rooms, "stages/loop/a.py", "from .. import grpo"),
    (flags, "stages/a.py", "from absl import flags"),
    (flags, "stages/a.py", "import absl.flags as f"),
    (flags, "stages/a.py", "from absl.flags import DEFINE_string"),
    (flags, "stages/a.py", "from absl import app"),
    (sizes, "ops/a.py", "x = 1\n" * (MAX_FILE + 1)),
    (sizes, "ops/a.py", LONG_FUNCTION),
    (hostile, "rewards/a.py", "eval(text)"),
    (hostile, "rewards/a.py", "def f():\n  exec(text, {})"),
    (hostile, "rewards/a.py", "pickle.loads(data)"),
    (hostile, "rewards/a.py", "from pickle import loads"),
    (surroundings, "ops/a.py", "flat = mesh.backend() == 'cpu'"),
    (surroundings, "models/a.py", "import jax\nx = jax.default_backend()"),
    (pragmas, "ops/a.py", "x = f()  # type: " + "ignore[arg-type]"),
]


@pytest.mark.parametrize("checker,name,text", BROKEN)
def test_teeth(tmp_path, checker, name, text):
  path = tmp_path / "r1jax" / name
  path.parent.mkdir(parents=True, exist_ok=True)
  path.write_text(text)
  assert len(checker(tmp_path)) == 1


GOOD = [
    ("stages/a.py", "from r1jax.training import step\nfrom . import b"),
    ("stages/a.py", "from r1jax.stages.loop import session"),
    ("stages/reports/a.py", "from r1jax.stages import reward"),
    ("data/streams/a.py", "from r1jax.data.text import chat\n"
     "from r1jax.data.streams import packing\nimport r1jax"),
    ("models/model.py", "place = Place.here(layout)"),
    ("models/a.py", "from r1jax.ops import mla\nfrom ..core import io"),
    ("ops/a.py", "model.eval()\nfrom absl import logging\nimport json\n"
     "json.loads(x)\nimport r1jaxx.models"),
    ("ops/a.py", "x = 1\n" * MAX_FILE),
    ("ops/a.py", "def f():\n" + "  x = 1\n" * (MAX_FUNCTION - 1)),
]


@pytest.mark.parametrize("name,text", GOOD)
def test_no_false_alarm(tmp_path, name, text):
  path = tmp_path / "r1jax" / name
  path.parent.mkdir(parents=True)
  path.write_text(text)
  for checker in CHECKERS:
    assert not checker(tmp_path)
