"""wandb and trackio: really, without a network, where they are installed."""

import importlib.util
import json
import logging
import os
import pathlib
import subprocess
import sys
from importlib import machinery

import numpy as np
import pytest

from r1jax.report import sinks, writer
from r1jax.report.sinks import Sink
from r1jax.stages.grpo_config import GrpoConfig

ROOT = pathlib.Path(__file__).parents[2]
# Two starts of one run: the second goes on after step 2.
RUN = """
import sys
from r1jax.report import sinks, writer
name, workdir = sys.argv[1:]
for resumed, steps in ((None, (1, 2, 3)), (2, (3, 4))):
  found = sinks.opened([name], workdir, {"lr": 0.125},
                       resumes=resumed is not None)
  out = writer.Writer(workdir, resumed=resumed, sinks=found)
  for step in steps:
    out.write(step, {"reward/accuracy": step + 0.53125, "stage": "grpo",
                     "kl": float("nan")})
  out.close()
"""
TOLD = """
import json, os
from trackio.sqlite_storage import SQLiteStorage
(name,) = SQLiteStorage.get_runs("r1jax")
print(json.dumps([name, SQLiteStorage.get_logs("r1jax", name),
                  SQLiteStorage.get_run_config("r1jax", name)]))
"""


def python(code, *arguments, **environ):
  """Standard output of a process: these packages have state of their own."""
  done = subprocess.run(
      [sys.executable, "-c", code, *map(str, arguments)], cwd=ROOT, text=True,
      capture_output=True, env=os.environ | environ)
  assert done.returncode == 0, done.stderr
  return done.stdout


def test_wandb_offline(tmp_path):
  pytest.importorskip("wandb")
  python(RUN, "wandb", tmp_path / "zero", WANDB_MODE="offline")
  ident = json.loads((tmp_path / "zero/sinks.json").read_text())["id"]
  files = sorted((tmp_path / "zero/wandb").glob(
      f"offline-run-*/run-{ident}.wandb"))
  data = b"".join(path.read_bytes() for path in files)
  assert len(files) == 2  # of one run, which wandb sync joins
  for text in (b"reward/accuracy", b"1.53125", b"2.53125", b"4.53125", b"0.125",
               b"r1jax"):
    assert text in data, text
  # Seen above, in the same encoding, is what has been sent.
  assert b'"grpo"' not in data and b"NaN" not in data


def test_trackio_on_this_machine(tmp_path):
  pytest.importorskip("trackio")
  environ = {"TRACKIO_DIR": str(tmp_path / "kept"), "HF_HUB_OFFLINE": "1"}
  python(RUN, "trackio", tmp_path / "zero", **environ)
  ident = json.loads((tmp_path / "zero/sinks.json").read_text())["id"]
  told = python(TOLD, **environ).splitlines()[-1]
  name, rows, config = json.loads(told)
  assert name == f"zero-{ident}" and config["lr"] == 0.125
  # Step 3 was undone by the kill between the two starts.
  assert [(row["step"], row["reward/accuracy"]) for row in rows] == [
      (step, step + 0.53125) for step in (1, 2, 3, 3, 4)]
  assert not {"kl", "stage"} & set(rows[0])


@pytest.mark.parametrize("spec", [None, machinery.ModuleSpec("wandb", None)])
def test_what_cannot_be_is_said_in_a_sentence(tmp_path, monkeypatch, spec):
  with pytest.raises(ValueError, match="^sinks=wand: 'wand' is unknown; choose"
                     " wandb or trackio, or both"):
    GrpoConfig(sinks=("wand",))
  GrpoConfig(sinks=("wandb", "trackio"))  # known, whatever is installed here
  monkeypatch.setattr(importlib.util, "find_spec", lambda name: spec)
  with pytest.raises(ValueError, match=r"^sinks=wandb needs the package wandb:"
                     r" pip install -e '.\[wandb\]'"):
    sinks.opened(["wandb"], tmp_path, {}, resumes=False)
  assert not sinks.opened([], tmp_path, {}, resumes=False)
  assert not list(tmp_path.iterdir())


def test_the_numbers_of_a_row_and_a_service_that_fails(tmp_path, caplog):
  """It is named once; the run and the others go on."""
  got = []

  def fails(step, numbers):
    raise ConnectionError("no route")

  out = writer.Writer(tmp_path, sinks=[
      Sink("wandb", fails, fails),
      Sink("trackio", lambda *row: got.append(row), lambda: got.append("end"))])
  with caplog.at_level(logging.WARNING):
    for step in (1, 2):
      out.write(step, {"loss": np.float32(0.5), "n": 3, "kl": float("inf"),
                       "stage": "grpo"})
    out.close()
  assert caplog.messages == ["no more metrics are sent to wandb: no route"]
  assert got == [(1, {"loss": 0.5, "n": 3}), (2, {"loss": 0.5, "n": 3}), "end"]
  assert [row["step"] for row in writer.read(tmp_path)] == [1, 2]
