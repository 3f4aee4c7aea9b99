"""Labelled answers for a pointwise reward model, as the safety one.

  python -m experiments.label_answers --policies=base:world,orbax:runs/sft \\
      --data=world-safety --judge=experiments/world_judge.py --out=labels

Answers of one or several policies are labelled one by one by a Python file with
`label(messages, answer)`, 0 to 1. Writes OUT/labels.jsonl, for
experiments.train_reward --loss=pointwise, and OUT/report.json. The flags of
sampling are those of experiments.label_pairs.
"""

from __future__ import annotations

import json

from absl import flags
from etils import epath

from experiments import common, label_pairs, start
from r1jax.accounting import cost
from r1jax.core import io
from r1jax.core.config import check
from r1jax.stages import tasks

flags.set_default(label_pairs.OUT, "runs/labels")


def main() -> None:
  name = label_pairs.JUDGE.value
  check(name.endswith(".py"), "--judge=FILE.py must be given, a Python file"
        " with label(messages, answer)")
  module = tasks.module(name, "--judge")
  check(callable(getattr(module, "label", None)),
        f"{name} has no function label(messages, answer)")
  out = epath.Path(label_pairs.OUT.value)
  out.mkdir(parents=True, exist_ok=True)  # before the work
  record = cost.Record(out)
  prompts = tasks.joined(common.sources(
      common.DATA.value, label_pairs.SPLIT.value))
  rows, shares = [], []
  for prompt, texts in zip(prompts, label_pairs.answers(prompts), strict=True):
    # What is said twice teaches nothing new.
    for text in dict.fromkeys(filter(str.strip, texts)):
      label = float(module.label(prompt.messages, text))
      check(0 <= label <= 1, f"{name} labels an answer {label}; give 0 to 1")
      rows.append({"messages": list(prompt.messages), "response": text,
                   "label": label, "source": prompt.source})
      shares.append(label)
  check(bool(rows), "no policy answered anything; nothing is left to write")
  report = {"rows": len(rows), "questions": len(prompts),
            "mean_label": sum(shares) / len(shares), "judge": name,
            "policies": label_pairs.policies(), "data": common.DATA.value}
  io.write_json(out / "report.json", report)
  io.write_text(out / "labels.jsonl", "".join(
      json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
  record.write()
  print(json.dumps(report, indent=2), flush=True)
  print(f"wrote {out / 'labels.jsonl'}; use it as --data of"
        " experiments.train_reward --loss=pointwise", flush=True)


if __name__ == "__main__":
  start.run(main)
