"""Pipelines of stages that need no training."""

import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import time

import pytest
from etils import epath

from r1jax.checkpoint import fingerprints
from r1jax.plans import plan as plan_lib
from r1jax.plans.pipeline import DONE, Pipeline
from tests.plans import planned

ROOT = pathlib.Path(__file__).parents[2]
PLAN = planned.TWO + """
[stages.three]
run = "tests.plans.planned"
flags = {text = "orbax:{two},{one}/out.txt"}

[stages.aside]
run = "tests.plans.planned"
"""


@pytest.fixture(autouse=True)
def at_the_root(monkeypatch):
  monkeypatch.chdir(ROOT)  # python -m tests.plans.planned


def pipeline(tmp_path, text=PLAN, seed=0, workdir="run"):
  path = tmp_path / "plan.toml"
  path.write_text(text)
  plan = plan_lib.read(path)
  return Pipeline(plan=plan, workdir=epath.Path(tmp_path / workdir),
                  values=plan.values(seed=seed))


def run(tmp_path, *args, first="", last="", **kwargs):
  one = pipeline(tmp_path, *args, **kwargs)
  return one.run(one.chosen(first, last))


def starts(tmp_path, workdir="run"):
  """How often each stage was started."""
  return {path.parent.name: len(path.read_text().splitlines())
          for path in (tmp_path / workdir).glob("*/out.txt")}


def test_what_is_done_is_not_done_twice(tmp_path, capfd):
  assert run(tmp_path, last="two")
  assert starts(tmp_path) == {"one": 1, "two": 1}
  said = capfd.readouterr().out
  # Every command can be given by hand.
  command = re.findall(r"^\$ (.+)$", said, re.MULTILINE)[1]
  assert command == (
      f"python -m tests.plans.planned --workdir={tmp_path}/run/two"
      f" --text={tmp_path}/run/one/out.txt")
  assert run(tmp_path)
  assert starts(tmp_path) == {"one": 1, "two": 1, "three": 1, "aside": 1}
  assert "[1/4] one: done before" in capfd.readouterr().out
  record = json.loads((tmp_path / "run/two" / DONE).read_text())
  assert record["starts"] == 1 and 0 < record["seconds"] < 60
  assert list(record["reads"]) == ["{one}/out.txt"]


def test_from_a_stage_whose_forerunners_are_done(tmp_path):
  with pytest.raises(ValueError, match="--from=two: one before it is not done"):
    run(tmp_path, first="two")
  assert run(tmp_path, last="one")
  assert run(tmp_path, first="two", last="two")
  assert starts(tmp_path) == {"one": 1, "two": 1}
  with pytest.raises(ValueError, match="--until=tow is not a stage.*mean two.*"
                     "one, two, three, aside"):
    run(tmp_path, last="tow")
  with pytest.raises(ValueError, match="--from=x is not a stage"):
    run(tmp_path, first="x")
  with pytest.raises(ValueError, match="--from=two comes after --until=one"):
    run(tmp_path, first="two", last="one")
  # Those before are taken as they are, though the seed is another.
  assert run(tmp_path, first="three", seed=4)
  assert starts(tmp_path)["three"] == 1


def test_a_changed_setting_names_its_stages(tmp_path):
  assert run(tmp_path)
  with pytest.raises(ValueError) as error:
    run(tmp_path, seed=1)
  text = str(error.value)
  assert "  one: flags.text: '0' -> '1'" in text
  assert "This concerns one, two, three. Nothing was changed." in text
  assert text.endswith("rm -r " + " ".join(
      str(tmp_path / "run" / name) for name in ("one", "two", "three")))
  assert starts(tmp_path) == {"one": 1, "two": 1, "three": 1, "aside": 1}
  subprocess.run(text.splitlines()[-1], shell=True, check=True)
  assert run(tmp_path, seed=1)
  assert starts(tmp_path) == {"one": 1, "two": 1, "three": 1, "aside": 1}
  assert (tmp_path / "run/one/out.txt").read_text() == "1\n"


def test_a_changed_or_removed_input_names_its_stages(tmp_path):
  assert run(tmp_path)
  read = tmp_path / "run/one/out.txt"
  read.write_text("other\n")
  with pytest.raises(ValueError) as error:
    run(tmp_path)
  text = str(error.value)
  assert "  two: {one}/out.txt, which it read, has changed since" in text
  assert "  three: {one}/out.txt, which it read, has changed since" in text
  assert "This concerns two, three." in text
  read.unlink()
  with pytest.raises(ValueError, match="two: {one}/out.txt.* is gone"):
    run(tmp_path)
  read.write_text("0\n")
  assert run(tmp_path)
  assert starts(tmp_path)["two"] == 1


def test_a_file_of_the_users_is_an_input(tmp_path):
  data = tmp_path / "mine.jsonl"
  data.write_text("a\n")
  text = PLAN.replace('"{seed}"', f'"{data}"')
  assert run(tmp_path, text)
  data.write_text("b\n")
  with pytest.raises(ValueError, match="one: .*mine.jsonl, which it read, has"):
    run(tmp_path, text)


def test_a_workdir_may_move(tmp_path):
  assert run(tmp_path)
  (tmp_path / "run").rename(tmp_path / "moved")
  assert run(tmp_path, workdir="moved")
  assert starts(tmp_path, "moved")["one"] == 1


def test_a_failed_stage_ends_it_and_nothing_is_lost(tmp_path, capfd):
  text = PLAN.replace('"{one}/out.txt"', '"{one}/out.txt", status = 3', 1)
  with pytest.raises(ChildProcessError) as error:
    run(tmp_path, text)
  assert "stage two ended with status 3" in str(error.value)
  assert "-m tests.plans.planned" in str(error.value)
  assert "what is amiss" in capfd.readouterr().err
  assert starts(tmp_path) == {"one": 1, "two": 1}
  with pytest.raises(ValueError, match="two: flags.status: '3' -> None"):
    run(tmp_path)
  (tmp_path / "run/two/out.txt").unlink()
  (tmp_path / "run/two").rmdir()
  assert run(tmp_path)
  assert starts(tmp_path) == {"one": 1, "two": 1, "three": 1, "aside": 1}


@pytest.mark.parametrize("ends", ["marks = false", "status = 75"])
def test_without_the_mark_it_is_not_done(tmp_path, capfd, ends):
  """As an experiment ends that a signal to it alone has stopped: with 75.

  What starts its processes may make 0 of that.
  """
  text = PLAN.replace('"{seed}"', f'"{{seed}}", {ends}')
  assert not run(tmp_path, text)
  assert "stopped in stage one; the same command" in capfd.readouterr().out
  assert starts(tmp_path) == {"one": 1}
  assert not (tmp_path / "run/one" / DONE).exists()


WAITS = PLAN.replace('"{one}/out.txt"', '"{one}/out.txt", waits = true', 1)
DRIVER = """
import pathlib, sys
from tests.plans.test_pipeline import WAITS, run
sys.exit(0 if run(pathlib.Path(sys.argv[1]), WAITS) else 75)
"""


def started(tmp_path):
  """A pipeline in a process of its own that waits in stage two."""
  process = subprocess.Popen(
      [sys.executable, "-c", DRIVER, str(tmp_path)], cwd=ROOT,
      stdout=subprocess.PIPE, text=True)
  until(lambda: (tmp_path / "run/two/out.txt").exists())
  return process


def until(there):
  deadline = time.monotonic() + 60
  while not there():
    assert time.monotonic() < deadline
    time.sleep(0.01)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_goes_on_to_the_stage_and_the_next_start_goes_on(
    tmp_path, number):
  process = started(tmp_path)
  process.send_signal(number)
  said, _ = process.communicate(timeout=60)
  assert process.returncode == 75
  assert f"{number.name}: stopped in stage two" in said
  assert (tmp_path / "run/two/signal.txt").read_text() == number.name
  assert starts(tmp_path) == {"one": 1, "two": 1}
  assert run(tmp_path, WAITS)
  assert starts(tmp_path) == {"one": 1, "two": 2, "three": 1, "aside": 1}
  record = json.loads((tmp_path / "run/two" / DONE).read_text())
  assert record["starts"] == 2


def test_a_workdir_that_is_a_file(tmp_path):
  (tmp_path / "run").write_text("mine")
  with pytest.raises(OSError, match=f"could not write {tmp_path}/run/.lock: .*"
                     "; a file has the name of one of its folders"):
    run(tmp_path, WAITS)
  assert (tmp_path / "run").read_text() == "mine"


def test_a_killed_pipeline_waits_for_the_stage_that_it_left(tmp_path):
  process = started(tmp_path)
  process.kill()
  process.wait(timeout=60)
  child = stage_of(tmp_path)
  other = subprocess.Popen(
      [sys.executable, "-c", DRIVER, str(tmp_path)], cwd=ROOT,
      stdout=subprocess.PIPE, text=True)
  said = other.stdout.readline()
  assert f"is in use by process {process.pid} on" in said
  assert "if that was killed, by its stage" in said
  os.kill(child, signal.SIGTERM)
  process.stdout.close()
  other.communicate(timeout=60)
  assert other.returncode == 0
  assert starts(tmp_path) == {"one": 1, "two": 2, "three": 1, "aside": 1}


def test_what_a_killed_pipelines_stage_finished_is_done(tmp_path, capfd):
  assert run(tmp_path, last="two")
  (tmp_path / "run/two" / DONE).unlink()
  (tmp_path / "run/begun/two.complete").touch()
  (tmp_path / "run/two/cost.json").write_text('{"seconds": 90.0}')
  assert run(tmp_path)
  assert "two: done meanwhile" in capfd.readouterr().out
  assert starts(tmp_path) == {"one": 1, "two": 1, "three": 1, "aside": 1}
  record = json.loads((tmp_path / "run/two" / DONE).read_text())
  assert record["seconds"] == 90.0
  # Made anew, it is not taken for done by what is left of that.
  (tmp_path / "run/begun/three.complete").touch()
  for name in ("out.txt", DONE):
    (tmp_path / "run/three" / name).unlink()
  (tmp_path / "run/three").rmdir()
  assert run(tmp_path)
  assert starts(tmp_path)["three"] == 1


def stage_of(tmp_path):
  """The process of stage two."""
  for path in pathlib.Path("/proc").glob("[0-9]*/cmdline"):
    try:
      words = path.read_bytes().split(b"\0")
    except OSError:
      continue
    if f"--workdir={tmp_path}/run/two".encode() in words:
      return int(path.parent.name)
  raise AssertionError("stage two does not run")


def test_a_killed_stage_is_an_error_that_a_start_mends(tmp_path):
  process = started(tmp_path)
  os.kill(stage_of(tmp_path), signal.SIGKILL)
  process.communicate(timeout=60)
  assert process.returncode == 1
  assert run(tmp_path, WAITS)
  assert starts(tmp_path)["two"] == 2


def test_fingerprints_see_what_others_read_of_a_run(tmp_path):
  run_ = tmp_path / "zero"
  (run_ / "checkpoints/3").mkdir(parents=True)
  (run_ / "checkpoints/3/data").write_bytes(b"x" * 9)
  (run_ / "config.json").write_text("{}")
  name = f"orbax:{run_}"
  first, whole = fingerprints.of(name), fingerprints.of(str(run_))
  (run_ / "metrics.jsonl").write_text("{}")  # nobody reads it
  assert fingerprints.of(name) == first != fingerprints.of(str(run_)) != whole
  (run_ / "checkpoints/3/data").write_bytes(b"y" * 9)
  second = fingerprints.of(name)
  (run_ / "checkpoints/3").rename(run_ / "checkpoints/4")
  assert len({first, second, fingerprints.of(name)}) == 3
  assert fingerprints.of(f"orbax:{tmp_path}") is None


@pytest.mark.parametrize("value,names", [
    ("orbax:{zero}", ["orbax:{zero}"]),
    ("{a}/sft.jsonl,{b}/x", ["{a}/sft.jsonl", "{b}/x"]),
    ("file:{plan}/r1.txt", ["file:{plan}/r1.txt"]),
    ("base", []), ("arith:2,units:1", []), ("0.5", []), ("", []),
    ("https://host/v1", []), ("r1jax.data.streams.sft:load", []),
    ("setup.py:rewrite", ["setup.py"]), ("hf:r1jax/core", ["hf:r1jax/core"]),
    ("r1jax/nothing", []),
])
def test_what_a_flag_names(value, names):
  assert list(fingerprints.named(value, lambda text: text)) == names
