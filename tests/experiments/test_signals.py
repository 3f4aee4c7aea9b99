"""Signals at odd moments: a command says what became of it, and goes on."""

import json
import os
import re
import signal
import subprocess
import sys

import pytest

from r1jax.sharding import watchdog
from tests.experiments.calls import ROOT, calls
from tests.experiments.test_commands import TINY, contents, succeeds
from tests.stages.test_resume import measured


@pytest.mark.parametrize("sent,status,said", [
    ("SIGTERM", watchdog.AGAIN, "SIGTERM: stopped; what is complete stays,"),
    ("SIGTERM,SIGTERM", watchdog.AGAIN, "SIGTERM: stopped; what is complete"),
    ("SIGINT", -signal.SIGINT, "Ctrl-C: stopped; what is complete stays\n")])
def test_it_cleans_up_and_says_so_in_a_line(tmp_path, sent, status, said):
  call, = calls("tests.experiments.signalled", [
      f"--workdir={tmp_path}", f"--signals={sent}"])
  assert call.status == status, call.err
  assert (tmp_path / "cleaned").exists()
  assert said in call.err and call.err.strip().count("\n") == 0, call.err


@pytest.mark.parametrize("name,status", [
    ("SIGTERM", watchdog.AGAIN), ("SIGINT", -signal.SIGINT)])
def test_a_signal_during_the_imports(tmp_path, name, status):
  """Which take seconds: as later, a line and the status that says what to do.
  """
  (tmp_path / "jax.py").write_text(  # found before the real one
      f"import os, signal\nos.kill(os.getpid(), signal.{name})\n")
  command = [sys.executable, "-m", "experiments.train_sft", "--workdir=run"]
  # A suite in the background has Ctrl-C ignored.
  heeding = ("import os, signal, sys\n"
             "signal.signal(signal.SIGINT, signal.SIG_DFL)\n"
             "os.execv(sys.argv[1], sys.argv[1:])")
  call = subprocess.run(
      [sys.executable, "-c", heeding, *command], cwd=tmp_path, text=True,
      env=os.environ | {"PYTHONPATH": str(ROOT),
                        "PYTHONDONTWRITEBYTECODE": "1"}, capture_output=True)
  assert call.returncode == status, call.stderr
  said = "Ctrl-C" if name == "SIGINT" else name
  assert call.stderr == f"\n{said}: stopped before it had begun\n"
  assert [path.name for path in tmp_path.iterdir()] == ["jax.py"]


def test_whatever_is_started_handles_signals_after_its_imports():
  """Else the handler of the imports would stay, and nothing would be saved."""
  started = {
      path.name: re.findall(r'(?m)^if __name__ == "__main__":\n  (.*)\n', text)
      for path in (ROOT / "experiments").rglob("*.py")
      if "__main__" in (text := path.read_text())}
  # Its process becomes an experiment.
  assert started.pop("__main__.py") == ["main()"]
  assert len(started) > 40
  assert all(line.startswith("start.run(main") for (line,) in started.values())


def interrupted(experiment, line, at, **environment):
  """The call of an experiment that is told to stop at MODULE:FUNCTION|CALL."""
  call, = calls("tests.experiments.interrupted", line,
                INTERRUPTED=f"{experiment}|{at}", **environment)
  assert "Traceback" not in call.err, call.err
  return call


# Moments in the loop itself are those of tests/stages/test_resume.py.
MOMENTS = {
    "loading": "r1jax.stages.weights:load|1|SIGTERM",
    "compiling": "jax._src.compiler:compile_or_get_cached|25|SIGTERM,SIGTERM",
    "reporting": "experiments.train_grpo:report|1|SIGTERM"}


def test_wherever_training_is_stopped_it_goes_on(
    model_file, questions, cache, tmp_path):
  line = [*TINY, f"--init=file:{model_file}", "--data=gsm8k",
          f"--data_dir={questions}", "--steps=2", "--eval_every=1"]
  whole, = calls("experiments.train_grpo", [
      *line, f"--workdir={tmp_path / 'whole'}"], XDG_CACHE_HOME=str(cache))
  succeeds(whole)
  for name, at in MOMENTS.items():
    run = tmp_path / name
    call = interrupted("train_grpo", [*line, f"--workdir={run}"], at,
                       XDG_CACHE_HOME=str(cache))
    assert call.status == watchdog.AGAIN, (name, call)
    again, = calls("experiments.train_grpo", [*line, f"--workdir={run}"],
                   XDG_CACHE_HOME=str(cache))
    succeeds(again)
    assert measured(run) == measured(tmp_path / "whole"), name


def test_half_an_export_or_import_is_not_left(model_file, tmp_path):
  out, run = tmp_path / "out", tmp_path / "run"
  lines = {"export_hf": [f"--init=file:{model_file}", f"--out={out}",
                         "--shard_gb=0.00002"],
           "import_hf": [f"--from={out}", f"--workdir={run}"]}
  close = "r1jax.checkpoint.manager:Manager.close|1|SIGTERM,SIGTERM"
  for experiment, at in (
      ("export_hf", "safetensors.numpy:save_file|2|SIGTERM"),
      ("export_hf", "safetensors.numpy:save_file|2|SIGINT"),
      ("import_hf", "r1jax.checkpoint.hf_files:Folder.read|3|SIGTERM"),
      ("import_hf", close)):
    if experiment == "import_hf" and not out.exists():
      succeeds(*calls("experiments.export_hf", lines["export_hf"]))
    call = interrupted(experiment, lines[experiment], at)
    ctrl_c = "SIGINT" in at
    assert call.status == (-signal.SIGINT if ctrl_c else watchdog.AGAIN), call
    assert "stopped; what is complete stays" in call.err
    assert [path.name for path in tmp_path.iterdir()
            if path.name not in ("out", "run")] == []
  succeeds(*calls("experiments.import_hf", lines["import_hf"]))
  assert json.loads((run / "config.json").read_text())["config"]["model"]
  assert [path.name for path in (run / "checkpoints").iterdir()] == ["0"]
  assert contents(run / "checkpoints/0")
