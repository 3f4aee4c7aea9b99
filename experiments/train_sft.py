"""Fine-tunes on dialogues (SFT), all parameters or a LoRA adapter.

  python -m experiments.train_sft --sft_data=FILE.jsonl --workdir=runs/sft
  python -m experiments.train_sft --sft_data=A.jsonl,B.jsonl --lora.rank=8 \\
      --source_weights=math:2,code:0.5 --held_out=C.jsonl
  python -m experiments.train_sft --sft_data=BIG.jsonl --workers=8

A row is {"messages": [{"role", "content"}, ...]} or {"prompt", "completion"},
and may have a "source" and a "weight"; r1jax/data/sources/sft_rows.py lists all
fields.
"""

from __future__ import annotations

import dataclasses

from absl import flags

from r1jax.core.config import check
from r1jax.data.streams import sft as data_lib
from r1jax.data.streams import sft_stream
from r1jax.sharding import processes
from r1jax.stages import sft
from r1jax.stages.reports import training_report
from r1jax.stages.sft import SftConfig
from r1jax.stages.weights import Handover

from . import asking, common, flagset, start, training

SFT = flagset.define(SftConfig)
WORKDIR = flags.DEFINE_string("workdir", "runs/sft", "Folder of the run.")
SFT_DATA = flags.DEFINE_string(
    "sft_data", "", "JSONL files of dialogues, separated by commas.")
HELD_OUT = flags.DEFINE_string(
    "held_out", "", "JSONL files of dialogues whose loss is logged and not"
    " trained on, separated by commas.")
SOURCE_WEIGHTS = flags.DEFINE_string(
    "source_weights", "", "Factor of the loss by the rows' source, such as"
    " math:2,code:0.5; default: 1.")
WORKERS = flags.DEFINE_integer(
    "workers", 0, "Processes that stream and tokenise --sft_data from its"
    " files; 0: all of it is held in memory.", lower_bound=0)
EXPORT = flags.DEFINE_string("export", "", training.EXPORT)


def main() -> None:
  cfg = SFT.value()
  cfg = dataclasses.replace(cfg, template=asking.template(cfg.template))
  if EXPORT.value:
    training.check_export(EXPORT.value, WORKDIR.value)  # fail early
  weights = data_lib.source_weights(SOURCE_WEIGHTS.value)
  check(bool(flagset.listed(SFT_DATA)), "--sft_data=FILE.jsonl must be given")
  first, tokenizer, began = training.begin(
      WORKDIR.value, cfg.seed, common.mesh(), cfg.lora)
  tokenizer = common.settled(tokenizer, cfg.template, WORKDIR.value)

  def read(flag, workers=0):
    paths = flagset.listed(flag)
    shared = paths, tokenizer, cfg.template, cfg.row_length, weights
    with flagset.naming(flag):
      data = data_lib.load(*shared) if not workers else sft_stream.load(
          *shared, workers=workers, quiet=not processes.is_writer())
    print(data.explain(", ".join(paths)), flush=True)
    return data, {path: data_lib.digest(path) for path in paths}

  data, digests = read(SFT_DATA, WORKERS.value)
  unused = sorted(set(weights) - data.sources)
  check(not unused, f"--source_weights names {', '.join(unused)}, which no row"
        f" has; the sources are {', '.join(sorted(data.sources)) or 'unnamed'}")
  held_out, held_out_digests = (
      read(HELD_OUT) if flagset.listed(HELD_OUT) else (None, {}))
  trained = sft.run(
      cfg, Handover(first), tokenizer, data.examples, WORKDIR.value,
      held_out=held_out and held_out.examples, mesh=common.mesh(),
      workers=WORKERS.value, skip_damaged=training.SKIP_DAMAGED.value,
      remedies=common.REMEDIES, settings=began | {
          "sft_data": digests, "held_out": held_out_digests,
          "source_weights": weights})
  processes.from_writer(lambda: training_report.tell(WORKDIR.value))
  if EXPORT.value and sft.finished(WORKDIR.value, cfg, data.examples):
    training.export(EXPORT.value, trained, tokenizer, WORKDIR.value)


if __name__ == "__main__":
  start.run(main, many=True)
