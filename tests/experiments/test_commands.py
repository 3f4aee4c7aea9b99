"""The commands as users type them: what they leave, and bad input.

Every error is one message without a traceback and a status other than 0.
"""

import gzip
import json
import os
import pathlib
import shutil
import subprocess

import numpy as np
import pytest

from r1jax.core import lock
from r1jax.report import writer
from r1jax.stages import weights
from tests.data.text import hf_cases
from tests.experiments.calls import calls
from tests.stages import cases

GSM8K = pathlib.Path(__file__).parents[2] / "../shared/data/gsm8k"
TINY = ["--recipe=embedded", "--questions=2", "--samples=2",
        "--micro_rows=4", "--row_length=200", "--max_new_tokens=8",
        "--save_every=1", "--eval_every=0", "--eval.samples=2",
        "--eval.max_rows=6", "--eval.max_new_tokens=8", "--eval_split=test[:2]"]


def succeeds(call):
  assert call.status == 0 and "Traceback" not in call.err, call.err
  return call.out


def fails(call, *messages):
  assert call.status not in (0, None), call.out
  assert "Traceback" not in call.err, call.err
  for message in messages:
    assert message in call.err, call.err


def contents(folder):
  return {str(path.relative_to(folder)): path.read_bytes()
          for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def train(model_file, questions, cache):
  """Calls train_grpo on the tiny policy and questions."""
  def run(*lines, module="experiments.train_grpo"):
    shared = [*TINY, f"--init=file:{model_file}", "--data=gsm8k",
              f"--data_dir={questions}"]
    return calls(module, *([*shared, *x] for x in lines),
                 XDG_CACHE_HOME=str(cache))
  return run


def test_a_run_is_reported_resumed_and_guarded(train, tmp_path):
  """Other configs are refused, damaged checkpoints are named, none is lost."""
  workdir = tmp_path / "run"
  at = f"--workdir={workdir}"
  out = succeeds(*train([at, "--steps=2"]))
  assert ("2 questions x 2 samples = 4 completions a step; updates of 4"
          " completions: 1 a step, 2 in all\n") in out
  assert "1 of 32 training prompts are left out" in out
  assert "<h1>GRPO: run</h1>" in (workdir / "report.html").read_text()
  kept = workdir / "tokenizer/tokenizer.model"
  assert kept.read_bytes() == weights.TOKENIZER.read_bytes()

  before = contents(workdir)
  other, loss, = train([at, "--steps=2", "--samples=4"],
                       [at, "--steps=2", "--loss=dapo"])
  fails(other, "was made by another config", "samples: 2 -> 4",
        "Nothing was changed")
  fails(loss, "policy.clip_high: 0.2 -> 0.28", "policy.kl_beta: 0.001 -> 0.0")
  assert contents(workdir) == before

  newest = workdir / "checkpoints/2"
  for values in (newest / "arrays/d").iterdir():
    values.write_bytes(values.read_bytes()[:-200])
  before = contents(workdir)
  fails(*train([at, "--steps=3"]), f"checkpoint {newest} is damaged",
        "with --skip_damaged moves it aside and resumes after step 1")
  assert contents(workdir) == before

  left = contents(newest)
  succeeds(*train([at, "--steps=3", "--skip_damaged"]))
  assert contents(workdir / "checkpoints_damaged/2") == left
  # Nothing was evaluated (--eval_every=0), not even the first model.
  assert [row["step"] for row in writer.read(workdir)] == [1, 2, 3]
  assert not any(name.startswith("eval") for name in writer.read(workdir)[-1])
  again, = train([at, "--steps=3"])
  succeeds(again)
  assert f"{workdir} is finished: all 3 steps were done before" in again.err


def test_a_signal_before_anything_was_measured_is_no_error(train, tmp_path):
  """Nor is it success: the status says that the same command goes on."""
  (call,) = train([f"--workdir={tmp_path / 'run'}", "--eval_every=1"],
                  module="tests.experiments.stopped")
  assert call.status == 75 and "Traceback" not in call.err, call.err
  assert "report" not in call.out
  assert "stopped, the evaluation of the first model is lost" in call.err


def test_other_data_in_a_used_workdir_is_refused(train, questions, tmp_path):
  """By its contents, wherever it lies; and each message says what to do."""
  copy, other = tmp_path / "copy", tmp_path / "other"
  for folder in (copy, other):
    shutil.copytree(questions, folder)
  rows = (other / "train.jsonl").read_text()
  (other / "train.jsonl").write_text(rows.replace("is 7 + 2", "is 7 and 2"))
  held = tmp_path / "held"
  shutil.copytree(questions, held)
  text = (held / "test.jsonl").read_text()
  (held / "test.jsonl").write_text(text.replace("#### 3", "#### 4"))
  line = [f"--workdir={tmp_path / 'run'}", "--steps=1", "--eval_every=1"]
  first, same, trained, evaluated, split, rules = train(
      line, [*line, f"--data_dir={copy}"], [*line, f"--data_dir={other}"],
      [*line, f"--data_dir={held}"], [*line, "--eval_split=test[:3]"],
      [*line, "--eval.samples=3"])
  succeeds(first)
  assert "is finished: all 1 steps" in same.err and same.status == 0
  fails(trained, "data_digest.gsm8k: ", "the questions of --data are not those")
  assert "evaluation" not in trained.err
  fails(evaluated, "evaluation.digest: ", "evaluation have changed")
  assert "data_digest" not in evaluated.err
  fails(split, "evaluation.split: 'test[:2]' -> 'test[:3]'")
  fails(rules, "evaluation.samples: 2 -> 3", "must be comparable")


def test_two_commands_do_not_share_a_folder(train, tmp_path):
  workdir = tmp_path / "run"
  line = [f"--workdir={workdir}", "--steps=1"]
  succeeds(*train(line))
  held = lock.Lock(workdir)  # of this process
  busy, = train(line)
  held.release()
  assert busy.status == 75 and "Traceback" not in busy.err
  assert f"error: {workdir} is in use by process {os.getpid()} on" in busy.err
  succeeds(*train(line))


@pytest.fixture
def disk(tmp_path):
  """An empty file system of 24 MB, and a way to mount it again."""
  folder = tmp_path / "disk"
  folder.mkdir()
  mounted = subprocess.run(
      ["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", folder],
      capture_output=True)
  if mounted.returncode:
    pytest.skip("may not mount a file system here")
  yield folder
  subprocess.run(["umount", folder], check=False)


def test_a_full_and_a_read_only_disk_lose_nothing(train, disk):
  workdir = disk / "run"
  at = f"--workdir={workdir}"
  succeeds(*train([at, "--steps=1"]))
  checkpoint = contents(workdir / "checkpoints/1")

  with open(disk / "filler", "wb") as filler:
    free = shutil.disk_usage(disk).free - 2**15
    filler.write(b"\0" * free)
  fails(*train([at, "--steps=3"]), "could not write checkpoint",
        "No space left on device", "the earlier checkpoints ([1]) are intact")
  assert contents(workdir / "checkpoints/1") == checkpoint
  (disk / "filler").unlink()

  subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
  again, anew = train([at, "--steps=3"],
                      [f"--workdir={disk / 'new'}", "--steps=1"])
  fails(again, "Read-only file system", str(workdir))
  fails(anew, "Read-only file system", str(disk / "new"))
  subprocess.run(["mount", "-o", "remount,rw", disk], check=True)

  succeeds(*train([at, "--steps=2"]))
  assert [row["step"] for row in writer.read(workdir)] == [1, 2]


def test_gradients_that_stay_non_finite_stop_it(train, tmp_path):
  policy = cases.policy(cases.DENSE)
  embed = policy.params["embed"].at[0, 0].set(np.nan)
  weights.save(tmp_path / "x.safetensors", cases.DENSE,
               policy.params | {"embed": embed}, policy.router_bias_LE)
  (call,) = train([f"--workdir={tmp_path / 'run'}", "--steps=9",
                   f"--init=file:{tmp_path / 'x.safetensors'}"])
  fails(call, "steps 1, 2, 3 were skipped in a row", "lower the learning rate")


def test_bad_flags_of_training(train, tmp_path):
  at = f"--workdir={tmp_path / 'run'}"
  bad = {
      "Unknown command line flag 'no_such'": ["--no_such=1"],
      "flag --steps=many": ["--steps=many"],
      "--workdir is empty; give a folder": ["--workdir="],
      "eval_every=-1 must not be negative": ["--eval_every=-1"],
      "seed=-1 must not be negative": ["--seed=-1"],
      "samples=1 must be at least 2": ["--samples=1"],
      "clip_low=-1.0 must not be negative": ["--policy.clip_low=-1"],
      "driver='tpu': choose mesh or pmap": ["--driver=tpu"],
      "unexpected arguments stray": ["stray"],
      "recipe='r2' is unknown; choose one of dapo": ["--recipe=r2"],
      "loss preset 'ppo' is unknown; choose one of r1-zero": ["--loss=ppo"],
      "--data: 'trivia' is unknown; choose from arith": ["--data=trivia"],
      "has no split 'exam'; it has train": [
          "--eval_split=exam", "--eval_every=1"],
      "needs --data_dir=DIR": ["--data_dir="],
      "gsm8k is neither in /nowhere": ["--data_dir=/nowhere"],
      "template='poem' is unknown": ["--template=poem"],
      "the tokenizer has no chat template": ["--template=chat"],
      "preset 'huge' is unknown; choose one of": ["--init=random:huge"],
      "512 ids, the model's vocabulary only 61": ["--init=random:tiny-dense"],
      "tokenizer /nowhere cannot be read": ["--tokenizer=/nowhere"],
      "dtype='int4'": ["--compute.dtype=int4"],
      "training packs several into a row": ["--compute.packed=false"],
      "none of 32 training prompts fits into the 20": ["--row_length=27"],
      "none of 2 test[:2] prompts fits into the 0 tokens": [
          "--eval.max_new_tokens=256", "--eval_every=1"],
      "row_length is 300 tokens, the model's context is 256": [
          "--row_length=300"],
      "no model gives the reward helpful and safety: give --rewards.helpful": [
          "--rewards.equation=r1-stage2"],
      "no rule gives the reward charm": ["--rewards.weights=charm:1"],
      "equation='r2' is not one of r1-zero": ["--rewards.equation=r2"],
      "code='some' is not one of all, fraction": ["--rewards.code=some"],
      "give every source a weight": ["--data=gsm8k:1,arith:2x"],
      "--data: no_such.py is not a file": ["--data=no_such.py"],
      "has no kind 'poems'": ["--mixture=r1-rl:poems"],
      "no source has prompts of the kind code": ["--mixture=r1-rl:math+code"],
  }
  for message, call in zip(
      bad, train(*([at, *line] for line in bad.values())), strict=True):
    fails(call, message)
    assert "--help" not in call.out + call.err.replace("(--help lists", "")
    assert (call.out + call.err).count("\n") < 30  # no pages of help
  assert not (tmp_path / "run").exists()


def test_evaluation_scores_every_problem_that_fits(
    model_file, questions, cache, tmp_path):
  shared = [f"--init=file:{model_file}", "--data=gsm8k", "--samples=2",
            f"--data_dir={questions}", "--max_rows=6", "--max_new_tokens=8"]
  good, long, split, out, cold = calls(
      "experiments.evaluate",
      [*shared, f"--out={tmp_path / 'a'}", "--split=test"],
      [*shared, f"--out={tmp_path / 'b'}", "--max_new_tokens=250"],
      [*shared, f"--out={tmp_path / 'c'}", "--split=exam"],
      [*shared, f"--out={model_file}"],
      [*shared, f"--out={tmp_path / 'd'}", "--temperature=-1"],
      XDG_CACHE_HOME=str(cache))
  assert "1 problems left out as too long" in succeeds(good)
  result = json.loads((tmp_path / "a/result.json").read_text())
  assert (result["n_prompts"], result["left_out"]) == (3, 1)
  stored = gzip.decompress((tmp_path / "a/generations.jsonl.gz").read_bytes())
  rows = [json.loads(line) for line in stored.split(b"\n") if line]
  assert len({(row["id"], row["sample"]) for row in rows}) == len(rows) == 6
  fails(long, "none of 4 test prompts fits into the 6 tokens")
  fails(split, "has no split 'exam'; it has")
  fails(out, "File exists", str(model_file))
  fails(cold, "temperature=-1.0 must not be negative")


def test_one_question_is_answered_a_longer_one_is_refused(model_file):
  shared = [f"--init=file:{model_file}", "--max_new_tokens=8"]
  question = "--question=What is 2 + 2?"
  reviewed = [*shared, "--risk.reviewer=experiments.world_judge:review"]
  good, same, taken, long = calls(
      "experiments.sample", [*shared, question], [*reviewed, question],
      [*reviewed, question, "--risk.keywords=all"],
      [*shared, "--question=" + "What is 2 + 2? " * 50])
  assert succeeds(good) != "\n"
  # Without a keyword risk control changes nothing; a review that fails does.
  assert succeeds(same) == succeeds(good) + (
      "risk control: 0 of 1 turns reviewed, 0 answers retracted, 0 reviews"
      " failed (closed)\n")
  assert succeeds(taken).startswith("\n[retracted] Sorry, I cannot help")
  assert "1 without a review: no verdict" in succeeds(taken)
  fails(long, "the model's context is 256; shorten it")


def test_a_run_brings_its_tokenizer_and_chats(train, tmp_path):
  """--tokenizer is said once: the workdir keeps it for those who come after."""
  folder = hf_cases.qwen(tmp_path / "model")
  another = hf_cases.llama(tmp_path / "other")
  chat = [f"--workdir={tmp_path / 'run'}", "--template=chat-think"]
  first, other = train([*chat, "--steps=1", f"--tokenizer={folder}"],
                       [*chat, "--steps=2", f"--tokenizer={another}"])
  succeeds(first)
  fails(other, "run/tokenizer is another tokenizer; nothing was changed")
  shutil.rmtree(folder)
  shared = [f"--init=orbax:{tmp_path / 'run'}", "--max_new_tokens=8",
            "--question=What is 2 + 2?"]
  own, r1 = calls("experiments.sample", [*shared, "--template=chat-think"],
                  [*shared, "--template=r1"])
  assert succeeds(own).startswith("<think>\n")
  fails(r1, "the tokenizer has no <｜Assistant｜>")


def test_pretraining_writes_a_base_that_can_be_sampled(tmp_path):
  """base-arith itself, one update; and its bad flags."""
  at = f"--workdir={tmp_path / 'run'}"
  line = [at, "--steps=1", "--rows=1", f"--export={tmp_path}"]
  preset, rows, good, again, other = calls(
      "experiments.pretrain", [at, "--init=random:huge"],
      [at, "--rows=3", "--micro_batches=2"], line, line,
      [*line, f"--workdir={tmp_path / 'other'}"])
  fails(preset, "preset 'huge' is unknown; choose one of")
  fails(rows, "rows=3 do not divide into micro_batches=2")
  assert "base.safetensors" in succeeds(good)
  size = (tmp_path / "base.safetensors").stat().st_size
  assert 100_000 < size <= 5 * 2**20
  assert f"{tmp_path / 'base.safetensors'} is there already" in succeeds(again)
  fails(other, f"{tmp_path / 'base.safetensors'} exists; choose another")


def test_a_tokenizer_that_cannot_be_written(tmp_path):
  none, small = calls(
      "experiments.train_tokenizer", [],
      [f"--out={tmp_path / 'x'}", "--vocab_size=20", "--documents=10"])
  fails(none, "--out")
  fails(small, "no tokenizer with vocab_size=20")


def test_gsm8k_flows_through_the_same_commands(model_file, cache, tmp_path):
  if not GSM8K.exists():
    pytest.skip(f"{GSM8K} is not there")
  shared = [f"--init=file:{model_file}", "--data=gsm8k", f"--data_dir={GSM8K}"]
  (trained,) = calls(
      "experiments.train_grpo",
      [*shared, *TINY, f"--workdir={tmp_path / 'run'}", "--steps=1"],
      XDG_CACHE_HOME=str(cache))
  assert "of 7240 training prompts are left out" in succeeds(trained)
  row = writer.read(tmp_path / "run")[-1]
  assert row["step"] == 1 and row["advantage/invalid_fraction"] == 0
  (evaluated,) = calls(
      "experiments.evaluate",
      [*shared, f"--out={tmp_path / 'eval'}", "--split=test[:4]",
       "--samples=2", "--max_rows=4", "--max_new_tokens=8"],
      XDG_CACHE_HOME=str(cache))
  result = json.loads((tmp_path / "eval/result.json").read_text())
  assert result["n_prompts"] + result["left_out"] == 4
  assert "problems left out" in succeeds(evaluated)
