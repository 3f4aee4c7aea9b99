"""Whoever is missing is named, and nobody waits for it for ever."""

import math
import re
import threading
import time
from typing import NamedTuple

import pytest

from r1jax.sharding import watchdog
from r1jax.sharding.watchdog import AGAIN, Heard
from tests import processes as cluster

HEARTBEAT, STALL, MARGIN = 8, 12, 15  # seconds; MARGIN is what the docs state
HERE = r"\([^)]+\)"  # some host
# (victim, harm): pattern of what each process says, None where it cannot.
CASES = {
    ("1", "SIGKILL"): (rf"process 1 {HERE} stopped answering 8 s ago", None),
    ("1", "SIGSTOP"): (rf"process 1 {HERE} stopped answering 8 s ago", None),
    ("0", "SIGSTOP"): (None, rf"process 0 {HERE} stopped answering 8 s ago"),
    ("1", "hang"): (rf"process 1 {HERE} got no further for 12 s, after step 19",
                    rf"process 1 {HERE} got no further for 12 s"),
    ("1", "bad"): (rf"process 1 {HERE} failed after step 19: ValueError: the"
                   " disk is full", "error: the disk is full"),
    ("0", "bug"): ("KeyError: 'lost'", rf"process 0 {HERE} failed after step"
                   " 19: KeyError: 'lost'"),
    ("all", "bad"): ("error: the disk is full", "error: the disk is full"),
    ("1", "none"): ("", ""),
}


class End(NamedTuple):
  """How a process ended; `after` is in seconds from the harm."""

  status: int
  after: float
  out: str
  err: str


def ends(folder, victim, harm):
  """The End of both processes; a stopped one is killed last."""
  file = folder / f"{victim}_{harm}"
  processes = cluster.start(
      2, 1, "-m", "tests.sharding.watched", file, victim, harm,
      f"--distributed.heartbeat_timeout={HEARTBEAT}",
      f"--distributed.stall_timeout={STALL}")
  outs, times = [("", "")] * 2, [math.inf] * 2

  def wait(number):
    outs[number] = processes[number].communicate()
    times[number] = time.time()

  threads = [threading.Thread(target=wait, args=(i,)) for i in range(2)]
  for thread in threads:
    thread.start()
  deadline = time.time() + 120
  while time.time() < deadline and threads[victim == "0"].is_alive():
    time.sleep(0.1)
  for process in processes:
    process.kill() if harm == "SIGSTOP" else process.wait(timeout=60)
  for thread in threads:
    thread.join()
  began = file.stat().st_mtime if file.exists() else time.time()
  return [End(p.returncode, at - began, *out)
          for p, at, out in zip(processes, times, outs, strict=True)]


@pytest.fixture(scope="module")
def found(tmp_path_factory):
  """How every case ends; they wait most of the time, so all at once."""
  folder, ended = tmp_path_factory.mktemp("watched"), {}

  def run(case):
    ended[case] = ends(folder, *case)

  threads = [threading.Thread(target=run, args=(case,)) for case in CASES]
  for thread in threads:
    thread.start()
  for thread in threads:
    thread.join()
  return ended


@pytest.mark.parametrize("case", [c for c in CASES if c[1] != "none"],
                         ids=" ".join)
def test_who_fails_is_named_and_the_others_end_in_time(found, case):
  victim, harm = case
  limit = (STALL if harm == "hang" else HEARTBEAT) + MARGIN
  for number, (end, says) in enumerate(
      zip(found[case], CASES[case], strict=True)):
    if says is None:
      continue
    assert re.search(says, end.err), end.err
    assert end.after < limit
    own = victim in ("all", str(number)) and harm != "hang"
    assert end.status == (1 if harm in ("bad", "bug") else AGAIN)
    if not own:
      again = "the same command resumes" in end.err
      assert again == (end.status == AGAIN)
    # An error that is another's is not put as one's own.
    assert own or ("Traceback" not in end.err and "TRACEBACK" not in end.err)


def test_processes_that_finish_are_left_alone(found):
  first, second = found["1", "none"]
  assert (first.status, second.status) == (0, 0)
  assert "error" not in first.err + second.err
  assert "done" in first.out and "done" not in second.out  # it is said once


def heard(**changes):
  return Heard("host", 7, 3, "step 2", 90.0, 90.0)._replace(**changes)


def test_silence_is_worse_than_standing_still():
  both = {0: heard(moved=10.0), 1: heard(at=79.0), 2: heard(at=70.0)}
  assert watchdog.verdict(both, 100.0, 20, 50) == (
      "process 1 (host) stopped answering 20 s ago, after step 2 and process 2"
      " (host) stopped answering 20 s ago, after step 2")
  both = {0: heard(), 1: heard(at=80.0)}
  assert watchdog.verdict(both, 100.0, 20, 50) is None


def test_those_that_wait_are_not_to_blame():
  """Process 1 has not come to what the others wait in."""
  late = {0: heard(moved=20.0), 1: heard(marks=2, moved=10.0, last="step 1"),
          2: heard(moved=20.0)}
  assert watchdog.verdict(late, 100.0, 20, 50) == (
      "process 1 (host) got no further for 50 s, after step 1")
  # It still gets on, slowly.
  late[1] = heard(marks=2, moved=60.0)
  assert watchdog.verdict(late, 100.0, 20, 50) is None
  # In a deadlock all are.
  assert "process 0 (host) got no further for 50 s, after step 2 and" in (
      watchdog.verdict({p: heard(moved=40.0) for p in range(2)}, 100.0, 20, 50))


@pytest.mark.parametrize("text,of_another", [
    ("UNKNOWN: Gloo AllGather failed: Connection reset by peer", True),
    ("loss is not finite", False)])
def test_errors_of_a_lost_connection(text, of_another):
  assert watchdog._of_connection(ValueError(text)) == of_another
  try:
    try:
      raise ValueError(text)
    except ValueError as error:
      raise OSError("could not write checkpoint") from error
  except OSError as error:
    assert watchdog._of_connection(error) == of_another
