"""--template=file:PATH, from training to those who come after."""

import json
import types

import pytest

from experiments import asking
from tests.experiments.calls import calls
from tests.experiments.test_commands import TINY, fails, succeeds

TEXT = "Box it: \\boxed{}. User: {question} Assistant: <think>\n"


def test_a_run_keeps_its_wording(model_file, questions, cache, tmp_path):
  mine, changed, run = (
      tmp_path / name for name in ("mine.txt", "changed.txt", "run"))
  mine.write_text(TEXT)
  changed.write_text(TEXT.replace("Box", "Frame"))
  shared = [*TINY, f"--init=file:{model_file}", "--data=gsm8k",
            f"--data_dir={questions}", f"--workdir={run}"]
  first, edited = calls("experiments.train_grpo", *(
      [*shared, "--steps=1", f"--template=file:{path}"]
      for path in (mine, changed)), XDG_CACHE_HOME=str(cache))
  assert "ends in ' Assistant: <think>\\n'" in succeeds(first)
  kept = json.loads((run / "config.json").read_text())["config"]
  assert kept["template"] == TEXT and kept["recipe"] == "embedded"
  fails(edited, "was made by another config", "template: 'Box it",
        "-> 'Frame it", "Nothing was changed")
  mine.unlink()

  own, other = calls("experiments.sample", *(
      [f"--init=orbax:{run}", "--question=What is 2 + 2?",
       "--max_new_tokens=4", *x] for x in ([], ["--template=plain"])))
  assert succeeds(own).startswith("<think>\n")
  assert not succeeds(other).startswith("<think>")
  (found,) = calls("experiments.evaluate", [
      f"--init=orbax:{run}", "--data=gsm8k", f"--data_dir={questions}",
      "--samples=2", "--max_rows=6", "--max_new_tokens=4",
      f"--out={tmp_path / 'eval'}"], XDG_CACHE_HOME=str(cache))
  succeeds(found)
  result = json.loads((tmp_path / "eval/result.json").read_text())
  assert result["template"] == TEXT


def test_sft_and_bad_files(model_file, tmp_path):
  (tmp_path / "mine.txt").write_text(TEXT)
  (tmp_path / "bad.txt").write_text("Q: {prompt}")
  row = {"prompt": "What is 2 + 2?", "completion": "4"}
  (tmp_path / "rows.jsonl").write_text(2 * (json.dumps(row) + "\n"))
  shared = [f"--init=file:{model_file}",
            f"--sft_data={tmp_path / 'rows.jsonl'}", "--rows=1",
            "--row_length=64", "--steps=1", "--eval_every=0",
            f"--workdir={tmp_path / 'run'}"]
  bad, missing, good = calls("experiments.train_sft", *(
      [*shared, f"--template=file:{tmp_path / name}"]
      for name in ("bad.txt", "none.txt", "mine.txt")))
  fails(bad, "bad.txt has no {question}, but {prompt}; write {question} where")
  fails(missing, "none.txt cannot be read (No such file or directory)")
  succeeds(good)
  kept = json.loads((tmp_path / "run/config.json").read_text())["config"]
  assert kept["template"] == TEXT


def test_every_policy_is_asked_as_its_own_run_did(
    tmp_path, capsys, monkeypatch):
  monkeypatch.setattr(asking, "SYSTEM", types.SimpleNamespace(value=""))
  (tmp_path / "config.json").write_text(
      json.dumps({"config": {"template": "chat-think"}}))
  assert asking.template("", f"orbax:{tmp_path}") == "chat-think"
  assert asking.template("", "hf:DIR") == "r1-zero"
  assert not capsys.readouterr().out
  assert asking.template("plain", f"orbax:{tmp_path}") == "plain"
  assert "template 'chat-think'; this command uses 'plain' (" in (
      capsys.readouterr().out)
  monkeypatch.setattr(asking, "SYSTEM", types.SimpleNamespace(value="Hi, you"))
  asked = asking.template("", f"orbax:{tmp_path}")
  assert asked == 'chat-think:system="Hi, you"'
  with pytest.raises(ValueError, match="has no room for a system"):
    asking.template("plain", f"orbax:{tmp_path}")
