"""The escape attempts: all contained, and each would be seen if it were not."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys

import pytest

from experiments import sandbox_check, sandbox_probes
from r1jax.rewards.programs import sandbox
from tests.experiments.calls import calls
from tests.rewards import sandboxed

PROBES = list(sandbox_probes.PROBES)


@pytest.fixture(scope="module")
def host():
  sandboxed.require()
  with sandbox_check.target() as host:
    yield host


def test_there_are_enough():
  assert len(PROBES) >= 22


@pytest.mark.parametrize("name", PROBES)
def test_contained(host, name):
  result = sandbox_check.attempt(name, host)
  assert not result.escaped, result


def weakened(*removed, added=()):
  """The sandbox's command without some options and with others."""
  command = sandbox.command()
  at = command.index("--")
  options = command[:at]
  for words in removed:
    for i in range(len(options) - len(words) + 1):
      if tuple(options[i:i + len(words)]) == words:
        del options[i:i + len(words)]
        break
    else:
      raise AssertionError(f"the sandbox is not started with {words}")
  return [*options, *added, *command[at:]]


READ_ONLY = ("--remount-ro", "/")
CHILD_USERS = ("--disable-userns",)
# Options that cut off the host, and how each probe gets out without them.
WEAK = [
    ("connect to loopback", (), ("--share-net",)),
    ("connect to abstract socket", (), ("--share-net",)),
    ("files elsewhere", [READ_ONLY], ()),
    ("files elsewhere", [READ_ONLY], (
        "--tmpfs", "/dev/shm", "--remount-ro", "/")),
    ("read host files", [READ_ONLY], ("--ro-bind", "/etc", "/etc")),
    ("many files", [("--size", str(sandbox.DISK))], ()),
    ("new user namespace", [CHILD_USERS], ()),
    ("capabilities", [CHILD_USERS, ("--unshare-user",)], (
        "--cap-add", "ALL")),
    ("mount", [CHILD_USERS], ("--cap-add", "ALL")),
]


@pytest.mark.parametrize("name,removed,added", WEAK)
def test_teeth_options(host, name, removed, added):
  result = sandbox_check.attempt(
      name, host, command=weakened(*removed, added=added), filtered=False)
  assert result.escaped, result


def test_teeth_of_the_filter(host):
  """What namespaces do not refuse, the filter does."""
  result = sandbox_check.attempt("refused system calls", host, filtered=False)
  assert result.escaped, result


@pytest.mark.parametrize("rounds", [
    3, pytest.param(100, marks=pytest.mark.slow)])
def test_an_honest_program_beside_hostile_ones(host, rounds):
  del host
  assert sandbox_check.beside(2 if rounds < 10 else 8, rounds) == rounds


def test_teeth_of_writing(host):
  command = weakened(("--tmpfs", "/tmp"), READ_ONLY, ("--size", str(
      sandbox.DISK)), added=("--bind", "/tmp", "/tmp"))
  assert sandbox_check.attempt("write host file", host, command=command).escaped


def test_teeth_of_the_environment(host):
  # The lesson of --clearenv: bubblewrap's process still has it.
  result = sandbox_check.attempt(
      "read environment of launcher", host, environment=os.environ)
  assert result.escaped


GENEROUS = dataclasses.replace(
    sandbox_check.LIMITS, seconds=6.0, megabytes=4096, output=1 << 30,
    file_bytes=1 << 30, processes=4000, total=20.0)


@pytest.mark.parametrize("name", [
    "memory", "memory of many processes", "memory that is shared",
    "memory in files without a name", "fork bomb", "output flood"])
def test_teeth_of_limits(host, name):
  assert sandbox_check.attempt(name, host, limits=GENEROUS).escaped


@pytest.mark.parametrize("name", ["infinite loop", "sleep"])
def test_teeth_of_time(host, name):
  patient = dataclasses.replace(GENEROUS, seconds=60.0, total=1.0)
  assert sandbox_check.attempt(name, host, limits=patient).escaped


def test_teeth_of_what_is_left_behind(host):
  mark = host["mark"]
  assert not sandbox_check.left_behind(mark)
  with subprocess.Popen(
      [sys.executable, "-c", "input()", mark], stdin=subprocess.PIPE) as left:
    assert sandbox_check.left_behind(mark)
    left.communicate(b"\n")
  assert not sandbox_check.left_behind(mark)


def test_teeth_of_large_files(host):
  command = weakened(("--size", str(sandbox.DISK)))
  assert sandbox_check.attempt(
      "large file", host, command=command, limits=GENEROUS).escaped


def test_teeth_of_expected_values(host):
  leak = {"expected": "expected-" + "value-0123456789abcdef"}
  assert sandbox_check.attempt(
      "read expected values", host, extra=leak).escaped


def plain(name, host, **options):
  """What a probe prints as an ordinary process."""
  return subprocess.run(
      [sys.executable, "-c", sandbox_probes.source(name)],
      input=json.dumps(host) + "\n", text=True, capture_output=True,
      timeout=60, **options).stdout


@pytest.mark.parametrize("name", [
    "connect to loopback", "connect to abstract socket", "read host files",
    "write host file", "see host processes", "read environment of launcher",
    "signal the launcher", "capabilities",
    pytest.param("become root", marks=pytest.mark.skipif(
        os.geteuid() != 0, reason="only root can"))])
def test_teeth_outside(host, name):
  assert "ESCAPED" in plain(name, host)


def test_command_line(tmp_path):
  sandboxed.require()
  module = "experiments.sandbox_check"
  good, unknown = calls(
      module, ["--only=mount,write host file"], ["--only=magic"])
  assert good.status == 0, good.err
  assert "2 of 2 contained" in good.out
  assert [line.split("  ")[0] for line in good.out.splitlines()[1:3]] == [
      "mount", "write host file"]
  assert unknown.status == 1 and "'magic' is not a probe" in unknown.err
  (missing,) = calls(module, [], PATH=str(tmp_path))
  assert missing.status == 1 and "apt-get install bubblewrap" in missing.err
  assert "contained" not in missing.out


def test_an_escape_is_reported(monkeypatch, capsys):
  sandboxed.require()
  monkeypatch.setattr(
      sandbox_check, "ONLY", type("Flag", (), {"value": ["mount"]}))
  monkeypatch.setattr(sandbox_check, "ROUNDS", type("Flag", (), {"value": 0}))
  monkeypatch.setattr(
      sandbox_check, "attempt",
      lambda *_: sandbox_check.Result(True, "ok", 0.1))
  with pytest.raises(SystemExit) as end:
    sandbox_check.main()
  assert end.value.code == 1
  out, err = capsys.readouterr()
  assert "mount  ESCAPED" in out and "0 of 1 contained" in out
  assert "do not run code rewards" in err
