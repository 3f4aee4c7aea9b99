"""Rejection sampling: right and readable answers of a checkpoint as SFT data.

  python -m experiments.rejection --init=orbax:runs/dev2 --workdir=runs/data \\
      --samples=16 --template=r1 --rewards.format=think
  python -m experiments.rejection --init=hf:DIR --data=gsm8k --data_dir=DATA \\
      --keep=2 --min_rate=0.1 --max_rate=0.9 --join=GENERAL.jsonl

K answers a question are sampled and judged by rule; where a question has none,
by --judge against its reference, or not at all. Of the right ones those stay
whose thought is readable and in the question's language, at most --keep a
question. WORKDIR/sft.jsonl is what train_sft reads, report.json says what fell
where, samples/ has every answer. The same command goes on where it was stopped;
with other limits than before it selects anew, and samples nothing again.
"""

from __future__ import annotations

import dataclasses

from absl import flags

from r1jax.data.sources.selection import Report, SelectConfig
from r1jax.sharding import processes
from r1jax.stages import dialogues, traces

from . import flagset, sampling, start

SELECT = flagset.define(SelectConfig)
WORKDIR = flags.DEFINE_string("workdir", "runs/rejection", "Folder to write.")
JOIN = flags.DEFINE_string(
    "join", "", "JSONL files of dialogues that are joined as they are.")


def main() -> None:
  select = SELECT.value()
  with sampling.asked(WORKDIR.value, "rejection") as asked:
    if asked.done:
      print(processes.from_writer(lambda: write(asked, select)), flush=True)


def write(asked: sampling.Asked, select: SelectConfig) -> str:
  """The rows and the report."""
  report = Report()
  kept = traces.selected(
      asked.cfg, select, asked.prompts, WORKDIR.value, report)
  return dialogues.write(
      WORKDIR.value,
      (dialogues.row(prompt, sample.text, sample.tokens, sample=number)
       for prompt, number, sample in kept), report,
      others=[path for path in JOIN.value.split(",") if path],
      tokenizer=asked.judge.tokenizer, settings=dataclasses.asdict(select))


if __name__ == "__main__":
  start.run(main, many=True)
