"""experiments.r1 as users type it, with stages that need no training."""

import pathlib
import subprocess
import sys

from r1jax.stages import pipeline
from tests.experiments.calls import calls
from tests.experiments.test_commands import fails, succeeds
from tests.stages import planned

TOY = """
[stages.one]
run = "tests.stages.planned"
flags = {text = "{seed}"}

[stages.two]
run = "tests.stages.planned"
flags = {text = "{one}/out.txt"}
"""


def test_the_mark_tells_the_end_from_a_save(tmp_path):
  assert planned.COMPLETE == pipeline.COMPLETE
  marks = [tmp_path / name for name in ("end", "loop", "later")]
  for call in calls("tests.experiments.marked", *(
      [f"--mark={mark}", f"--signal={mark.name}"] for mark in marks)):
    assert call.status == 0, call.err  # in the loop it saves, and ends with 0
  # The last signal came when nothing was left to do.
  assert [mark.exists() for mark in marks] == [True, False, True]


def test_a_plan_by_one_command(tmp_path):
  plan, bad = tmp_path / "toy.toml", tmp_path / "bad.toml"
  plan.write_text(TOY)
  bad.write_text("[stages.one\n")
  shared = [f"--plan={plan}", f"--workdir={tmp_path}/run"]
  first, again, other, *wrong = calls(
      "experiments.r1", [*shared, "--until=one"], shared,
      [*shared, "--seed=1"], [*shared, "--until=three"],
      [*shared, "--init=hf:DIR"], [f"--plan={bad}"], [f"--plan={plan}x"],
      [*shared, "--from=two", "--until=one"])
  assert "left of the plan: two" in succeeds(first)
  assert "[1/2] one: done before" in succeeds(again)
  assert (tmp_path / "run/two/out.txt").read_text() == (
      f"{tmp_path}/run/one/out.txt\n")
  fails(other, "one: flags.text: '0' -> '1'", "This concerns one, two")
  for call, message in zip(wrong, (
      "--until=three is no stage", "reads {init}", "is not TOML",
      "cannot be read", "--from=two comes after --until=one"), strict=True):
    fails(call, message)


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
                 cwd=pathlib.Path(__file__).parents[2])
