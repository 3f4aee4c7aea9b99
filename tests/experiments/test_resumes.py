"""What a finished or interrupted command does when it is typed again."""

import json
import os
import shutil

import pytest

from r1jax.checkpoint import hf_files
from r1jax.core import lock
from tests.data.text import hf_cases
from tests.experiments.calls import calls
from tests.experiments.test_commands import fails, succeeds

TASK = '''
from r1jax.core.prompt import Prompt, ask
from r1jax.rewards.score import Score

def prompts(split):
  return [Prompt(id=i, domain="math", source="t", messages=ask(f"{i} + 1?"),
                 reference=str(i + 1), verifier="same") for i in range(3)]

def same(prompt, response):
  return Score(float(response.answer == prompt.reference), True, "judged")

VERIFIERS = {"same": same}
'''


def test_an_evaluation_goes_on_with_what_it_began_with(
    model_file, cache, tmp_path):
  """Rules, tokenizer, dtype and questions; each message says what to do."""
  task, other = tmp_path / "the_same_task.py", tmp_path / "tokenizer"
  hf_cases.qwen(other)
  line = [f"--init=file:{model_file}", f"--data={task}", "--samples=2",
          "--max_new_tokens=4", f"--out={tmp_path / 'out'}"]

  def evaluate(*lines, text=TASK):
    task.write_text(text)
    return calls("experiments.evaluate", *([*line, *x] for x in lines),
                 XDG_CACHE_HOME=str(cache))

  first, again, tokenizer, rounded = evaluate(
      [], [], [f"--tokenizer={other}"], ["--compute.dtype=bfloat16"])
  succeeds(first)
  assert "has 3 of 3 problems already" in again.err and again.out == first.out
  fails(tokenizer, "tokenizer: ", "another --tokenizer, or its files have")
  fails(rounded, "dtype: 'float32' -> 'bfloat16'")
  rules, = evaluate([], text=TASK.replace('"judged"', '"J"'))
  fails(rules, "rules.the_same_task.py: ", "that file has changed since")
  asked, = evaluate([], text=TASK.replace("+ 1?", "plus 1?"))
  fails(asked, "data_digest: ", "the questions of --data have changed since")


def test_evaluations_of_checkpoints_are_of_the_same_settings(
    model_file, questions, cache, tmp_path):
  run = tmp_path / "run"
  rows = tmp_path / "rows.jsonl"
  rows.write_text(json.dumps({"prompt": "1 + 2?", "completion": "3"}) + "\n")
  succeeds(*calls("experiments.train_sft", [
      f"--init=file:{model_file}", f"--sft_data={rows}", "--rows=2",
      "--row_length=64", "--steps=1", f"--workdir={run}"]))
  line = [f"--init=orbax:{run}", "--data=gsm8k", f"--data_dir={questions}",
          "--samples=2", "--max_new_tokens=4", "--checkpoints=all",
          f"--out={tmp_path / 'out'}"]
  first, again, other = calls(
      "experiments.evaluate", line, line, [*line, "--samples=3"],
      XDG_CACHE_HOME=str(cache))
  figure = f"figure: {tmp_path / 'out/evolution.png'}\n"
  assert figure in succeeds(first) and figure in succeeds(again)
  fails(other, "sampling.samples: 2 -> 3", "choose another --out")


def test_answers_of_a_benchmark_that_changed_are_not_reused(
    model_file, questions, cache, tmp_path):
  files = tmp_path / "files/gsm8k"
  shutil.copytree(questions, files)
  line = [f"--init=file:{model_file}", "--suite=gsm8k", "--samples=2",
          f"--benchmarks_dir={files.parent}", "--max_new_tokens=4",
          f"--out={tmp_path / 'out'}"]
  first, = calls("experiments.evaluate", line, XDG_CACHE_HOME=str(cache))
  succeeds(first)
  text = (files / "test.jsonl").read_text()
  (files / "test.jsonl").write_text(text.replace("#### 2", "#### 3"))
  other, = calls("experiments.evaluate", line, XDG_CACHE_HOME=str(cache))
  fails(other, "data_digest: ", "the benchmark's files or --wordings have")


def test_nobody_else_writes_an_output_folder(model_file, tmp_path):
  out = tmp_path / "out"
  model = f"--init=file:{model_file}"
  for module, folder, line in (
      ("evaluate", out, [model, f"--out={out}"]),
      ("import_hf", out, [f"--from={hf_folder(model_file, tmp_path)}",
                          f"--workdir={out}"]),
      ("export_hf", hf_files.part_of(out), [model, f"--out={out}"])):
    with lock.Lock(folder):
      call, = calls(f"experiments.{module}", line)
    assert call.status == 75 and "Traceback" not in call.err, call.err
    assert f"error: {out} is in use by process {os.getpid()} on" in call.err
    assert not out.exists() and not folder.exists()


def hf_folder(model_file, tmp_path):
  """The model in Hugging Face's form."""
  folder = tmp_path / "hf"
  if not folder.exists():
    succeeds(*calls("experiments.export_hf", [
        f"--init=file:{model_file}", f"--out={folder}"]))
  return folder


def test_an_import_that_was_killed_is_made_again(model_file, tmp_path):
  source, run = hf_folder(model_file, tmp_path), tmp_path / "run"
  line = [f"--from={source}", f"--workdir={run}"]
  succeeds(*calls("experiments.import_hf", line))
  # As a kill leaves it: the save has not got its name.
  (run / "checkpoints/0").rename(
      run / "checkpoints/0.orbax-checkpoint-tmp")
  again, third = calls("experiments.import_hf", line, line)
  succeeds(again)
  assert [path.name for path in (run / "checkpoints").iterdir()] == ["0"]
  fails(third, f"{run} has a run or an import already")


def test_what_a_killed_export_left_is_removed(model_file, tmp_path):
  out = tmp_path / "out"
  part = hf_files.part_of(out)
  (part / "folder").mkdir(parents=True)
  (part / "model.safetensors").write_bytes(b"half")
  succeeds(*calls("experiments.export_hf", [
      f"--init=file:{model_file}", f"--out={out}"]))
  assert {path.name for path in out.iterdir()} == {
      "config.json", "generation_config.json", "tokenizer.model", "README.md",
      "model.safetensors"}
  assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize("module,data,answers", [
    ("train_sft", "sft_data", {"completion": "3"}),
    ("train_reward", "reward_data", {"chosen": "3", "rejected": "0"})])
def test_a_finished_training_is_exported_once(
    module, data, answers, model_file, tmp_path):
  rows, out = tmp_path / "rows.jsonl", tmp_path / "out"
  rows.write_text("".join(json.dumps(
      {"prompt": f"{i} + 2?"} | answers) + "\n" for i in range(9)))
  line = [f"--init=file:{model_file}", f"--{data}={rows}", "--rows=2",
          "--row_length=64", "--steps=1", "--optimizer.schedule=constant",
          f"--held_out={rows}", f"--workdir={tmp_path / 'run'}",
          f"--export={out}"]
  first, again, longer, elsewhere, other = calls(
      f"experiments.{module}", line, line, [*line, "--steps=2"],
      [*line, "--steps=2", f"--export={tmp_path / 'two'}"],
      [*line, f"--workdir={tmp_path / 'other'}"])
  assert f"wrote {out}" in succeeds(first)
  assert f"has the model of orbax:{tmp_path / 'run'}@1 already" in succeeds(
      again)
  assert "is finished: all 1 steps" in again.err
  # The longer run is saved: with another --export only that is left to do.
  fails(longer, f"{out} is in use already: it has the model of orbax:"
        f"{tmp_path / 'run'}@1; nothing was changed; choose another folder")
  succeeds(elsewhere)
  assert "is finished: all 2 steps" in elsewhere.err
  fails(other, f"{out} is in use already")
  assert not (tmp_path / "other").exists()
