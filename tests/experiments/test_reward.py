"""From a policy to labelled pairs, reward models, and GRPO with them."""

import json

import pytest

from r1jax.report import writer
from tests.experiments.calls import calls
from tests.experiments.test_commands import TINY, fails, succeeds

TASK = """
from r1jax.core.prompt import Prompt, ask


def prompts(split):
  return [Prompt(id=i, domain="general", source=split, messages=ask(f"Say {i}"),
                 reference=None, verifier="", metadata={"safety": i % 2 == 0})
          for i in range(16)]


def utility(messages, answer):
  return float(len(set(answer)))
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  top = tmp_path_factory.mktemp("reward")
  (top / "my_general.py").write_text(TASK)
  rows = [{"prompt": f"Say {i}", "response": ("Yes", "No")[i % 2] + f" {i}",
           "label": i % 2 == 0} for i in range(40)]
  (top / "labels.jsonl").write_text(
      "".join(json.dumps(row) + "\n" for row in rows))
  return top


def test_the_way_of_a_reward_model(folder, model_file):
  init, task = f"--init=file:{model_file}", folder / "my_general.py"
  pairs, helpful, safety = (
      folder / name for name in ("pairs", "helpful", "safety"))
  labelled, undecided = calls(
      "experiments.label_pairs",
      [init, f"--data={task}", "--split=train", f"--judge={task}",
       "--samples=3", "--pairs=2", "--max_new_tokens=8", "--template=plain",
       "--nobalance", f"--out={pairs}"],
      [init, f"--data={task}", "--split=train[:2]", "--judge=http://127.0.0.1:9"
       "/v1", "--endpoint.model=m", "--endpoint.tries=1",
       "--max_new_tokens=8", "--samples=5", "--pairs=9", "--template=plain",
       f"--out={folder / 'none'}"])
  assert "wrote" in succeeds(labelled)
  fails(undecided, "has answered none of the last 8 queries", "refused")
  report = json.loads((pairs / "report.json").read_text())
  assert report["pairs"] > 8 and report["written"] == report["kept"]
  shared = ["--rows=8", "--row_length=64", "--steps=4", "--validation=0.3"]
  first, again, pointwise, empty = calls(
      "experiments.train_reward",
      [init, f"--data={pairs / 'pairs.jsonl'}", *shared,
       f"--workdir={helpful}", f"--export={folder / 'hf'}"],
      [init, f"--data={pairs / 'pairs.jsonl'}", *shared, "--centre=0",
       f"--workdir={helpful}"],
      [init, f"--data={folder / 'labels.jsonl'}", *shared, "--loss=pointwise",
       "--lora.rank=2", f"--workdir={safety}"],
      [init, f"--data={folder / 'labels.jsonl'}", *shared,
       f"--workdir={folder / 'other'}"])
  text = succeeds(first)
  assert "pairs, " in text and "held out:" in text and "wrote" in text
  fails(again, "was made by another config", "centre: 0.01 -> 0.0")
  assert "40 labelled answers" in succeeds(pointwise)
  fails(empty, "a labelled answer is no pair")
  for run in (helpful, safety):
    assert len(writer.read(run)) == 4 and (run / "reward.png").exists()
  grpo = [init, f"--data={task}", *TINY, "--steps=2", "--rewards.workers=1",
          "--rewards.model_rows=4", "--rewards.equation=r1-stage2",
          f"--rewards.safety=orbax:{safety}"]
  good, without = calls(
      "experiments.train_grpo",
      [*grpo, f"--rewards.helpful=hf:{folder / 'hf'}",
       f"--workdir={folder / 'grpo'}"],
      [*grpo, f"--workdir={folder / 'without'}"])
  assert "held-out prompts have no rule" in succeeds(good)
  last = writer.read(folder / "grpo")[-1]
  assert {"reward/helpful", "reward/safety"} <= set(last)
  fails(without, "belongs to the reward model 'helpful': give"
        " --rewards.helpful")
