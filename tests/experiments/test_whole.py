"""Every kind of stage, as one plan, on the small world's base."""

import json
import os
import pathlib
import subprocess
import sys

from r1jax.plans import plan as plan_lib
from tests import processes

ROOT = pathlib.Path(__file__).parents[2]
PLAN = ROOT / "experiments/plans/tiny.toml"


def test_a_plan_of_every_kind_of_stage(tmp_path):
  done = subprocess.run(
      [sys.executable, "-m", "tests.experiments.forked", PLAN, tmp_path],
      cwd=ROOT, capture_output=True, text=True,
      env=os.environ | {"XLA_FLAGS": processes.xla_flags()})
  assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
  plan = plan_lib.read(PLAN)
  embedded = plan_lib.read(ROOT / "experiments/plans/embedded.toml")
  assert {s.run for s in plan.stages} >= {s.run for s in embedded.stages}
  records = {}
  for stage in plan.stages:
    record = json.loads((tmp_path / stage.name / "done.json").read_text())
    assert record["starts"] == 1 and record["seconds"] > 0
    records[stage.name] = record["cost"] and record["cost"]["passes"]
  passes = {"train_grpo": {"prefill", "sample", "score", "train"},
            "train_sft": {"train"}, "train_reward": {"train", "reward"},
            "evaluate": {"prefill", "sample"}}
  for stage in plan.stages:
    assert passes.get(stage.run, set()) <= set(records[stage.name] or ())
  assert "reward" in records["r1"] and "teacher" in records["student_onpolicy"]
  assert (tmp_path / "report.html").exists()
  summary = json.loads((tmp_path / "summary.json").read_text())
  assert set(summary["models"]) == {"base", "r1"} and summary["minutes"] > 0
  assert json.loads((tmp_path / "claims.json").read_text())
