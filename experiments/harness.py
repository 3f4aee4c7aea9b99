"""Runs tasks of lm-evaluation-harness with r1jax's models and engine.

  pip install -e '.[lm-eval]'
  python -m experiments.harness --init=orbax:runs/r1/r1 --tasks=gsm8k,mmlu
  python -m experiments.harness --init=hf:DIR --tasks=my_task \\
      --include_path=MY_TASKS --chat --limit=100

Tasks, prompts and scores are the harness's; weights, tokenizer and engine are
r1jax's. The harness downloads what a task needs. Writes OUT/result.json.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import json

from absl import flags

from r1jax.core import io
from r1jax.core.config import check
from r1jax.stages.harness import Harness, HarnessConfig, language_model

from . import common, flagset, start

HARNESS = flagset.define(HarnessConfig)
TASKS = flags.DEFINE_string(
    "tasks", "", "Names of the harness's tasks, separated by commas.")
INCLUDE = flags.DEFINE_string(
    "include_path", "", "Folder with your own task files.")
SHOTS = flags.DEFINE_integer(
    "shots", None, "Examples before each question; default: the task's.")
LIMIT = flags.DEFINE_integer(
    "limit", None, "The most questions per task; default: all.")
CHAT = flags.DEFINE_bool(
    "chat", False, "Use the tokenizer's chat template, with examples as turns.")
OUT = flags.DEFINE_string("out", "runs/harness", "Folder for result.json.")


def main() -> None:
  with common.alone(OUT.value):
    measure()


def measure() -> None:
  """Runs the tasks."""
  check(bool(TASKS.value), "--tasks=NAME,... must be given")
  check(importlib.util.find_spec("lm_eval") is not None, "lm-evaluation-harness"
        " is not installed: pip install -e '.[lm-eval]'")
  import lm_eval
  from lm_eval import tasks, utils

  cfg = HARNESS.value()
  init = common.frozen(common.INIT.value)
  out = common.take(OUT.value, {
      "init": init, "tasks": TASKS.value,
      "include_path": INCLUDE.value, "shots": SHOTS.value,
      "limit": LIMIT.value, "chat": CHAT.value,
      "sampling": dataclasses.asdict(cfg)})
  policy, tokenizer = common.policy(cfg.seed, common.mesh(), init)
  model = language_model(
      Harness(policy, tokenizer, cfg, common.mesh()), common.INIT.value)
  found = lm_eval.simple_evaluate(
      model=model, tasks=TASKS.value.split(","), num_fewshot=SHOTS.value,
      limit=LIMIT.value, apply_chat_template=CHAT.value,
      fewshot_as_multiturn=CHAT.value,
      task_manager=tasks.TaskManager(include_path=INCLUDE.value or None),
      log_samples=False)
  # The result contains functions and types, which are stored as text.
  told = json.loads(json.dumps(
      {key: found[key] for key in ("results", "n-shot", "n-samples", "configs",
                                   "versions") if key in found}, default=str))
  io.write_json(out / "result.json", told | {
      "init": common.INIT.value, "harness": lm_eval.__version__,
      "chat": CHAT.value})
  print(utils.make_table(found))


if __name__ == "__main__":
  start.run(main)
