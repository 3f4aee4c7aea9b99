"""Errors about data name the flag that the user gave, in every experiment."""

import json

import pytest

from tests.experiments.calls import calls
from tests.experiments.test_commands import TINY, fails


@pytest.fixture
def folder(tmp_path):
  """Rows of no kind, and dialogues and pairs that are right."""
  for name, row in {
      "odd": {"x": 1},
      "rows": {"prompt": "1 + 2?", "completion": "3"},
      "pairs": {"prompt": "1 + 2?", "chosen": "3", "rejected": "4"}}.items():
    (tmp_path / f"{name}.jsonl").write_text(json.dumps(row) + "\n")
  return tmp_path


def told(module, folder, model, lines, cache):
  """Each call fails with its message, and so does one without the file."""
  shared = [] if module == "filter_sft" else [f"--init=file:{model}"]
  done = calls(f"experiments.{module}", *(
      [*shared, *line] for _, line in lines), XDG_CACHE_HOME=str(cache))
  for call, (message, _) in zip(done, lines, strict=True):
    fails(call, message.replace("DIR", str(folder)))
    assert "data=" not in call.err.replace("_data=", "").replace("--data=", "")


def test_dialogues(folder, model_file, cache):
  where = [f"--workdir={folder / 'run'}", "--row_length=64"]
  rows, odd = (f"{folder}/{name}.jsonl" for name in ("rows", "odd"))
  told("train_sft", folder, model_file, [
      ("--sft_data: DIR/none cannot be read (No such file", [
          *where, f"--sft_data={folder}/none"]),
      ("--sft_data: DIR/none cannot be read (No such file", [
          *where, f"--sft_data={folder}/none", "--workers=1"]),
      ("--sft_data: 1 of 1 rows are malformed", [*where, f"--sft_data={odd}"]),
      ("--held_out: DIR/none cannot be read", [
          *where, f"--sft_data={rows}", f"--held_out={folder}/none"]),
      ("--held_out: 1 of 1 rows are malformed", [
          *where, f"--sft_data={rows}", f"--held_out={odd}"])], cache)
  told("filter_sft", folder, model_file, [
      ("--sft_data: DIR/none cannot be read", [
          f"--sft_data={folder}/none", f"--out={folder}/out"])], cache)


def test_preferences(folder, model_file, cache):
  where = [f"--workdir={folder / 'run'}", "--row_length=64"]
  pairs, odd = (f"{folder}/{name}.jsonl" for name in ("pairs", "odd"))
  told("train_reward", folder, model_file, [
      ("--reward_data: DIR/none cannot be read", [
          *where, f"--reward_data={folder}/none"]),
      ("--reward_data: DIR/odd.jsonl: 1 of 1 rows are malformed", [
          *where, f"--reward_data={odd}"]),
      ("--held_out: DIR/none cannot be read", [
          *where, f"--reward_data={pairs}", f"--held_out={folder}/none"])],
      cache)


def test_questions(folder, model_file, questions, cache):
  train = [*TINY, f"--workdir={folder / 'run'}", "--eval_every=1"]
  mine = f"--data_dir={questions}"
  told("train_grpo", folder, model_file, [
      ("--data: 'gsm9k' is unknown; did you mean gsm8k", [
          *train, "--data=gsm9k"]),
      ("--eval_data: 'gsm9k' is unknown", [
          *train, "--data=arith", "--eval_data=gsm9k"]),
      ("--eval_data: no_such.py is not a file", [
          *train, "--data=arith", "--eval_data=no_such.py"]),
      ("--eval_split: gsm8k has no split 'exam'; it has train", [
          *train, "--data=gsm8k", mine, "--eval_split=exam"]),
      ("--eval_split: 'test[a:]' of gsm8k is not a split", [
          *train, "--data=gsm8k", mine, "--eval_split=test[a:]"])], cache)
  asked = ["--data=gsm8k", mine, "--samples=2", "--max_new_tokens=4",
           "--split=test[:2]", f"--out={folder / 'out'}"]
  told("evaluate", folder, model_file, [
      ("--split: gsm8k has no split 'exam'", [*asked, "--split=exam"]),
      ("--seen: DIR/none.jsonl does not exist", [
          *asked, f"--seen={folder}/none.jsonl"]),
      ("--seen: DIR/pairs.jsonl:1: its prompt and completion are", [
          *asked, f"--seen={folder}/pairs.jsonl"]),
      ("--seen: 'gsm9k' is unknown", [*asked, "--seen=gsm9k@train"]),
      ("--seen: gsm8k has no split 'exam'", [*asked, "--seen=gsm8k@exam"])],
      cache)
