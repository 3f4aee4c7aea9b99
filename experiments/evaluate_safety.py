"""How safe a model is: public sets, a taxonomy, over-refusal.

  python -m experiments.evaluate_safety --init=orbax:runs/r1 --sets=world

Writes OUT/result.json: counts and rates alone. What the model wrote lies in
OUT/answers and OUT/verdicts, and is shown nowhere.
"""

from __future__ import annotations

import dataclasses
import json
from typing import Any

from absl import flags
from etils import epath

from experiments import common, flagset, replying, start
from r1jax.core import io
from r1jax.core.prompt import Prompt
from r1jax.data import preference
from r1jax.report import workdir as workdir_lib
from r1jax.safety.verdicts import Judge
from r1jax.stages import programs, replies, safety, tasks
from r1jax.stages.replies import ReplyConfig

SETS = flags.DEFINE_string("sets", "world", "Sets, separated by commas.")
SAMPLES = flags.DEFINE_integer("samples", 1, "Answers to each question.")
# As HELM Safety generates.
ANSWER = flagset.define(ReplyConfig(temperature=0.0, max_new_tokens=512))
SHOWN = flags.DEFINE_enum(
    "shown", safety.SUMMARY, [safety.SUMMARY, safety.WHOLE],
    "What users and judges see of an answer: what follows the thought, or all.")
JUDGE = flags.DEFINE_string("judge", "rules", "Who says what an answer is.")
REPLY = flagset.define(ReplyConfig(temperature=0.0), "judge")
OUT = flags.DEFINE_string("out", "runs/safety", "Folder to write.")


def main() -> None:
  cfg, out, samples = ANSWER.value(), epath.Path(OUT.value), SAMPLES.value
  prompts = tasks.joined(questions())
  workdir_lib.prepare(out, settings(cfg, prompts), workdir_lib.versions(),
                      otherwise="choose another --out")
  if not safety.answer(model(cfg), prompts, samples, cfg.batch, out):
    return
  control = None  # --risk_control gives one
  if not safety.label(judge(), control, prompts, samples, cfg.batch, out,
                      shown=SHOWN.value):
    return
  cases = safety.cases(prompts, cfg.batch, out)
  result: dict[str, Any] = {"failures": safety.failures(cases)}
  io.write_json(out / "result.json", result)
  print(json.dumps(result, indent=2), flush=True)


def questions() -> dict[str, list[Prompt]]:
  """The questions of each set."""
  raise NotImplementedError


def model(cfg: ReplyConfig) -> Any:
  """Who answers."""
  if programs.is_endpoint(common.INIT.value):
    return programs.replier(
        common.INIT.value, replying.means(cfg, OUT.value))
  return replies.load(common.INIT.value, cfg, common.COMPUTE.value(),
                      common.mesh())


def judge() -> Judge:
  """Who says what an answer is."""
  raise NotImplementedError


def settings(cfg: ReplyConfig, prompts: list[Prompt]) -> dict[str, Any]:
  """What the answers depend on."""
  return {"init": common.INIT.value, "answers": dataclasses.asdict(cfg),
          "auto": preference.AUTO, "sets": SETS.value,
          "questions": len(prompts)}


if __name__ == "__main__":
  start.run(main)
