"""Rejection sampling: a model's right and readable answers as SFT data.

  python -m experiments.rejection --init=orbax:runs/dev2 --workdir=runs/data \\
      --samples=16 --template=r1 --rewards.format=think
  python -m experiments.rejection --init=hf:DIR --data=gsm8k --data_dir=DATA \\
      --keep=2 --min_rate=0.1 --max_rate=0.9 --join=GENERAL.jsonl

--samples answers per question are sampled and judged by the question's rule; if
it has none, by --judge against its reference, or not at all. Right answers with
a readable thought in the question's language are kept, at most --keep per
question. WORKDIR/sft.jsonl is for train_sft, report.json counts what was kept
and dropped, and why, samples/ has every answer. The same command resumes; with
other limits it selects again, without sampling again.
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
    "join", "", "JSONL files of dialogues to append unchanged, separated by"
    " commas.")


def main() -> None:
  select = SELECT.value()
  with sampling.asked(WORKDIR.value, "rejection") as asked:
    if asked.done:
      print(processes.from_writer(lambda: write(asked, select)), flush=True)


def write(asked: sampling.Asked, select: SelectConfig) -> str:
  """Writes the rows and the report; returns a summary."""
  report = Report()
  kept = traces.selected(
      asked.cfg, select, asked.prompts, WORKDIR.value, report)
  with flagset.naming(JOIN):
    return dialogues.write(
        WORKDIR.value,
        (dialogues.row(prompt, sample.text, sample.tokens, sample=number)
         for prompt, number, sample in kept), report,
        others=flagset.listed(JOIN),
        tokenizer=asked.judge.tokenizer, settings=dataclasses.asdict(select))


if __name__ == "__main__":
  start.run(main, many=True)
