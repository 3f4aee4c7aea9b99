"""One process a folder, under record locks and without."""

import errno
import fcntl
import json
import os
import signal
import subprocess
import sys

import pytest

from r1jax.core import io, lock
from tests.processes import ROOT

HOLD = """
import fcntl, sys
from r1jax.core import io, lock
if sys.argv[2] == "none":
  def none(*arguments):
    raise OSError(lock.errno.ENOLCK, "No locks available")
  fcntl.lockf, lock._BEAT = none, 0.05
held = lock.Lock(sys.argv[1])
print("HELD", flush=True)
sys.stdin.readline()
held.release()
print("FREE", flush=True)
sys.stdin.readline()
"""


@pytest.fixture
def holder(tmp_path):
  """Starts a process that has the folder until it gets a line."""
  started = []

  def start(locks="record"):
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path), locks], cwd=ROOT, text=True,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    started.append(process)
    assert process.stdout.readline() == "HELD\n"
    return process

  yield start
  for process in started:
    process.kill()
    process.communicate()


def say(process):
  process.stdin.write("\n")
  process.stdin.flush()
  assert process.stdout.readline() == "FREE\n"


@pytest.fixture
def unlocked(monkeypatch):
  """A file system without locks; what is silent for a second is dead."""
  def none(*arguments):
    raise OSError(errno.ENOLCK, "No locks available")

  monkeypatch.setattr(fcntl, "lockf", none)
  monkeypatch.setattr(lock, "_BEAT", 0.05)
  monkeypatch.setattr(lock, "_STALE", 1.0)


def test_another_process_is_named_and_gives_back(tmp_path, holder):
  process = holder()
  with pytest.raises(OSError) as caught:
    lock.Lock(tmp_path)
  assert caught.value.errno == errno.EBUSY
  for part in (f"{tmp_path} is in use by process {process.pid} on ",
               "since 20", "Nothing was changed", "choose another folder"):
    assert part in str(caught.value)
  say(process)
  lock.Lock(tmp_path).release()


def test_a_killed_process_has_nothing(tmp_path, holder):
  process = holder()
  process.send_signal(signal.SIGKILL)
  process.wait()
  lock.Lock(tmp_path).release()


def test_one_process_may_take_a_folder_twice(tmp_path, holder):
  one, two = lock.Lock(tmp_path), lock.Lock(tmp_path)
  two.release()
  two.release()
  code = subprocess.run(
      [sys.executable, "-c", HOLD, str(tmp_path), "record"], cwd=ROOT,
      stdin=subprocess.DEVNULL, capture_output=True, text=True)
  assert f"in use by process {os.getpid()}" in code.stderr
  one.release()
  holder()


def test_a_folder_that_cannot_be_written(tmp_path):
  (tmp_path / "file").write_text("")
  with pytest.raises(OSError, match="could not write .*/file/.lock: .*; choose"
                                    " another folder"):
    lock.Lock(tmp_path / "file")


def test_a_folder_that_stays_empty_is_not_left_behind(tmp_path):
  lock.Lock(tmp_path / "a").release()
  assert not (tmp_path / "a").exists()
  with lock.Lock(tmp_path / "a"):
    (tmp_path / "a/file").touch()
  lock.Lock(tmp_path / "a").release()
  assert sorted(p.name for p in (tmp_path / "a").iterdir()) == [
      lock.FILE, "file"]
  (tmp_path / "b").mkdir()
  lock.Lock(tmp_path / "b").release()
  assert (tmp_path / "b").exists()


def test_without_locks_the_living_is_named(tmp_path, holder, unlocked):
  process = holder("none")
  with pytest.raises(OSError, match=f"in use by process {process.pid} on"):
    lock.Lock(tmp_path)
  say(process)
  assert not (tmp_path / lock.FILE).exists()
  lock.Lock(tmp_path).release()


@pytest.mark.parametrize("host", ["here", "elsewhere"])
def test_without_locks_the_dead_are_told(tmp_path, host, unlocked, caplog):
  """On this machine at once, of another by its silence."""
  dead = subprocess.Popen(["true"])
  dead.wait()
  (tmp_path / lock.FILE).write_text(json.dumps(
      {"process": dead.pid, "host": lock.socket.gethostname() * (
          host == "here") or host, "token": "x", "count": 7}))
  lock.Lock(tmp_path).release()
  assert ("watching for" in caplog.text) == (host == "elsewhere")
  assert not (tmp_path / lock.FILE).exists()


def test_without_locks_a_lost_folder_is_noticed(tmp_path, unlocked):
  held = lock.Lock(tmp_path)
  held.check()
  other = json.dumps({"process": 5, "host": "elsewhere", "token": "x"})
  for _ in range(99):  # between its look and its count it may be overwritten
    io.write_text(tmp_path / lock.FILE, other)
    held._beats._thread.join(0.2)
    if not held._beats._thread.is_alive():
      break
  with pytest.raises(OSError, match="in use by process 5 on elsewhere"):
    held.check()
  held.release()  # and what is the other's stays
  assert (tmp_path / lock.FILE).read_text() == other
