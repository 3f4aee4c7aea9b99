"""Supervised fine-tuning on dialogues, all parameters or a LoRA adapter.

  python -m experiments.train_sft --data=FILE.jsonl --workdir=runs/sft
  python -m experiments.train_sft --data=A.jsonl,B.jsonl --lora.rank=8 \\
      --source_weights=math:2,code:0.5 --eval_data=HELD_OUT.jsonl
  python -m experiments.train_sft --data=BIG.jsonl --workers=8

A row is {"messages": [{"role", "content"}, ...]} or {"prompt", "completion"},
and may name its "source" and have a "weight"; r1jax/data/sft_rows.py says what
else it may say.
"""

from __future__ import annotations

import dataclasses

from absl import flags

from r1jax.core.config import check
from r1jax.data import sft as data_lib
from r1jax.data import sft_stream
from r1jax.sharding import processes
from r1jax.stages import exporting, sft, training_report
from r1jax.stages.sft import SftConfig
from r1jax.stages.weights import Handover

from . import common, flagset, start

SFT = flagset.define(SftConfig)
WORKDIR = flags.DEFINE_string("workdir", "runs/sft", "Folder of the run.")
EVAL_DATA = flags.DEFINE_string(
    "eval_data", "", "JSONL files, held out: their loss is logged.")
SOURCE_WEIGHTS = flags.DEFINE_string(
    "source_weights", "", "Factor of the loss by source, as math:2,code:0.5.")
WORKERS = flags.DEFINE_integer(
    "workers", 0, "Processes that read and tokenise --data, which then stays in"
    " its files; 0 holds all of it in memory.", lower_bound=0)
EXPORT = flags.DEFINE_string("export", "", common.EXPORT)


def main() -> None:
  cfg = SFT.value()
  cfg = dataclasses.replace(cfg, template=common.template(cfg.template))
  if EXPORT.value:
    exporting.check_unused(EXPORT.value)  # before the work
  weights = data_lib.source_weights(SOURCE_WEIGHTS.value)
  check(common.DATA.present, "--data=FILE.jsonl must be given")
  files, held_out_files = (
      [path for path in flag.value.split(",") if path]
      for flag in (common.DATA, EVAL_DATA))
  first, tokenizer, began = common.first(
      WORKDIR.value, cfg.seed, common.mesh(), cfg.lora)
  tokenizer = common.settled(tokenizer, cfg.template, WORKDIR.value)

  def read(paths, workers=0):
    shared = paths, tokenizer, cfg.template, cfg.row_length, weights
    data = data_lib.load(*shared) if not workers else sft_stream.load(
        *shared, workers=workers, quiet=not processes.is_writer())
    print(data.explain(", ".join(paths)), flush=True)
    return data

  data = read(files, WORKERS.value)
  unused = sorted(set(weights) - data.sources)
  check(not unused, f"--source_weights names {', '.join(unused)}, which no row"
        f" has; the sources are {', '.join(sorted(data.sources)) or 'unnamed'}")
  held_out = read(held_out_files).examples if held_out_files else None
  trained = sft.run(
      cfg, Handover(first), tokenizer, data.examples, WORKDIR.value,
      held_out=held_out, mesh=common.mesh(), workers=WORKERS.value,
      skip_damaged=common.SKIP_DAMAGED.value, remedies=common.REMEDIES,
      settings=began | {
          "data": {path: data_lib.digest(path) for path in files},
          "eval_data": {
              path: data_lib.digest(path) for path in held_out_files},
          "source_weights": weights})
  processes.from_writer(lambda: training_report.tell(WORKDIR.value))
  if EXPORT.value and sft.finished(WORKDIR.value, cfg, data.examples):
    common.export(EXPORT.value, trained, tokenizer, WORKDIR.value)


if __name__ == "__main__":
  start.run(main, many=True)
