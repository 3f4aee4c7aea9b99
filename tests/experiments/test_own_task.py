"""The README's own task, run as it stands there."""

import gzip
import json
import pathlib
import re

import pytest

from r1jax.report import writer
from tests.experiments.calls import calls

README = pathlib.Path(__file__).parents[2] / "README.md"
SIZES = ["--recipe=embedded", "--steps=1", "--questions=2", "--samples=2",
         "--micro_rows=4", "--row_length=96", "--max_new_tokens=8",
         "--save_every=1", "--eval_every=0", "--eval.samples=2",
         "--eval.max_rows=6", "--eval.max_new_tokens=8",
         "--eval_split=test[:2]"]


def blocks():
  """(program, command) of the section "Add your own task"."""
  section = README.read_text().split("## Add your own task")[1]
  program = re.search(r"```python\n(.*?)```", section, re.DOTALL)[1]
  command = re.search(
      r"python -m (experiments\.train_grpo) (.*)", section)
  return program, command[1], command[2].split()


def test_it_is_short():
  program, _, _ = blocks()
  assert len([x for x in program.splitlines() if x.strip()]) <= 30


@pytest.mark.parametrize("broken,message", [
    ("", None), ("prompts", "no function prompts"),
    ("VERIFIERS", "verifier='last_digit'")])
def test_as_written(model_file, cache, tmp_path, broken, message):
  program, module, arguments = blocks()
  if broken:
    program = re.sub(rf"\b{broken}\b", "other", program)
  (tmp_path / "my_task.py").write_text(program)
  arguments = [
      x.replace("my_task.py", str(tmp_path / "my_task.py"))
      .replace("runs/", f"{tmp_path}/runs/") for x in arguments]
  (call,) = calls(module, [*arguments, *SIZES, f"--init=file:{model_file}"],
                  XDG_CACHE_HOME=str(cache))
  if message:
    assert call.status and message in call.err
    assert "Traceback" not in call.err
    return
  assert call.status == 0, call.err
  workdir = tmp_path / "runs" / "my_task"
  assert writer.read(workdir)[-1]["reward/accuracy"] == 0
  lines = gzip.decompress(
      (workdir / "rollouts" / "step_000001.jsonl.gz").read_bytes())
  rows = [json.loads(line) for line in lines.splitlines()]
  assert [row["source"] for row in rows] == ["last digit"] * 4
  assert all("last digit of" in row["prompt"] for row in rows)
