"""Killed, interrupted, terminated: the same call goes on, bit for bit."""

import os
import pathlib
import random
import re
import signal
import subprocess
import sys

import pytest

from r1jax.report import rollouts, writer
from r1jax.rollout.engine import Engine
from r1jax.rollout.sampling import SamplingConfig
from r1jax.stages import evaluating
from r1jax.stages.evaluating import EvalConfig
from r1jax.stages.loop.signals import Preemption
from tests.stages import cases, driver

ROOT = pathlib.Path(__file__).parents[2]
ENDLESS = 100_000


def steps_done(workdir):
  rows = writer.read(workdir)
  return rows[-1]["step"] if rows else 0


def stopped(workdir, number, after):
  """Trains in another process and signals it at some moment past `after`.

  The signal goes to the process group, as Ctrl-C in a terminal does.
  Returns the exit status and what was written to stderr.
  """
  with open(workdir / f"stderr_{number}", "w+") as errors:
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.stages.driver", workdir, str(ENDLESS)],
        cwd=ROOT, stderr=errors, start_new_session=True)
    try:
      while steps_done(workdir) <= after:
        assert process.poll() is None, (workdir / errors.name).read_text()
        _pause(process, 0.02)
      _pause(process, random.uniform(0.0, 0.5))  # any moment of a step
      os.killpg(process.pid, number)
      status = process.wait(timeout=120)
    finally:
      process.kill()
      process.wait()
    errors.seek(0)
    return status, errors.read()


def _pause(process, seconds):
  try:
    process.wait(timeout=seconds)
  except subprocess.TimeoutExpired:
    return


def measured(workdir):
  """The log without what a clock says."""
  return [{name: value for name, value in row.items()
           if not name.startswith(("seconds/", "compile/"))
           and "tokens_per_s" not in name and name != "rewards/wait_fraction"}
          for row in writer.read(workdir)]


def everything(workdir):
  return sorted(p for p in workdir.rglob("*") if "tfevents" not in p.name)


def test_however_it_stops_the_same_call_goes_on_bit_for_bit(tmp_path):
  workdir = tmp_path / "stopped"
  workdir.mkdir()
  status, _ = stopped(workdir, signal.SIGKILL, after=3)
  assert status == -signal.SIGKILL
  for number in (signal.SIGINT, signal.SIGTERM):
    before = steps_done(workdir)
    status, errors = stopped(workdir, number, after=before)
    assert status == 0, errors
    done = steps_done(workdir)
    assert done > before  # nothing was lost
    assert (f"{number.name}: saved after step {done};" in errors
            or f"{number.name}: saved inside step {done + 1}, after" in errors)
  total = steps_done(workdir) + 2
  resumed = driver.train(workdir, total)

  whole = driver.train(tmp_path / "whole", total)
  rows = measured(workdir)
  assert rows == measured(tmp_path / "whole")
  assert [row["step"] for row in rows] == list(range(1, total + 1))
  cases.same(resumed.params, whole.params)
  for step in (1, total):
    assert (rollouts.read(workdir, step)
            == rollouts.read(tmp_path / "whole", step))


# At which question each start is told to stop, and what it says then.
STOPS = (
    (2, "stopped, the evaluation of the first model is lost"),
    (3, "saved inside step 1, after the rollout"),
    (2, "saved inside step 1, after update 1 of 4"),
    (3, "saved after step 1"),
    (6, "saved inside step 2, after update 4 of 4"),  # in its evaluation
    (8, "saved inside step 3, after update 4 of 4"),
    (0, ""))


def test_wherever_it_is_interrupted_it_goes_on_bit_for_bit(
    tmp_path, monkeypatch, capsys):
  left = 0  # questions until the signal

  def requested(self):
    nonlocal left
    left -= 1
    if left == 0:
      self._name = "SIGTERM"
    return self._name is not None

  monkeypatch.setattr(Preemption, "requested", requested)
  monkeypatch.setattr(evaluating, "_BATCH", 4)  # two problems
  first, judge = cases.policy(cases.DENSE), cases.judge()
  engine = Engine(first.model, SamplingConfig(max_new_tokens=12),
                  judge.tokenizer.eos_ids)

  def run(folder):
    return driver.grpo.run(
        cases.config(steps=3, minibatches=2, epochs=2, eval_every=2),
        cases.handed(cases.DENSE), judge, cases.prompts(), folder,
        evaluate=evaluating.during(
            EvalConfig(samples=2, max_new_tokens=12), engine, judge,
            cases.prompts()[:4], folder))

  whole = run(tmp_path / "whole")
  workdir = tmp_path / "stopped"
  for left, expected in STOPS:  # noqa: B007 - `requested` reads it
    capsys.readouterr()
    resumed = run(workdir)
    said = re.findall("SIGTERM: (.+);", capsys.readouterr().err)
    assert "".join(said) == expected
  assert measured(workdir) == measured(tmp_path / "whole")
  cases.same(resumed.params, whole.params)
  for steps, kind in (((1, 2, 3), rollouts.ROLLOUTS),
                      ((0, 2, 3), rollouts.EVALUATIONS)):
    for step in steps:
      assert (rollouts.read(workdir, step, kind)
              == rollouts.read(tmp_path / "whole", step, kind))


def test_a_finished_run_has_nothing_to_do(smoke):
  before = measured(smoke.workdir)
  files = everything(smoke.workdir)
  again = driver.grpo.run(
      cases.config(steps=4, eval_every=2), cases.handed(), cases.judge(),
      cases.prompts(), smoke.workdir)
  assert measured(smoke.workdir) == before
  assert everything(smoke.workdir) == files
  cases.same(again.params, smoke.weights.params)


def test_killed_before_the_first_checkpoint_it_starts_anew(tmp_path):
  """The base's evaluation, written at step 0, is there once."""
  def evaluate(params, bias_LE, step, interrupted):
    return {"eval/pass1": 0.25}

  def run(steps, pool=None):
    return driver.grpo.run(
        cases.config(steps=steps, save_every=50, eval_every=50),
        cases.handed(cases.DENSE),
        cases.judge(pool), cases.prompts(), tmp_path, evaluate=evaluate)

  class Broken(cases.Pool):
    def submit(self, items):
      if self.seen == cases.STEP:
        raise RuntimeError("killed")
      return super().submit(items)

  with pytest.raises(RuntimeError, match="killed"):
    run(3, Broken())
  assert steps_done(tmp_path) == 1
  run(2)
  assert [row["step"] for row in writer.read(tmp_path)] == [0, 1, 2]
