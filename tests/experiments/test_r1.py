"""experiments.r1 as users type it, with stages that need no training."""

import dataclasses
import json
import os
import pathlib
import subprocess
import sys

import pytest
from etils import epath

from r1jax.plans import pipeline
from r1jax.plans import plan as plan_lib
from r1jax.plans.pipeline import Pipeline
from tests.experiments import flagged
from tests.experiments.calls import Call, calls
from tests.experiments.test_commands import fails, succeeds
from tests.plans import planned

ROOT = pathlib.Path(__file__).parents[2]
PLANS = ROOT / "experiments/plans"
TOY = planned.TWO + """
[report]
models = {base = "two"}
"""


def test_the_mark_tells_the_end_from_a_save(tmp_path):
  assert planned.COMPLETE == pipeline.COMPLETE
  marks = [tmp_path / name for name in ("end", "loop", "later")]
  ended = calls("tests.experiments.marked", *(
      [f"--mark={mark}", f"--signal={mark.name}"] for mark in marks))
  # In the loop it saves, and the same command goes on.
  assert [call.status for call in ended] == [0, 75, 0]
  # The last signal came when nothing was left to do.
  assert [mark.exists() for mark in marks] == [True, False, True]


def test_a_plan_by_one_command(tmp_path):
  plan, bad = tmp_path / "toy.toml", tmp_path / "bad.toml"
  plan.write_text(TOY)
  bad.write_text("[stages.one\n")
  odd = tmp_path / "odd.toml"
  odd.write_text(TOY.replace("models =", "model ="))
  shared = [f"--plan={plan}", f"--workdir={tmp_path}/run"]
  dry, first, again, other, *wrong = calls(
      "experiments.r1", [*shared, "--dry_run"],
      [*shared, "--until=one"], shared,
      [*shared, "--seed=1"], [*shared, "--until=three"],
      [*shared, "--init=hf:DIR"], [f"--plan={bad}"], [f"--plan={plan}x"],
      [f"--plan={odd}", f"--workdir={tmp_path}/run"],
      [*shared, "--from=two", "--until=one"])
  assert [line.split()[0] for line in succeeds(dry).splitlines()[2:4]] == [
      "one", "two"]
  assert "remaining stages: two" in succeeds(first)
  said = succeeds(again)
  assert "[1/2] one: done before" in said and "remaining stages" not in said
  assert f"report: {tmp_path}/run/report.html" in said
  assert "no evaluation" in (tmp_path / "run/report.html").read_text()
  costs = json.loads((tmp_path / "run/cost.json").read_text())
  assert list(costs["stages"]) == ["one", "two"] == list(costs["parts"])
  assert costs["stages"]["one"]["seconds"] > 0
  assert (tmp_path / "run/two/out.txt").read_text() == (
      f"{tmp_path}/run/one/out.txt\n")
  fails(other, "one: flags.text: '0' -> '1'", "This concerns one, two")
  for call, message in zip(wrong, (
      "--until=three is not a stage", "reads {init}", "is not TOML",
      "cannot be read", "[report] has model; known: models",
      "--from=two comes after --until=one"), strict=True):
    fails(call, message)


def test_several_processes_are_those_of_the_stages(tmp_path):
  """Two pipelines in one folder would wait for each other's stages."""
  done = subprocess.run(
      [sys.executable, "-m", "experiments.r1", f"--workdir={tmp_path}/run"],
      cwd=ROOT, capture_output=True, text=True, env=os.environ | {
          "JAX_COORDINATOR_ADDRESS": "localhost:1", "JAX_NUM_PROCESSES": "2",
          "JAX_PROCESS_ID": "0"})
  fails(Call(done.returncode, done.stdout, done.stderr),
        "this command must be started as one process", "--launch")
  assert not (tmp_path / "run").exists()


def test_the_command_itself_leaves_the_devices_to_its_stages(tmp_path):
  """A GPU that the pipeline held would not be there for a stage."""
  plan = tmp_path / "toy.toml"
  plan.write_text(TOY)
  code = ("from absl import flags; from experiments import r1\n"
          f"flags.FLAGS(['', '--plan={plan}', '--workdir={tmp_path}/run'])\n"
          "r1.main()\n"
          "from jax._src import xla_bridge\n"
          "assert not xla_bridge.backends_are_initialized()")
  subprocess.run([sys.executable, "-c", code], check=True,
                 cwd=ROOT)


def stages(preset):
  """A pipeline of a plan that comes along, and its stages."""
  plan = plan_lib.read(PLANS / f"{preset}.toml")
  values = plan.values(partly=True, seed=1, data_dir="", init="") | {
      "data_dir": "/data", "init": plan.defaults.get("init", "hf:/base")}
  return Pipeline(plan=plan, workdir=epath.Path("/run"), values=values)


@pytest.mark.parametrize("preset", ["embedded", "paper"])
def test_experiments_take_the_flags_of_the_plans(preset):
  one = stages(preset)
  lines = {}
  for stage in one.plan.stages:
    command = one.command(stage)
    assert "{" not in " ".join(command), command
    lines[stage.name] = command[command.index("-m") + 1], command[3:]
  found = dict(zip(lines, flagged.errors(list(lines.values()))))
  assert not {name: error for name, error in found.items() if error}


@pytest.mark.parametrize("preset", ["embedded", "paper", "tiny"])
def test_what_is_one_process_is_not_launched_as_several(preset):
  one = dataclasses.replace(stages(preset), launch=("srun",))
  for stage in one.plan.stages:
    source = (ROOT / "experiments" / f"{stage.run}.py").read_text()
    launched = one.command(stage)[0] == "srun"
    assert launched == ("many=True" in source), stage.name


@pytest.mark.parametrize("preset", ["embedded", "paper"])
def test_rewards_that_a_model_gives_have_one(preset):
  """What the experiment itself would say only when its turn has come."""
  for stage in stages(preset).plan.stages:
    given = {name for name in ("helpful", "safety")
             if f"rewards.{name}" in stage.flags}
    asked = stage.flags.get("rewards.equation") == "r1-stage2"
    assert asked == bool(given), stage.name


def test_a_wrong_flag_is_seen():
  unknown, value = flagged.errors([
      ("experiments.evaluate", ["--sample=4"]),
      ("experiments.train_grpo", ["--samples=1"])])
  assert "Unknown command line flag 'sample'" in unknown
  assert "one has no baseline" in value


@pytest.mark.parametrize("preset", ["embedded", "paper", "tiny"])
def test_what_the_plans_name_in_the_package_is_there(preset):
  one = stages(preset)
  for stage in one.plan.stages:
    for value in stage.flags.values():
      if "{plan}" in value:
        path = one.filled(value).removeprefix("file:")
        path, _, function = path.partition(".py:")
        path = f"{path}.py" if function else path
        assert pathlib.Path(path).is_file(), path
        assert not function or (
            f"def {function}(" in pathlib.Path(path).read_text())
