"""The embedded plan from the base to the report, every number made small.

What it learns is nothing; that every stage reads what the one before it wrote
is what is tested. The base answers some questions right by itself, so there is
something to keep.
"""

import json
import pathlib

from r1jax.stages import plan as plan_lib
from tests.experiments.calls import calls
from tests.experiments.test_commands import succeeds

PLAN = (pathlib.Path(__file__).parents[2] / "experiments/plans/embedded.toml")
# The ablations, the second student and most evaluations are commands that come
# with others already.
LEFT_OUT = ("dev2_nolang", "hacked", "student_sft_llama", "student_rl",
            "eval_zero", "eval_dev1", "eval_dev2", "eval_dev2_nolang",
            "eval_hacked", "eval_student_base", "eval_student_sft_llama",
            "eval_student_onpolicy", "eval_student_rl")
ZERO = {"template": "r1-zero", "rewards.format": "think-answer"}
SMALL = {
    "train_grpo": {"steps": 1, "questions": 4, "samples": 4, "micro_rows": 4,
                   "max_new_tokens": 24, "eval_every": 0},
    "cold_start": {"split": "train[:8]", "samples": 8, "max_new_tokens": 48},
    "train_sft": {"epochs": 1, "rows": 2},
    "rejection": ZERO | {"split": "train[:8]", "samples": 8,
                         "max_new_tokens": 48},
    "world_dialogues": {"count": 24},
    "label_pairs": {"split": "train[:16]", "pairs": 4, "max_new_tokens": 12},
    "label_answers": {"split": "train[:24]", "max_new_tokens": 12},
    "train_reward": {"epochs": 1, "rows": 8},
    "evaluate": {"split": "test[:4]", "samples": 2, "max_new_tokens": 24,
                 "batch": 8},
}
SMALL["distill"] = SMALL["train_grpo"]
# Their policies answer nothing right yet: the base samples in their place.
OTHER = {"rejection": {"init": "orbax:{zero}"},
         "traces": {"init": "orbax:{zero}"},
         "pairs": {"policies": "{init},orbax:{dev3}"},
         "labels": {"policies": "{init},orbax:{dev3}"}}


def toml(plan):
  """The plan's stages without those left out, made small."""
  lines = ['[defaults]', 'init = "base:world"']
  for stage in plan.stages:
    if stage.name in LEFT_OUT:
      continue
    flags = stage.flags | SMALL[stage.run] | OTHER.get(stage.name, {})
    lines += [f"[stages.{stage.name}]", f'run = "{stage.run}"',
              f'out = "{stage.out}"', f"[stages.{stage.name}.flags]"]
    lines += [f"{name} = {json.dumps(str(value))}"
              for name, value in flags.items()]
  models = {model: folder for model, folder in plan.report["models"].items()
            if folder not in LEFT_OUT}
  runs = {run: folder for run, folder in plan.report["runs"].items()
          if folder not in LEFT_OUT}
  lines += ["[report]", 'reward_models = {helpful = "helpful", safety ='
            ' "safety"}', "[report.models]"]
  lines += [f'{name} = "{folder}"' for name, folder in models.items()]
  lines += ["[report.runs]"]
  lines += [f'{name} = "{folder}"' for name, folder in runs.items()]
  return "\n".join(lines) + "\n"


def test_from_base_to_report(tmp_path):
  plan = plan_lib.read(PLAN)
  small = tmp_path / "small.toml"
  judge = PLAN.parents[1] / "world_judge.py"
  small.write_text(toml(plan).replace("{plan}/../world_judge.py", str(judge)))
  command = [f"--plan={small}", f"--workdir={tmp_path / 'r1'}"]
  first, again = calls("experiments.r1", command, command)
  text = succeeds(first)
  stages = [s for s in plan.stages if s.name not in LEFT_OUT]
  assert f"[{len(stages)}/{len(stages)}]" in text
  assert succeeds(again).count("done before") == len(stages)
  claims = json.loads((tmp_path / "r1" / "claims.json").read_text())
  assert {claim["verdict"] for claim in claims} <= {
      "holds", "does not", "not decided"} and len(claims) >= 10
  summary = json.loads((tmp_path / "r1" / "summary.json").read_text())
  assert summary["minutes"] > 0
  assert (tmp_path / "r1" / "report.html").stat().st_size > 10_000
