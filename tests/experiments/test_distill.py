"""distill as users type it, and bad input."""

import json

from r1jax.report import writer
from tests.data.text import hf_cases
from tests.experiments.calls import calls
from tests.experiments.test_commands import TINY, fails, succeeds


def test_a_student_follows_a_teacher(model_file, questions, cache, tmp_path):
  """A teacher that is changed, missing, or of another tokenizer is an error."""
  shared = [*TINY, f"--init=file:{model_file}", "--data=gsm8k",
            f"--data_dir={questions}", f"--workdir={tmp_path / 'run'}"]
  good, other, none, tokens, off = calls(
      "experiments.distill",
      [*shared, f"--teacher=file:{model_file}", "--steps=1"],
      [*shared, "--teacher=random:base-arith", "--steps=2"], shared,
      [*shared, f"--teacher=file:{model_file}",
       f"--tokenizer={hf_cases.llama(tmp_path / 'other')}"],
      [*shared, f"--teacher=file:{model_file}", "--distill.factor=0"],
      XDG_CACHE_HOME=str(cache))
  succeeds(good)
  row = writer.read(tmp_path / "run")[-1]
  # Its own teacher: there is nothing to learn.
  assert row["step"] == 1 and abs(row["policy/teacher_kl"]) < 1e-5
  config = json.loads((tmp_path / "run/config.json").read_text())["config"]
  assert config["teacher"]["init"] == f"file:{model_file}"
  assert config["distill"]["reward"] == 0 and config["distill"]["factor"] == 1
  fails(other, "was made by another config", "teacher.parameters")
  fails(none, "--teacher=orbax:WORKDIR or hf:DIR must be given")
  fails(tokens, "the tokenizers differ")
  fails(off, "they need a teacher")
