"""The small world's commands: dialogues, and labels of answers."""

import json

from r1jax.data.streams import sft
from r1jax.data.text.tokenizer import SentencePieceTokenizer
from r1jax.stages import weights
from tests.experiments.calls import calls
from tests.experiments.test_commands import fails, succeeds


def test_dialogues_become_sft_data(tmp_path):
  good, none = calls(
      "experiments.world_dialogues",
      [f"--workdir={tmp_path}", "--count=30"], ["--count=0"])
  succeeds(good)
  assert none.status and "count" in none.err
  tokenizer = SentencePieceTokenizer(weights.WORLD_TOKENIZER)
  data = sft.load([tmp_path / "sft.jsonl"], tokenizer, "plain", 200)
  assert len(data.examples) == 30 and not data.malformed


def test_answers_are_labelled_one_by_one(tmp_path):
  shared = ["--init=base:world", "--data=world-safety", "--split=train[:4]",
            "--template=plain", "--samples=3", "--batch=4",
            "--max_new_tokens=16"]
  at = f"--workdir={tmp_path / 'labels'}"
  mine = tmp_path / "odd_judge.py"
  mine.write_text("label = lambda messages, answer: 2\n")
  good, out_of_range, none, other = calls(
      "experiments.label_answers",
      [*shared, at, "--judge=experiments/world_judge.py"],
      *([*shared, f"--workdir={tmp_path / 'x'}", f"--judge={judge}"]
        for judge in (mine, "", "hf:DIR")))
  succeeds(good)
  lines = (tmp_path / "labels" / "labels.jsonl").read_text().splitlines()
  rows = [json.loads(line) for line in lines]
  assert rows and all(row["label"] in (0, 1) for row in rows)
  assert len({(str(r["messages"]), r["response"]) for r in rows}) == len(rows)
  report = json.loads((tmp_path / "labels" / "report.json").read_text())
  assert report["rows"] == len(rows)
  assert report["mean_label"] == sum(r["label"] for r in rows) / len(rows)
  fails(out_of_range, "labels an answer 2.0; labels must be")
  fails(none, "--judge=FILE.py must be given")
  fails(other, "--judge=FILE.py must be given")

  # As a kill leaves it; then other answers, and another judge of the same.
  for batch in ("samples_0/batch_000000", "labels/batch_000000"):
    (tmp_path / "labels" / f"{batch}.jsonl.gz").unlink()
  again, changed, judged = calls(
      "experiments.label_answers",
      [*shared, at, "--judge=experiments/world_judge.py"],
      [*shared, at, "--judge=experiments/world_judge.py", "--samples=2"],
      [*shared, at, f"--judge={mine}"])
  # Before the report the first call may say that it prepares the questions.
  assert good.out.endswith(succeeds(again))
  assert (tmp_path / "labels/labels.jsonl").read_text().splitlines() == lines
  fails(changed, "samples: 3 -> 2", "choose another --workdir")
  fails(judged, "odd_judge.py", f"remove {tmp_path / 'labels/labels'}: the"
        " answers stay")
