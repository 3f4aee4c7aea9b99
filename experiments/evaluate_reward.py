"""Evaluates a reward model on held-out data and on RewardBench.

  python -m experiments.evaluate_reward --init=orbax:runs/helpful \\
      --reward_data=PAIRS.jsonl
  python -m experiments.evaluate_reward --init=hf:DIR --loss=pointwise \\
      --reward_data=LABELS.jsonl \\
      --rewardbench=reward-bench.jsonl,reward-bench-2.jsonl

Data have the form of experiments.train_reward; RewardBench 1 and 2 are local
JSONL files with the published fields. Writes OUT/result.json and a figure.
"""

from __future__ import annotations

import json
from typing import Any

import numpy as np
from absl import flags
from etils import epath

from r1jax.core import io
from r1jax.core.config import check
from r1jax.data.sources import rewardbench
from r1jax.data.streams import preference, sft
from r1jax.data.text import templates
from r1jax.evals import rewardbench as scores_lib
from r1jax.report import reward_figure, workdir
from r1jax.stages import reward, reward_weights
from r1jax.stages.scoring import Scoring

from . import common, flagset, start

REWARD_DATA = flags.DEFINE_string(
    "reward_data", "", "JSONL files of held-out pairs or labels, separated by"
    " commas.")
LOSS = flags.DEFINE_enum(
    "loss", preference.PAIRWISE, [preference.PAIRWISE, preference.POINTWISE],
    "Whether --reward_data are pairs (pairwise) or labelled answers"
    " (pointwise).")
REWARDBENCH = flags.DEFINE_string(
    "rewardbench", "", "JSONL files of RewardBench 1 or 2, separated by"
    " commas.")
TEMPLATE = flags.DEFINE_string(
    "template", "", "Prompt template; default: the one that the model was"
    " trained with, else auto (the tokenizer's chat template, else plain).")
ROWS = flags.DEFINE_integer("rows", 16, "Packed rows per batch.")
ROW_LENGTH = flags.DEFINE_integer(
    "row_length", 256, "Tokens per packed row; longer conversations get longer"
    " rows.")
OUT = flags.DEFINE_string("out", "runs/evaluate_reward", "Folder to write.")


def main() -> None:
  with common.alone(OUT.value):
    evaluate()


def evaluate() -> None:
  """Measures what the flags name."""
  files, benches = flagset.listed(REWARD_DATA), flagset.listed(REWARDBENCH)
  check(bool(files or benches),
        "give --reward_data=FILE.jsonl, or --rewardbench=FILE.jsonl")
  kind, _, what = common.INIT.value.partition(":")
  told = epath.Path(workdir.named(what)[0]) / reward_weights.ABOUT
  check(kind == "orbax" or kind == "hf", f"--init={common.INIT.value} is not a"
        " reward model; give orbax:WORKDIR of experiments.train_reward, or"
        " hf:DIR")
  about = io.read_json(told) if told.exists() else {}
  init = common.frozen(common.INIT.value)
  with flagset.naming(REWARD_DATA):
    digests = {path: preference.digest(path) for path in files}
  out = common.take(OUT.value, {
      "init": init, "loss": LOSS.value, "template": TEMPLATE.value,
      "reward_data": digests, "rewardbench": REWARDBENCH.value})
  reward_model, tokenizer = reward_weights.with_tokenizer(
      init, common.COMPUTE.value(), mesh=common.mesh(),
      tokenizer=common.TOKENIZER.value)
  template = templates.read(preference.template_for(
      TEMPLATE.value or about.get("template", preference.AUTO), tokenizer))
  scoring = Scoring(
      reward_model.model, ROWS.value, ROW_LENGTH.value, common.mesh())

  def score(ids):
    return scoring(reward_model.params, reward_model.router_bias_LE, ids)

  result: dict[str, Any] = {"init": common.INIT.value, "template": template}
  if files:
    with flagset.naming(REWARD_DATA):
      data = preference.load(
          files, tokenizer, template, reward_model.model.cfg.max_position,
          LOSS.value)
    print(data.explain(", ".join(files)), flush=True)
    cfg = reward.PreferenceConfig(loss=LOSS.value)
    measured = reward.Measured(cfg, data.examples, score)
    good, bad, lengths = measured.split()
    result["data"] = measured.evaluation() | {"loss": measured.loss()}
    reward_figure.draw(result["data"], good, bad, lengths,
                       out / reward.FIGURE,
                       blank=about.get("blank"))
  for path in benches:
    version, rows = bench(path, template, tokenizer, score)
    result[f"rewardbench{version}"] = (
        scores_lib.first if version == 1 else scores_lib.second)(rows)
  io.write_json(out / "result.json", result)
  print(json.dumps(result, indent=2), flush=True)


def bench(path: str, template: str, tokenizer: Any, score: Any
          ) -> tuple[int, list[scores_lib.Scored]]:
  """(version, items with scores) of a file of RewardBench.

  Items with an answer that cannot be scored get scores that count as wrong.
  """
  with flagset.naming(REWARDBENCH):
    version, items = rewardbench.read(path)
  eos_id = sft.end_of_answer(template, tokenizer)
  ids, refused = [], 0
  for messages in rewardbench.texts(items):
    try:
      ids.append(preference.encode(messages, template, tokenizer, eos_id)[0])
    except ValueError:
      ids.append(np.zeros(0, np.int32))
  scores = np.asarray(score(ids), np.float64)
  refused = int(np.isnan(scores).sum())
  if refused:
    print(f"{path}: {refused} answers are longer than the context or rejected"
          " by the template; an item with one of them counts as wrong",
          flush=True)
  scored, at = [], 0
  for item in items:
    part = scores[at:at + len(item.conversations)]
    at += len(part)
    if np.isnan(part).any():  # ascending scores: right answers come first
      part = np.arange(len(part), dtype=np.float64)
    scored.append(scores_lib.Scored(item.id, item.subset, part, item.right))
  return version, scored


if __name__ == "__main__":
  start.run(main)
