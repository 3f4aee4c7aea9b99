"""What a Session does around a loop: rows, guard, saves, signals, restores."""

import logging
import os
import shutil
import signal
import subprocess
import sys

import jax.numpy as jnp
import numpy as np
import pytest

from r1jax.checkpoint import faults
from r1jax.checkpoint.manager import Manager
from r1jax.report import writer
from r1jax.stages.loop import session as session_lib
from r1jax.training import guard
from tests.processes import ROOT
from tests.stages.loop import toy


def rows(workdir):
  return [row["step"] for row in writer.read(workdir)]


def checkpoints(workdir, folder="checkpoints"):
  path = workdir / folder
  return sorted(os.listdir(path)) if path.exists() else []


def signalled(monkeypatch, session):
  """As if a signal had come."""
  monkeypatch.setattr(session.preemption, "_name", "SIGTERM")


class Reading:
  """Metrics as functions; which steps were read."""

  def __init__(self, skipped=()):
    self.steps, self._skipped = [], skipped

  def __call__(self, step):
    def read():
      self.steps.append(step)
      return toy.numbers(step, float(step in self._skipped))

    return read


def test_metrics_are_read_one_step_late_and_before_a_save(tmp_path):
  read = Reading()
  with toy.opened(tmp_path, total=6, save_every=3) as session:
    for step, expected in ((1, []), (2, [1]), (3, [1, 2, 3]), (4, [1, 2, 3]),
                           (5, [1, 2, 3, 4]), (6, [1, 2, 3, 4, 5, 6])):
      toy.finish(session, step, read(step))
      assert read.steps == expected
      assert rows(tmp_path) == expected
  assert [row["loss"] for row in writer.read(tmp_path)] == [
      1 / step for step in range(1, 7)]


def test_mappings_are_read_at_once(tmp_path):
  with toy.opened(tmp_path, total=6, save_every=3) as session:
    toy.finish(session, 1)
    assert rows(tmp_path) == []
    toy.finish(session, 2, toy.numbers(2))
    assert rows(tmp_path) == [1, 2]


def test_a_stop_and_an_error_leave_no_row_behind(tmp_path, monkeypatch):
  with toy.opened(tmp_path / "stop", total=6, save_every=6) as session:
    assert not toy.finish(session, 1)
    signalled(monkeypatch, session)
    assert toy.finish(session, 2)
  assert rows(tmp_path / "stop") == [1, 2]
  assert checkpoints(tmp_path / "stop") == ["2"]
  with pytest.raises(RuntimeError, match="a pool broke"):
    with toy.opened(tmp_path / "error", total=6, save_every=6) as session:
      toy.finish(session, 1)
      raise RuntimeError("a pool broke")
  assert rows(tmp_path / "error") == [1]


def test_no_checkpoint_holds_an_update_that_nobody_looked_at(tmp_path):
  read = Reading(skipped={2, 3, 4})
  with pytest.raises(FloatingPointError, match="2, 3, 4 were skipped"):
    with toy.opened(tmp_path, total=8, save_every=4) as session:
      for step in range(1, 5):
        toy.finish(session, step, read(step))
  assert checkpoints(tmp_path) == []
  assert rows(tmp_path) == [1, 2, 3, 4]


def test_skipped_steps_keep_their_own_batches_and_are_counted_over_restarts(
    tmp_path):
  read = Reading(skipped={1, 3, 4, 5})
  with toy.opened(tmp_path, total=8, save_every=4) as session:
    for step in range(1, 5):
      toy.finish(session, step, read(step))
    assert session.guard.skipped == (3, 4)  # as saved, step 4 looked at
  session = toy.opened(tmp_path, total=8, save_every=4)
  session.restore(toy.state(), {})
  with pytest.raises(FloatingPointError, match="3, 4, 5 were skipped"):
    with session:
      toy.finish(session, 5, read(5))
      toy.finish(session, 6, read(6))  # where step 5 is read
  assert sorted(os.listdir(tmp_path / "skipped")) == [
      f"step_{step}.npz" for step in (1, 3, 4, 5)]
  for step in (1, 3, 4, 5):
    dumped = guard.load(tmp_path / "skipped" / f"step_{step}.npz")
    np.testing.assert_array_equal(dumped.tokens_BT, toy.batch(step).tokens_BT)


def test_a_batch_is_only_made_for_a_skipped_step(tmp_path):
  def unwanted():
    raise AssertionError("nothing was skipped")

  with toy.opened(tmp_path) as session:
    for step in range(1, 5):
      toy.finish(session, step, dumped=unwanted)


def test_the_best_checkpoint_is_by_its_own_metrics(tmp_path):
  score = {1: 0.1, 2: 0.9, 3: 0.2, 4: 0.3, 5: 0.4, 6: 0.5}
  with toy.opened(tmp_path, total=6, save_every=1, keep=1,
                  best_metric="eval/pass1") as session:
    for step in range(1, 7):
      toy.finish(session, step, lambda s=step: toy.numbers(
          s, **{"eval/pass1": score[s]}))
  assert checkpoints(tmp_path) == ["2", "6"]


@pytest.mark.parametrize("mode,score,kept", [
    ("max", [0.1, 0.3, 0.2, 0.3, 0.1, 0.1], ["2", "6"]),
    ("min", [0.9, 0.3, 0.5, 0.2, 0.4, 0.2], ["4", "6"])])
def test_the_best_checkpoint_is_saved_when_it_is_found(
    tmp_path, mode, score, kept):
  """Between two saves too; one that is as good as the best is not saved."""
  saved = []
  with toy.opened(tmp_path, total=6, save_every=6, keep=1, best_mode=mode,
                  best_metric="eval/pass1") as session:
    for step, value in enumerate(score, 1):
      toy.finish(session, step, toy.numbers(step, **{"eval/pass1": value}))
      saved.append(session.manager.latest_step())
  assert saved == {"max": [1, 2, 2, 2, 2, 6], "min": [1, 2, 2, 4, 4, 6]}[mode]
  # The last one is as good: of equals the later stays.
  assert checkpoints(tmp_path) == (kept if mode == "max" else ["6"])


def test_a_finished_run_says_so(tmp_path, capsys):
  toy.train(tmp_path)
  capsys.readouterr()
  assert toy.train(tmp_path).step == 4
  said = capsys.readouterr().err
  assert f"{tmp_path} is finished: all 4 steps were done before" in said
  assert "raise --steps" in said and "resuming" not in said
  toy.train(tmp_path, total=5)
  assert f"resuming {tmp_path} after step 4" in capsys.readouterr().err


def test_a_folder_is_given_back(tmp_path, monkeypatch):
  """At the end, after an error, and where a run cannot begin."""
  monkeypatch.setattr(sys, "unraisablehook", lambda unraisable: None)
  lock = tmp_path / ".lock"
  with toy.opened(tmp_path) as session:
    assert str(os.getpid()) in lock.read_text()
    for step in range(1, 5):
      toy.finish(session, step)
  assert lock.read_text() == ""
  damage(tmp_path / "checkpoints/4")
  session = toy.opened(tmp_path)
  with pytest.raises(faults.Unusable):
    session.restore(toy.state(), {})
  assert lock.read_text() == ""
  with pytest.raises(RuntimeError, match="a pool broke"):
    with toy.opened(tmp_path):
      raise RuntimeError("a pool broke")
  assert lock.read_text() == ""


LOCAL = {"rows": [toy.batch(1), toy.batch(2)],
         "half": jnp.full((1, 5), 0.5, jnp.bfloat16)}


def save_inside(session, step, at):
  session.save_inside(
      step, toy.state(step) | {"w": jnp.full((2, 3), step + 0.5)},
      {"at": at}, LOCAL, after="update 1 of 2")


@pytest.mark.parametrize("done", [0, 1, 2, 3])
def test_it_goes_on_inside_a_step(tmp_path, monkeypatch, capsys, done):
  """Checkpoints at 2 and 4: before the first, between, and right after one."""
  with toy.opened(tmp_path) as session:
    assert not session.resumes
    session.log(0, {"loss": 9.0})
    for step in range(1, done + 1):
      toy.finish(session, step)
    assert not session.interrupted()
    signalled(monkeypatch, session)
    assert session.interrupted()
    save_inside(session, done, "an update")
    assert session.stopped
  assert (f"SIGTERM: saved inside step {done + 1}, after update 1 of 2; the"
          " same command resumes") in capsys.readouterr().err

  session = toy.opened(tmp_path)
  assert session.resumes and session.step == done
  arrays, host = session.restore(toy.state(), {})
  assert host["at"] == "an update"
  np.testing.assert_array_equal(arrays["w"], done + 0.5)
  first, second = session.inside["rows"]
  assert type(first["tokens_BT"]) is np.ndarray and "experts_BTLA" not in first
  np.testing.assert_array_equal(first["tokens_BT"], toy.batch(1).tokens_BT)
  np.testing.assert_array_equal(second["mask_BT"], toy.batch(2).mask_BT)
  assert session.inside["half"].dtype == jnp.bfloat16
  with session:
    for step in range(done + 1, 5):
      toy.finish(session, step)
  assert f"inside step {done + 1}" in capsys.readouterr().err
  assert rows(tmp_path) == [0, 1, 2, 3, 4]
  assert not (tmp_path / "checkpoints_inside").exists()
  assert toy.train(tmp_path).inside is None


def test_it_stays_until_the_next_checkpoint_is_complete(tmp_path, monkeypatch):
  with toy.opened(tmp_path, total=8) as session:
    save_inside(session, 0, "an update")
  dropped, drop = [], session_lib.Midway.drop

  def told(self):
    if self.step() is not None:
      dropped.append((session.step, checkpoints(tmp_path)))
    drop(self)

  monkeypatch.setattr(session_lib.Midway, "drop", told)
  session = toy.opened(tmp_path, total=8)
  session.restore(toy.state(), {})
  with session:
    for step in range(1, 5):
      toy.finish(session, step)
  # When step 4 is to be saved, step 2 is there, under its last name.
  assert dropped == [(3, ["2"])]
  assert not (tmp_path / "checkpoints_inside").exists()


def test_a_newer_checkpoint_is_taken_and_a_second_save_replaces_the_first(
    tmp_path, monkeypatch):
  with toy.opened(tmp_path) as session:
    save_inside(session, 0, "first")
  shutil.copytree(tmp_path / "checkpoints_inside", tmp_path / "copy")
  session = toy.opened(tmp_path)
  session.restore(toy.state(), {})
  with session:
    save_inside(session, 0, "second")
  session = toy.opened(tmp_path)
  assert session.restore(toy.state(), {})[1]["at"] == "second"
  assert len(os.listdir(tmp_path / "checkpoints_inside" / "local")) == 1
  with session:
    toy.finish(session, 1)
    toy.finish(session, 2)
  # A run that was killed before it removed the save:
  shutil.copytree(tmp_path / "copy", tmp_path / "checkpoints_inside",
                  dirs_exist_ok=True)
  session = toy.opened(tmp_path)
  _, host = session.restore(toy.state(), {})
  assert (session.step, host["at"], session.inside) == (2, 2, None)


def test_leaving_says_what_is_lost(tmp_path, monkeypatch, capsys):
  with toy.opened(tmp_path) as session:
    signalled(monkeypatch, session)
    session.leave("the evaluation of the base")
  assert session.stopped
  assert ("SIGTERM: stopped, the evaluation of the base is lost; the same"
          " command repeats it") in capsys.readouterr().err
  assert not toy.opened(tmp_path).resumes


def test_a_save_that_fails_says_what_is_lost(tmp_path, monkeypatch):
  with toy.opened(tmp_path) as session:
    for step in (1, 2, 3):
      toy.finish(session, step)
    session.manager.wait()

    def full(*args):
      raise OSError(28, "No space left on device")

    monkeypatch.setattr(session_lib.Midway, "save", full)
    with pytest.raises(OSError, match="No space left on device; all after step"
                                      " 2 is lost"):
      save_inside(session, 3, "an update")


def test_a_folder_that_is_moved_away_ends_the_run(tmp_path):
  """Otherwise it would go on in a folder without a config."""
  run = tmp_path / "run"
  with pytest.raises(ValueError, match=f"{run} is gone: .* put it back"):
    with toy.opened(run) as session:
      for step in (1, 2):
        toy.finish(session, step)
      session.manager.wait()
      run.rename(tmp_path / "moved")
      toy.finish(session, 3)
  assert not run.exists()
  (tmp_path / "moved").rename(run)
  assert toy.train(run).step == 4 and rows(run) == [1, 2, 3, 4]


def damage(folder):
  """Takes a file from a checkpoint, and gives what is left."""
  next((folder / "arrays").glob("d/*")).unlink()
  return files(folder)


def files(folder):
  return {path.relative_to(folder): path.read_bytes()
          for path in folder.rglob("*") if path.is_file()}


def test_a_damaged_checkpoint_is_moved_aside_only_if_asked_for(
    tmp_path, monkeypatch, caplog):
  # Orbax leaves reads unawaited when one fails; they are no news here.
  monkeypatch.setattr(sys, "unraisablehook", lambda unraisable: None)
  toy.train(tmp_path)
  left = damage(tmp_path / "checkpoints/4")
  session = toy.opened(tmp_path)
  with pytest.raises(faults.Unusable, match="--skip_damaged moves it aside and"
                                            " resumes after step 2"):
    session.restore(toy.state(), {})
  assert checkpoints(tmp_path) == ["2", "4"]
  for expected in ("4", "4-2"):
    with caplog.at_level(logging.WARNING):
      assert toy.train(tmp_path, skip_damaged=True).step == 4
    assert rows(tmp_path) == [1, 2, 3, 4]
    aside = tmp_path / "checkpoints_damaged" / expected
    assert files(aside) == left
    assert f"moved it to {aside}" in caplog.text
    assert checkpoints(tmp_path) == ["2", "4"]
    left = damage(tmp_path / "checkpoints/4")


def test_all_of_them_may_be_damaged(tmp_path, monkeypatch):
  monkeypatch.setattr(sys, "unraisablehook", lambda unraisable: None)
  with toy.opened(tmp_path, best_metric="loss") as session:
    for step in range(1, 5):
      toy.finish(session, step)
  (tmp_path / "checkpoints/4/metrics/metrics").write_bytes(b"")
  damage(tmp_path / "checkpoints/2")
  with pytest.raises(faults.Unusable, match="checkpoints/4 is damaged"):
    toy.opened(tmp_path, best_metric="loss")
  session = toy.opened(tmp_path, best_metric="loss", skip_damaged=True)
  _, host = session.restore(toy.state(), {"at": "the beginning"})
  assert host == {"at": "the beginning"} and session.step == 0
  assert not session.resumes
  assert checkpoints(tmp_path, "checkpoints_damaged") == ["2", "4"]


def test_a_damaged_save_inside_a_step_is_moved_aside(tmp_path, monkeypatch):
  monkeypatch.setattr(sys, "unraisablehook", lambda unraisable: None)
  with toy.opened(tmp_path) as session:
    for step in (1, 2, 3):
      toy.finish(session, step)
    save_inside(session, 3, "an update")
  (local,) = (tmp_path / "checkpoints_inside/local").iterdir()
  local.write_bytes(local.read_bytes()[:-30])
  with pytest.raises(faults.Unusable, match="inside is damaged.*resumes from"
                                            " the last checkpoint between"):
    toy.opened(tmp_path).restore(toy.state(), {})
  assert toy.train(tmp_path, skip_damaged=True).step == 4
  assert rows(tmp_path) == [1, 2, 3, 4]
  assert checkpoints(tmp_path, "checkpoints_damaged") == ["checkpoints_inside"]


def writing(workdir):
  """A process that has nothing left to do but to write its last checkpoint."""
  process = subprocess.Popen(
      [sys.executable, "-m", "tests.stages.loop.toy", workdir], cwd=ROOT,
      text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
      stderr=subprocess.PIPE)
  assert process.stdout.readline() == "WRITING\n", process.communicate()[1]
  return process


def until(process, text):
  """Reads what it says; fails where it ends before it says `text`."""
  for line in process.stderr:
    if text in line:
      return line
  raise AssertionError(f"ended with {process.wait()} before it said {text!r}")


def test_a_signal_during_the_last_save_waits_for_it(tmp_path):
  process = writing(tmp_path)
  process.send_signal(signal.SIGTERM)
  assert "all after step 2 is lost" in until(
      process, "a second Ctrl-C does it")
  out, err = process.communicate("write it\n", timeout=60)
  assert process.returncode == 0, err
  assert out == "ENDED\n" and "SIGTERM: all 4 steps are saved" in err
  arrays, _ = Manager(tmp_path / "checkpoints", read_only=True).restore(
      4, like=toy.state())
  np.testing.assert_array_equal(arrays["w"], 4.0)


def test_a_second_ctrl_c_does_not_wait_and_says_what_is_lost(tmp_path):
  process = writing(tmp_path)
  process.send_signal(signal.SIGINT)
  until(process, "SIGINT: will save and stop")
  process.send_signal(signal.SIGINT)
  try:  # Nobody lets it write: it would wait for ever.
    assert process.wait(timeout=60) == -signal.SIGINT
  finally:
    process.kill()
    _, err = process.communicate()
  assert "second Ctrl-C: stopped at once; all after step 2 is lost" in err
  assert toy.opened(tmp_path).step == 2
