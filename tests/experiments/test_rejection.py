"""rejection and cold_start as users type them, and bad input."""

import json

from r1jax.data.streams import sft
from tests.experiments.calls import calls
from tests.experiments.named import LOOSE
from tests.experiments.test_commands import fails, succeeds
from tests.stages import cases

# Every even answer is right; questions 4 and 5 have no rule.
TASK = '''
from r1jax.core.prompt import Prompt, ask
from r1jax.rewards.score import Score


def prompts(split):
  return [Prompt(id=i, domain=("math", "general")[i > 3], source="toy",
                 messages=ask(f"What is {i} + 2?"), reference=str(i + 2),
                 verifier="" if i > 3 else "even") for i in range(6)]


def even(prompt, response):
  right = len(response.text) % 2 == 0
  return Score(float(right), True, "even" if right else "odd")


def rewrite(prompt, thought, answer):
  return None if prompt.id == 0 else ("I add them.", answer or "nothing")


def judge(prompt, answer):
  return None if prompt.id == 5 else len(answer) > 0


VERIFIERS = {"even": even}
'''
SIZES = ["--samples=4", "--max_rows=12", "--max_new_tokens=32"]


def test_one_command_samples_once_and_selects_twice(tmp_path):
  """By the shipped base: its answers end, and most of its thoughts are empty.
  """
  task, data = tmp_path / "even_task.py", tmp_path / "data"
  task.write_text(TASK)
  general = tmp_path / "general.jsonl"
  general.write_text('{"prompt": "Hello", "completion": "Hi."}\n')
  shared = [f"--data={task}", *SIZES, f"--workdir={data}"]
  judged = [*shared, f"--judge={task}:judge"]
  none, good, other, *bad = calls(
      "experiments.rejection",
      [*judged, "--max_rate=0"],
      [*judged, *LOOSE, "--keep=1", f"--join={general}"], shared,
      *([*shared, f"--workdir={tmp_path / 'b'}", f"--judge={name}"]
        for name in ("hf:/nowhere", "/nowhere.py:judge", f"{task}:charm",
                     "no_such_module:judge", "gpt")))
  fails(none, "no answer is left to train on", "too easy a question", "wrong",
        "no verdict")
  text = succeeds(good)
  assert "has 6 of 6 questions already" in good.err
  assert "beyond 1 a question" in text and "avg rounds" in text
  fails(other, "was made by another config", "judge")
  for call, message in zip(bad, (
      "/nowhere", "/nowhere.py", "has no function 'charm'", "no_such_module",
      "'gpt' is neither hf:DIR"), strict=True):
    fails(call, message)
  assert not (tmp_path / "b").exists()
  found = json.loads((data / "report.json").read_text())["answers"]
  assert found["general"]["no verdict"] == 4 and found["general"]["kept"] == 1
  rows = sft.load([data / "sft.jsonl"], cases.tokenizer(), "r1-zero", 256)
  assert rows.sources == {"toy"} and not rows.malformed
  assert len(rows.examples) == 1 + sum(f["kept"] for f in found.values())

  cold, = calls("experiments.cold_start", [
      f"--data={task}", *SIZES, f"--workdir={tmp_path / 'cold'}", *LOOSE,
      f"--rewriter={task}:rewrite"])
  assert "rewritten" in succeeds(cold) and "no rewrite" in cold.out
  stored = json.loads((tmp_path / "cold/report.json").read_text())
  assert stored["samples"]["general"]["no rule, no judge"] == 8
