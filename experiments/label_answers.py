"""Labels answers for a pointwise reward model, such as the safety model.

  python -m experiments.label_answers --policies=base:world,orbax:runs/sft \\
      --data=world-safety --judge=experiments/world_judge.py \\
      --workdir=labels

Answers of one or several policies are labelled one by one by a Python file with
`label(messages, answer)`, from 0 to 1. Writes labels.jsonl, for
experiments.train_reward --loss=pointwise, and report.json. The same command
resumes after a kill. Sampling flags are those of experiments.label_pairs.
"""

from __future__ import annotations

import json
import types
from collections.abc import Sequence
from typing import Any

from absl import flags
from etils import epath

from r1jax.core import io
from r1jax.core.config import check
from r1jax.core.prompt import Prompt
from r1jax.stages.loop import batches

from . import data_sets, label_pairs, start

flags.set_default(label_pairs.WORKDIR, "runs/labels")
_AT_ONCE = 256  # answers per stored batch


def main() -> None:
  name = label_pairs.JUDGE.value
  check(name.endswith(".py"), "--judge=FILE.py must be given, a Python file"
        " with label(messages, answer)")
  module = label_pairs.own()
  check(callable(getattr(module, "label", None)),
        f"{name} has no function label(messages, answer)")
  prompts = label_pairs.questions()
  about = label_pairs.judge_settings(name, "labels")
  with label_pairs.taken(prompts) as (out, names):
    texts = label_pairs.answers(prompts, names, out)
    # Equal answers to a question are labelled once.
    said = [(prompt, text) for prompt, some in zip(prompts, texts or [])
            for text in dict.fromkeys(filter(str.strip, some))]

    def work(batch):
      return [label(module, *one) for one in batch]

    if texts is None:
      return
    folder = label_pairs.judged_in(out / "labels", about)
    if batches.store(folder, said, _AT_ONCE, work, title="labels",
                     unit="answers"):
      write(list(batches.read(folder, len(said), _AT_ONCE)), prompts, names,
            out)


def label(module: types.ModuleType, prompt: Prompt, text: str
          ) -> dict[str, Any]:
  """The row of labels.jsonl for an answer."""
  value = float(module.label(prompt.messages, text))
  check(0 <= value <= 1,
        f"{module.__file__} labels an answer {value}; labels must be from 0 to"
        " 1")
  return {"messages": list(prompt.messages), "response": text, "label": value,
          "source": prompt.source}


def write(rows: Sequence[dict[str, Any]], prompts: Sequence[Prompt],
          names: Sequence[str], out: epath.Path) -> None:
  """Writes labels.jsonl and report.json."""
  check(bool(rows), "no policy answered anything; there is nothing to write")
  report = {"rows": len(rows), "questions": len(prompts),
            "mean_label": sum(row["label"] for row in rows) / len(rows),
            "judge": label_pairs.JUDGE.value, "policies": list(names),
            "data": data_sets.DATA.value}
  io.write_json(out / "report.json", report)
  io.write_text(out / "labels.jsonl", "".join(
      json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
  print(json.dumps(report, indent=2), flush=True)
  print(f"wrote {out / 'labels.jsonl'}; use it as --reward_data of"
        " experiments.train_reward --loss=pointwise", flush=True)


if __name__ == "__main__":
  start.run(main)
