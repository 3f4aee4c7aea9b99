"""Trains a reward model, all parameters or a LoRA adapter.

  python -m experiments.train_reward --reward_data=PAIRS.jsonl \\
      --workdir=runs/helpful
  python -m experiments.train_reward --reward_data=LABELS.jsonl \\
      --loss=pointwise --workdir=runs/safety
  python -m experiments.train_reward --init=hf:DIR \\
      --reward_data=A.jsonl,B.jsonl --held_out=C.jsonl --lora.rank=16 \\
      --optimizer.lr=6e-6

Rows are {"messages", "chosen", "rejected"}, two whole conversations, answers
with scores, or {"messages", "response", "label"};
r1jax/data/sources/preference_rows.py says more. GRPO takes the results as
--rewards.helpful=orbax:runs/helpful and --rewards.safety=orbax:runs/safety.
"""

from __future__ import annotations

import dataclasses
import sys

from absl import flags

from r1jax.core.config import check
from r1jax.data.streams import preference, sft
from r1jax.data.text import templates
from r1jax.sharding import processes
from r1jax.stages import exporting, reward, reward_weights
from r1jax.stages.reports import training_report
from r1jax.stages.reward import PreferenceConfig
from r1jax.stages.weights import Handover

from . import common, flagset, start, training

REWARD = flagset.define(PreferenceConfig)
WORKDIR = flags.DEFINE_string("workdir", "runs/reward", "Folder of the run.")
REWARD_DATA = flags.DEFINE_string(
    "reward_data", "", "JSONL files of pairs or labels, separated by commas.")
HELD_OUT = flags.DEFINE_string(
    "held_out", "", "JSONL files for validation, separated by commas; default:"
    " the share --validation of the prompts in --reward_data.")
SOURCE_WEIGHTS = flags.DEFINE_string(
    "source_weights", "", "Factor of the loss by the rows' source, such as"
    " chat:2,code:0.5; default: 1.")
EXPORT = flags.DEFINE_string(
    "export", "", "Folder for the trained model, written at the end as Hugging"
    " Face's ...ForSequenceClassification with one label.")
EXPORT_DTYPE = flags.DEFINE_enum(
    "export_dtype", "float32", ["float32", "bfloat16"],
    "Dtype of the exported parameters.")


def main() -> None:
  cfg = REWARD.value()
  if EXPORT.value:
    training.check_export(EXPORT.value, WORKDIR.value)  # fail early
  check(bool(flagset.listed(REWARD_DATA)),
        "--reward_data=FILE.jsonl must be given")
  weights = sft.source_weights(SOURCE_WEIGHTS.value)
  first, tokenizer, began = training.begin(
      WORKDIR.value, cfg.seed, common.mesh(), cfg.lora,
      reward_weights.with_tokenizer)
  cfg = dataclasses.replace(cfg, template=templates.read(
      preference.template_for(cfg.template, tokenizer)))
  tokenizer = common.settled(tokenizer, cfg.template, WORKDIR.value)

  def read(flag):
    paths = flagset.listed(flag)
    with flagset.naming(flag):
      data = preference.load(
          paths, tokenizer, cfg.template, cfg.row_length, cfg.loss,
          margin=cfg.margin, weights=weights)
    print(data.explain(", ".join(paths)), flush=True)
    return data.examples, {path: preference.digest(path) for path in paths}

  examples, digests = read(REWARD_DATA)
  unused = sorted(set(weights) - {e.source for e in examples})
  check(not unused, f"--source_weights names {', '.join(unused)}, which no row"
        " has")
  held_out_digests = {}
  if flagset.listed(HELD_OUT):
    held_out, held_out_digests = read(HELD_OUT)
  else:
    examples, held_out = preference.divided(examples, cfg.validation)
  result = reward.run(
      cfg, Handover(first), tokenizer, examples, held_out, WORKDIR.value,
      mesh=common.mesh(), skip_damaged=training.SKIP_DAMAGED.value,
      remedies=common.REMEDIES, settings=began | {
          "reward_data": digests, "held_out": held_out_digests,
          "source_weights": weights})
  processes.from_writer(lambda: training_report.tell(WORKDIR.value))
  if said := reward.summary(WORKDIR.value):
    print(said, flush=True)
  if EXPORT.value and reward.finished(WORKDIR.value) and (
      init := training.unexported(EXPORT.value, WORKDIR.value)):
    exporting.write_reward(
        EXPORT.value, result, tokenizer, reward_weights.about(init), init=init,
        command=" ".join(["python -m experiments.train_reward", *sys.argv[1:]]),
        dtype=EXPORT_DTYPE.value)
    name = "helpful" if cfg.loss == preference.PAIRWISE else "safety"
    print(f"wrote {EXPORT.value}; use it as --rewards.{name}=hf:"
          f"{EXPORT.value}", flush=True)


if __name__ == "__main__":
  start.run(main, many=True)
