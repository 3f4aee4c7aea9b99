"""The notebooks, as they are committed and run from top to bottom."""

import ast
import base64
import importlib.util
import io
import json
import math
import os
import pathlib
import re
import sys
from typing import NamedTuple

import jax
import matplotlib.image
import nbclient
import nbformat
import numpy as np
import pytest
from IPython.core.inputtransformer2 import TransformerManager

from r1jax.models.compute import Compute
from r1jax.report import rollouts, writer
from r1jax.stages import weights
from tests import processes

ROOT = pathlib.Path(__file__).parents[2]
NOTEBOOKS = {path.stem: path
             for path in sorted((ROOT / "experiments/colab").glob("*.ipynb"))}
LONGEST_FUNCTION = 10
LONGEST_OUTPUT = 80  # lines of a cell
SAMPLES = 3
SIZES = {
    "quickstart": dict(
        STEPS=2, QUESTIONS=4, SAMPLES=SAMPLES, MAX_NEW_TOKENS=32,
        TEST="test[:8]", HELD_OUT="validation[:5]", EVAL_SAMPLES=SAMPLES),
    "open_weights": dict(
        STEPS=2, QUESTIONS=4, SAMPLES=SAMPLES, MAX_NEW_TOKENS=32, PROBLEMS=8,
        EVAL_SAMPLES=SAMPLES),
    "inspect_rollouts": dict(
        STEPS=2, QUESTIONS=4, SAMPLES=SAMPLES, EVAL_SAMPLES=SAMPLES),
    "r1": dict(PRESET="tiny", FOLDER="runs/r1_tiny"),
}


def read(name):
  return nbformat.reads(NOTEBOOKS[name].read_text(), as_version=4)


def code(notebook):
  return [cell for cell in notebook.cells if cell.cell_type == "code"]


def tree(cell):
  """The cell's Python; what `%%writefile` writes counts as such."""
  source = re.sub(r"\A%%writefile \S+\.py\n", "", cell.source)
  return ast.parse(TransformerManager().transform_cell(source))


def parameters(notebook):
  """The first code cell, which sets names to constants."""
  first = code(notebook)[0]
  assert first.metadata["tags"] == ["parameters"]
  body = tree(first).body
  assert all(isinstance(line, ast.Assign) for line in body)
  return first, {line.targets[0].id: ast.literal_eval(line.value)
                 for line in body}


class Ran(NamedTuple):
  """A notebook after its run: its cells by id, and the folder it ran in."""

  cells: dict[str, nbformat.NotebookNode]
  folder: pathlib.Path

  def text(self, cell):
    return "".join(out.text for out in self.cells[cell].outputs
                   if out.output_type == "stream")

  def data(self, cell, kind):
    return [out.data[kind] for out in self.cells[cell].outputs
            if kind in out.get("data", {})]

  def table(self, cell):
    """Model to pass@1, low, high, maj@k, format (shares) and mean length."""
    lines = self.text(cell).split("model  ")[-1].splitlines()[2:]
    found = {}
    for line in lines:
      name, numbers = re.fullmatch(r"(\S+(?: \S+)*)  +(.*)", line).groups()
      # Of one sample there is no majority, but a dash.
      *shares, length = (
          math.nan if number == "-" else float(number)
          for number in re.findall(r"[\d.]+|(?<=  )-(?=  )", numbers))
      found[name] = [share / 100 for share in shares] + [length]
    return found


def execute(name, folder, **sizes):
  """Runs a notebook in `folder`, with `sizes` after its own parameters."""
  notebook = read(name)
  first, known = parameters(notebook)
  assert set(sizes) <= set(known)
  lines = [f"{key} = {value!r}" for key, value in sizes.items()]
  notebook.cells.insert(
      notebook.cells.index(first) + 1,
      nbformat.v4.new_code_cell("\n".join(lines), id="injected"))
  # A kernel of this interpreter, whatever is registered on this machine.
  spec = folder / "kernels" / "python3"
  spec.mkdir(parents=True)
  (spec / "kernel.json").write_text(json.dumps({
      "argv": [sys.executable, "-m", "ipykernel_launcher", "-f",
               "{connection_file}"],
      "display_name": "Python 3", "language": "python"}))
  # The command of this repository, whatever is installed.
  shell = folder / "bin" / "r1jax"
  shell.parent.mkdir()
  shell.write_text(f'#!/bin/sh\nexec {sys.executable} -m experiments "$@"\n')
  shell.chmod(0o755)
  environment = {k: v for k, v in os.environ.items() if k != "PJRT_NPROC"} | {
      "XLA_FLAGS": processes.xla_flags(), "PYTHONPATH": str(ROOT),
      "IPYTHONDIR": str(folder / "ipython"),
      "PATH": os.pathsep.join([str(shell.parent), os.environ["PATH"]])}
  work = folder / "work"
  work.mkdir()
  with pytest.MonkeyPatch.context() as patch:
    patch.setenv("JUPYTER_PATH", str(folder))
    nbclient.NotebookClient(
        notebook, kernel_name="python3", timeout=300,
        resources={"metadata": {"path": str(work)}}).execute(env=environment)
  return Ran({cell.id: cell for cell in notebook.cells}, work)


@pytest.fixture(scope="module")
def quickstart(tmp_path_factory):
  return execute("quickstart", tmp_path_factory.mktemp("quickstart"),
                 **SIZES["quickstart"])


@pytest.fixture(scope="module")
def open_weights(tmp_path_factory):
  return execute("open_weights", tmp_path_factory.mktemp("open_weights"),
                 **SIZES["open_weights"])


def is_quiet(ran):
  """No warnings, no endless output."""
  for cell in ran.cells.values():
    for out in cell.get("outputs", []):
      assert out.get("name") != "stderr", (cell.id, out.text)
      assert out.get("text", "").count("\n") <= LONGEST_OUTPUT, cell.id


def draws(ran, cell, count):
  """`count` figures with ink on them."""
  images = ran.data(cell, "image/png")
  assert len(images) == count
  for image in images:
    pixels = matplotlib.image.imread(io.BytesIO(base64.b64decode(image)))
    assert pixels.shape[1] >= 900
    assert np.mean(pixels[..., :3].min(-1) < 0.9) > 0.01


def is_sane(table, longest):
  for pass1, low, high, majority, form, length in table.values():
    assert 0 <= low <= pass1 <= high <= 1
    assert 0 < form <= 1 and (math.isnan(majority) or 0 <= majority <= 1)
    assert 2 < length <= longest


def test_quickstart_from_top_to_bottom(quickstart):
  is_quiet(quickstart)
  table = quickstart.table("evaluate-zero")
  assert list(table) == [
      f"{model}, {way}" for model in ("base", "R1-Zero")
      for way in ("T = 1", "T = 0.6, top-p 0.95", "greedy")]
  is_sane(table, 32)
  first = quickstart.table("evaluate-base")
  assert len(first) == 3 and repr(first) == repr(
      {name: table[name] for name in first})
  draws(quickstart, "figures", 5)
  answers = quickstart.text("ask-base").splitlines()
  assert len(answers) == 8 and len(set(answers)) > 4 and all(answers)
  assert quickstart.text("ask-zero").count("\n") == 2
  workdir = quickstart.folder / "runs/quickstart/seed_0/train"
  assert [row["step"] for row in writer.read(workdir)] == [0, 1, 2]
  assert (workdir / "report.html").exists()
  (page,) = quickstart.data("rollouts", "text/html")
  stored = rollouts.read(workdir, 2, rollouts.EVALUATIONS)
  assert len(stored) == 5 * SAMPLES
  assert page.count("<section") == 3 and stored[0]["question"] in page


def test_open_weights_from_top_to_bottom(open_weights):
  is_quiet(open_weights)
  table = open_weights.table("again")
  assert list(table) == ["imported", "trained", "loaded again"]
  is_sane(table, 32)
  draws(open_weights, "figures", 2)
  # The rule says what the notebook says that it pays.
  values = re.findall(r": ([\d.]+)$", open_weights.text("try"), re.MULTILINE)
  assert list(map(float, values)) == [1.0, 0.5, 0.0]
  folder = open_weights.folder / "runs/open_weights"
  (row,) = [r for r in writer.read(folder / "train") if r["step"] == 2]
  assert row["rewards/invalid_fraction"] == 0 and row["skipped"] == 0
  samples = rollouts.read(folder / "train", 2)
  assert {r["source"] for r in samples} == {"bus"}
  assert len(samples) == 4 * SAMPLES


def test_what_open_weights_exports_is_what_it_trained(open_weights):
  folder = open_weights.folder / "runs/open_weights"
  exported, trained, first = (
      weights.load(init, Compute(), jax.random.key(0)) for init in (
          f"hf:{folder / 'exported'}", f"orbax:{folder / 'train'}",
          f"hf:{folder / 'model'}"))
  rounded = jax.tree.map(lambda x: x.astype("bfloat16").astype("float32"),
                         trained.params)
  jax.tree.map(np.testing.assert_array_equal, exported.params, rounded)
  assert not jax.tree.all(jax.tree.map(
      np.array_equal, exported.params, first.params))


def inspected(ran, workdir):
  is_quiet(ran)
  draws(ran, "curves", 4)
  draws(ran, "words", 1)
  table = ran.table("table")
  assert list(table) == ["step 0", "step 2"]
  is_sane(table, 96)
  (page,) = ran.data("side", "text/html")
  assert page.count("<section") == 3 and page.count("<h3>Step 2</h3>") == 3
  header, _, *rows = ran.text("changes").splitlines()
  assert header.split()[-4:] == ["length", "accuracy", "format", "reflective"]
  before, after = (
      np.mean([row["length"] for row in rollouts.read(
          workdir, step, rollouts.EVALUATIONS)]) for step in (0, 2))
  assert f"{before:.1f} -> {after:.1f}" in rows[-1]
  samples = ran.text("samples").splitlines()
  assert samples[0].startswith("step 2: ")
  stored = [row for row in rollouts.read(workdir, 2)
            if row["prompt"] == samples[0].removeprefix("step 2: ")]
  assert sorted(samples[1:]) == sorted({
      f"{row['advantage']:+.2f}  {row['rewards']}  {row['completion']!r}"
      for row in stored})


@pytest.mark.slow
def test_inspection_makes_a_run_where_there_is_none(tmp_path):
  ran = execute("inspect_rollouts", tmp_path, **SIZES["inspect_rollouts"])
  inspected(ran, ran.folder / "runs/short/train")


def test_inspection_of_the_quickstart(quickstart, tmp_path):
  workdir = quickstart.folder / "runs/quickstart/seed_0/train"
  ran = execute("inspect_rollouts", tmp_path, RUN=str(workdir))
  assert not (ran.folder / "runs").exists()  # nothing was trained
  inspected(ran, workdir)


@pytest.mark.slow  # the tiny plan: five minutes of one core
def test_r1_from_top_to_bottom(tmp_path):
  ran = execute("r1", tmp_path, **SIZES["r1"])
  is_quiet(ran)
  folder = ran.folder / "runs/r1_tiny"
  begun = re.findall(r"^\[(\d+)/(\d+)\] \w+$", ran.text("run"), re.MULTILINE)
  assert begun == [(str(i + 1), str(len(begun))) for i in range(len(begun))]
  assert ran.text("run").endswith("done\n") and len(begun) > 10
  assert all(f"\n{path.parent.name}" in ran.text("plan")
             for path in folder.glob("*/done.json"))
  header, _, *rows = ran.text("table").splitlines()
  assert header.split() == ["base", "r1"] and len(rows) > 5
  assert {line.split("  ")[0] for line in ran.text("claims").splitlines()} <= {
      "holds", "does not", "not decided", ""}
  assert len(ran.data("figures", "image/png")) == len(
      list((folder / "figures").glob("*.png"))) > 0
  assert len(ran.text("ask").splitlines()) >= 2
  assert (folder / "report.html").exists()


def test_all_are_here():
  assert set(NOTEBOOKS) == set(SIZES)


@pytest.mark.parametrize("name", SIZES)
def test_as_committed(name):
  text, notebook = NOTEBOOKS[name].read_text(), read(name)
  nbformat.validate(notebook)
  assert (notebook.nbformat, notebook.nbformat_minor) == (4, 5)
  assert notebook.metadata.kernelspec.name == "python3"
  # One spelling, so that a change is as large in git as it is.
  assert text == json.dumps(json.loads(text), indent=1, ensure_ascii=False,
                            sort_keys=True) + "\n"
  ids = [cell.id for cell in notebook.cells]
  assert len(set(ids)) == len(ids)
  for cell in notebook.cells:
    # A word, not the random digits of a cell that an editor has added.
    assert re.fullmatch(r"[a-z]{3,}(-[a-z]{3,})*", cell.id), cell.id
    if cell.cell_type == "code":
      assert cell.outputs == [] and cell.execution_count is None


@pytest.mark.parametrize("name", SIZES)
def test_cells_are_short_and_portable(name):
  notebook = read(name)
  parameters(notebook)
  for cell in code(notebook):
    for node in ast.walk(tree(cell)):
      if isinstance(node, ast.FunctionDef):
        lines = node.end_lineno - node.lineno + 1
        assert lines <= LONGEST_FUNCTION, (cell.id, node.name)
      assert not isinstance(node, ast.ClassDef), cell.id
  for cell in notebook.cells:
    paths = re.findall(r"(?<![\w.:/<}])(?:/[\w.]+)+|[A-Z]:\\", cell.source)
    assert all(path.startswith("/dev/") for path in paths), (cell.id, paths)


def test_installation_is_one_cell():
  cells = [code(read(name))[1] for name in SIZES]
  assert len({(cell.id, cell.source) for cell in cells}) == 1


class Shell:
  """IPython, as far as the cell uses it."""

  def __init__(self):
    self.calls = []

  def __call__(self):
    return self

  def run_line_magic(self, name, line):
    self.calls.append((name, line))


@pytest.mark.parametrize("chip", ["", "/dev/accel0", "/dev/vfio/0"])
def test_installation(monkeypatch, chip):
  cell = code(read("quickstart"))[1]
  shell = Shell()

  def run(**names):
    names |= {"get_ipython": shell}
    exec(compile(tree(cell), cell.id, "exec"), names)  # noqa: S102
    return names

  run(REPOSITORY="")  # r1jax is here
  assert not shell.calls
  monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
  monkeypatch.setattr(os.path, "exists", lambda path: path == chip)
  with pytest.raises(ValueError, match="give REPOSITORY"):
    run(REPOSITORY="")
  names = run(REPOSITORY="folder")
  ((magic, line),) = shell.calls
  assert magic == "pip" and line.startswith("install")
  assert line.format(**names).endswith(
      '"jax[tpu]" "folder"' if chip else '"jax" "folder"')
