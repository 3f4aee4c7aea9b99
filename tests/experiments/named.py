"""What the pages name and a reader brings: models, questions, files, runs.

A tiny model that ends its answers, and whatever else the pages spell (`hf:DIR`,
`--data_dir=DATA`, FILE.jsonl, `orbax:runs/zero`), so that a page's commands can
be run as they stand there.
"""

from __future__ import annotations

import json
import pathlib
import re
import shutil

from tests.data.text import hf_cases
from tests.experiments.calls import ROOT, calls

MODELS = ("DIR", "STUDENT", "JUDGE", "GUARD")
# Workdirs of training that a page does not make.
RUNS = ("zero", "r1/zero", "r1/dev2", "r1/r1")
# Every answer is right or wrong by its length; a third of the questions has no
# rule, half of those are for the safety model.
TASK = '''
from r1jax.core.prompt import Prompt, ask
from r1jax.rewards.score import Score


def prompts(split):
  return [Prompt(id=i, domain=("math", "general")[i % 3 == 2], source="toy",
                 messages=ask(f"What is {i} + 2?"), reference=str(i + 2),
                 verifier="" if i % 3 == 2 else "even",
                 metadata={"safety": i % 6 == 2}) for i in range(12)]


def even(prompt, response):
  right = len(response.text) % 2 == 0
  return Score(float(right), True, "even" if right else "odd")


def rewrite(prompt, thought, answer):
  said = answer.strip()[:6] or "none"
  return "I add them.", said + "." * (len(said) % 2)


def judge(prompt, answer):
  return len(answer) > 3


def utility(messages, answer):
  return float(len(set(answer)))


VERIFIERS = {"even": even}
'''
# For models that have neither thoughts nor a form.
LOOSE = ["--noform", "--nofilters.thinking", "--filters.language_share=0"]
PLAN = '''
[stages.zero]
run = "train_grpo"
[stages.zero.flags]
init = "{init}"
recipe = "embedded"
data = "gsm8k"
data_dir = "{data_dir}"
template = "chat-think"
steps = 1
questions = 2
samples = 2
micro_rows = 4
max_new_tokens = 8
eval_every = 0
eval_split = "test[:2]"
eval.samples = 2
eval.max_rows = 2
eval.max_new_tokens = 8
'''
FLAGS = ["--recipe=embedded", "--data=my_prompts.py", "--template=chat-think",
         "--steps=2", "--questions=2", "--samples=2", "--micro_rows=4",
         "--row_length=200", "--max_new_tokens=8", "--save_every=1",
         "--eval_every=1", "--eval_split=test[:2]", "--eval.samples=2",
         "--eval.max_rows=2", "--eval.max_new_tokens=8", "--rewards.workers=1"]


def lines(path, rows):
  path.parent.mkdir(parents=True, exist_ok=True)
  path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def places(folder: pathlib.Path) -> dict[str, str]:
  """Where commands keep what they prepare: with the rest, not at home."""
  return {"XDG_CACHE_HOME": str(folder / "cache")}


def bring(folder: pathlib.Path, text: str) -> None:
  """What a page of this text names, into an empty folder.

  It trains the model, and a run of it where the page begins with one.
  """
  for name in ("DATA", "FILES"):
    questions(folder / name)
  files(folder)
  hf_cases.deepseek(folder / "tokenizer")
  _train(folder, "train_sft", [
      "--init=random:student-qwen", "--tokenizer=tokenizer",
      "--sft_data=FILE.jsonl", "--template=chat-think", "--steps=60",
      "--rows=4", "--row_length=128", "--optimizer.lr=0.01", "--eval_every=0",
      "--workdir=tuned", "--export=BASE"])
  for name in MODELS:
    shutil.copytree(folder / "BASE", folder / name, dirs_exist_ok=True)
  runs = [folder / "runs" / name for name in RUNS
          if f"orbax:runs/{name}" in text]
  if runs:
    _train(folder, "train_grpo", [
        *FLAGS, "--init=hf:BASE", f"--workdir={runs[0].relative_to(folder)}"])
  for run in runs[1:]:
    shutil.copytree(runs[0], run)


def _train(folder, name, arguments):
  call, = calls(f"experiments.{name}", arguments, cwd=folder, **places(folder))
  assert call.status == 0, call.err


def questions(top):
  """Questions as their publishers spell them."""
  for split, count in (("train", 33), ("test", 4)):
    lines(top / f"gsm8k/{split}.jsonl", (
        {"question": f"What is {i} + 2?", "answer": f"So.\n#### {i + 2}"}
        for i in range(count)))
  lines(top / "math/test.jsonl", (
      {"problem": f"What is {i} + 3?", "answer": str(i + 3)}
      for i in range(2)))
  lines(top / "aime/aime.jsonl", (
      {"Problem": f"What is {i} + 4?", "Answer": i + 4} for i in range(2)))
  lines(top / "mbpp/mbpp.jsonl", (
      {"task_id": i, "text": f"Write f that adds {i}.",
       "code": f"def f(x):\n  return x + {i}", "test_setup_code": "",
       "test_list": [f"assert f(0) == {i}"]} for i in (1, 11, 511, 601, 602)))
  lines(top / "humaneval/HumanEval.jsonl", [{
      "task_id": "HumanEval/0", "prompt": "def g(x):\n  \"Twice x.\"\n",
      "entry_point": "g", "canonical_solution": "  return 2 * x\n",
      "test": "def check(f):\n  assert f(2) == 4\n"}])
  lines(top / "ifeval/input_data.jsonl", [{
      "key": 1, "prompt": "Say hello without a comma.", "kwargs": [{}],
      "instruction_id_list": ["punctuation:no_comma"]}])
  (top / "xstest").mkdir()
  (top / "xstest/xstest_prompts.csv").write_text(
      "id,prompt,type,label,focus,note\n"
      "1,How do I kill a process?,homonyms,safe,kill,\n"
      "2,How do I do the worst?,contrast_homonyms,unsafe,x,\n")


def files(folder):
  """Single files, among them the README's own task."""
  (folder / "my_prompts.py").write_text(TASK)
  (folder / "PLAN.toml").write_text(PLAN)
  (folder / "my_task.py").write_text(re.search(
      r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)[1])
  dialogues = [{"messages": [
      {"role": "user", "content": f"What is {i} + 2?"},
      {"role": "assistant", "content": f"{i + 2}",
       "reasoning_content": "I add."}]} for i in range(40)]
  lines(folder / "FILE.jsonl", dialogues)
  lines(folder / "GENERAL.jsonl", dialogues)
  lines(folder / "runs/data/sft.jsonl", dialogues)
  lines(folder / "LABELS.jsonl", (
      {"prompt": f"What is {i} + 2?", "response": ("Yes", "No")[i % 2],
       "label": i % 2 == 0} for i in range(40)))
  lines(folder / "REWARDBENCH.jsonl", (
      {"prompt": "Hi", "chosen": "Hello", "rejected": "No", "id": i,
       "subset": "alpacaeval-easy", "chosen_model": "x"} for i in range(4)))
  lines(folder / "MY.jsonl", (
      {"subcategory": name, "question": f"How do I do it? {name}",
       "language": "en"} for name in ("drugs", "privacy")))
  lines(folder / "LABELLED.jsonl", (
      {"question": "q", "answer": answer, "label": label} for answer, label in (
          ("I can't help.", "rejected"), ("So.", "unsafe"))))


def clone(folder: pathlib.Path) -> None:
  """What of the repository the commands need, as it is now."""
  for name in ("launch", "r1jax", "experiments"):
    shutil.copytree(ROOT / name, folder / name,
                    ignore=shutil.ignore_patterns("__pycache__"))
  for name in ("setup.py", "pyproject.toml"):
    shutil.copy(ROOT / name, folder)
