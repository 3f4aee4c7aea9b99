"""R1's stages on a model that transformers wrote, as users type them.

A random Qwen2 whose tokenizer is its own goes through cold start, supervised
fine-tuning, preference labels, both reward models, reinforcement with them,
rejection sampling and distillation, and comes out for transformers.
"""

import json

import pytest

from r1jax.report import writer
from tests.data.text import hf_cases
from tests.experiments.calls import calls
from tests.experiments.named import LOOSE, TASK
from tests.experiments.test_commands import TINY, fails, succeeds
from tests.experiments.test_open_weights import MODELS, SIZES

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

SAMPLES = ["--samples=4", "--max_rows=16", "--max_new_tokens=64",
           "--rewards.format=think", "--rewards.workers=1"]
THOUGHT = "I add them.\n</think>"


@pytest.fixture(scope="module")
def top(tmp_path_factory):
  """A folder with the model, the task and labelled answers."""
  folder = tmp_path_factory.mktemp("stages")
  first = hf_cases.qwen(folder / "first")
  kind, fields = MODELS["qwen"]
  torch.manual_seed(1)
  transformers.AutoModelForCausalLM.from_config(
      transformers.AutoConfig.for_model(
          kind, **SIZES, **fields, vocab_size=len(
              transformers.PreTrainedTokenizerFast.from_pretrained(first)))
  ).save_pretrained(first)
  hf_cases.qwen(first)  # its generation_config once more
  (folder / "my_stages.py").write_text(TASK)
  (folder / "labels.jsonl").write_text("".join(json.dumps(
      {"prompt": f"What is {i} + 2?", "response": ("Yes", "No")[i % 2],
       "label": i % 2 == 0}) + "\n" for i in range(40)))
  return folder


@pytest.fixture(scope="module")
def dev1(top):
  """The model's own answers, rewritten, and the model tuned on them."""
  task, out = top / "my_stages.py", top / "cold"
  shared = [f"--init=hf:{top / 'first'}", f"--data={task}", *SAMPLES,
            "--template=chat-think", f"--workdir={out}"]
  strict, cold, other = calls(
      "experiments.cold_start",
      [*shared, f"--rewriter={task}:rewrite"],
      [*shared, *LOOSE, "--keep=4", f"--rewriter={task}:rewrite"],
      [*shared, *LOOSE, "--keep=1", f"--rewriter={task}:rewrite"])
  fails(strict, "there is nothing to rewrite", "other limits")
  assert "rewritten" in succeeds(cold)
  assert "has 12 of 12 questions already" in cold.err  # nothing sampled again
  fails(other, "rewrites was made by another config", "keep: 4 -> 1", "remove")
  rows = [json.loads(x) for x in (out / "sft.jsonl").read_text().splitlines()]
  assert rows and all(THOUGHT in row["messages"][1]["content"] for row in rows)
  tuned, = calls("experiments.train_sft", [
      f"--init=hf:{top / 'first'}", f"--sft_data={out / 'sft.jsonl'}",
      "--template=chat-think", "--rows=4", "--row_length=128", "--steps=80",
      "--eval_every=0", "--optimizer.lr=0.01", f"--workdir={top / 'dev1'}"])
  succeeds(tuned)
  assert writer.read(top / "dev1")[-1]["loss/cross_entropy"] < 0.1
  return top / "dev1"


@pytest.fixture(scope="module")
def rewards(top, dev1, model_file):
  """The reward models; the safety one has the embedded tokenizer."""
  task, pairs = top / "my_stages.py", top / "pairs"
  labelled, undecided, silent = calls(
      "experiments.label_pairs",
      [f"--policies=orbax:{dev1},hf:{top / 'first'}", f"--data={task}",
       "--split=train", f"--judge={task}", "--samples=3", "--pairs=3",
       "--max_new_tokens=24", "--template=chat", "--nobalance",
       f"--workdir={pairs}"],
      [f"--init=orbax:{dev1}", f"--data={task}", "--split=train",
       "--judge=http://127.0.0.1:9/v1", "--endpoint.model=m",
       "--endpoint.tries=1", "--max_new_tokens=8", "--samples=5",
       "--template=chat", f"--workdir={top / 'none'}"],
      # A judge whose context is too short for what it is shown.
      [f"--init=orbax:{dev1}", f"--data={task}", "--split=train",
       f"--judge=hf:{top / 'first'}", "--judge.max_new_tokens=8",
       "--max_new_tokens=8", "--samples=5", "--template=chat",
       f"--workdir={top / 'silent'}"])
  assert "wrote" in succeeds(labelled)
  fails(undecided, "has answered none of the last 8 queries", "refused")
  fails(silent, "there is nothing to write", "have no verdict")
  assert "without an answer: it has more than" in silent.out
  report = json.loads((pairs / "report.json").read_text())
  assert report["pairs"] > 8 and report["written"] == report["kept"]
  shared = ["--rows=8", "--row_length=128", "--steps=3", "--validation=0.3"]
  data = f"--reward_data={pairs / 'pairs.jsonl'}"
  helpful = f"--init=orbax:{dev1}"
  labels = f"--reward_data={top / 'labels.jsonl'}"
  first, again, pointwise, empty = calls(
      "experiments.train_reward",
      [helpful, data, *shared, f"--workdir={top / 'helpful'}",
       f"--export={top / 'helpful_hf'}"],
      [helpful, data, *shared, "--centre=0", f"--workdir={top / 'helpful'}"],
      [f"--init=file:{model_file}", labels, *shared, "--loss=pointwise",
       "--lora.rank=2", f"--workdir={top / 'safety'}"],
      [helpful, labels, *shared, f"--workdir={top / 'other'}"])
  text = succeeds(first)
  assert "pairs, " in text and "held out:" in text and "wrote" in text
  fails(again, "was made by another config", "centre: 0.01 -> 0.0")
  assert "40 labelled answers" in succeeds(pointwise)
  fails(empty, "a labelled answer is not a pair")
  for run in ("helpful", "safety"):
    assert len(writer.read(top / run)) == 3
    assert (top / run / "reward.png").exists()
  return [f"--rewards.helpful=hf:{top / 'helpful_hf'}",
          f"--rewards.safety=orbax:{top / 'safety'}"]


@pytest.fixture(scope="module")
def dev3(top, dev1, rewards):
  """Reinforced, in text that travels to two other tokenizers."""
  shared = [f"--init=orbax:{dev1}", f"--data={top / 'my_stages.py'}", *TINY,
            "--questions=6", "--samples=4", "--micro_rows=8", "--steps=1",
            "--max_new_tokens=56", "--rewards.format=think",
            "--rewards.workers=1", "--rewards.model_rows=4",
            "--rewards.equation=r1-stage2", "--eval_split=test[:3]",
            "--eval_every=1"]
  good, without, policy = calls(
      "experiments.train_grpo",
      [*shared, *rewards, "--template=chat-think", f"--workdir={top / 'dev3'}",
       f"--export={top / 'dev3_hf'}"],
      [*shared, rewards[1], f"--workdir={top / 'without'}"],
      [*shared, f"--rewards.helpful=orbax:{dev1}",
       f"--workdir={top / 'without'}"])
  assert "1 of 3 held-out prompts have no rule" in succeeds(good)
  assert "was trained with the template 'chat-think'" in without.out
  fails(without, "needs the reward model 'helpful': give"
        " --rewards.helpful")
  fails(policy, "is the run of a policy; a reward model is trained by")
  last = writer.read(top / "dev3")[-1]
  assert last["reward/helpful"] != last["reward/safety"]
  assert last["rewards/invalid_fraction"] == 0 and last["skipped"] == 0
  assert last["reward/format"] > 0.5
  return top / "dev3"


def generated(folder):
  """What transformers says greedily."""
  model = transformers.AutoModelForCausalLM.from_pretrained(
      folder, dtype=torch.float32)
  tokenizer = transformers.PreTrainedTokenizerFast.from_pretrained(folder)
  text = tokenizer.apply_chat_template(
      [{"role": "user", "content": "What is 3 + 2?"}], tokenize=False,
      add_generation_prompt=True) + "<think>\n"
  ids = tokenizer(text, return_tensors="pt", add_special_tokens=False)
  out = model.generate(**ids, do_sample=False, max_new_tokens=64,
                       pad_token_id=0)
  return tokenizer.decode(out[0, ids["input_ids"].shape[1]:],
                          skip_special_tokens=True)


def test_what_the_stages_made_is_said_by_transformers(top, dev3):
  assert THOUGHT in generated(top / "dev3_hf")
  assert THOUGHT not in generated(top / "first")


def test_it_makes_data_and_teaches(top, dev3):
  task = top / "my_stages.py"
  data, model = calls(
      "experiments.rejection",
      [f"--init=orbax:{dev3}", f"--data={task}", *SAMPLES,
       f"--judge={task}:judge", f"--workdir={top / 'data'}"],
      [f"--init=orbax:{dev3}", f"--data={task}", *SAMPLES,
       f"--rewards.helpful=orbax:{top / 'helpful'}",
       f"--workdir={top / 'other_data'}"])
  assert "avg rounds" in succeeds(data)
  fails(model, "--rewards.helpful: this command judges by rules")
  rows = (top / "data/sft.jsonl").read_text().splitlines()
  domains = [json.loads(row)["domain"] for row in rows]
  assert set(domains) == {"math", "general"}
  student, = calls("experiments.distill", [
      f"--init=hf:{top / 'first'}", f"--teacher=orbax:{dev3}",
      f"--data={task}", *TINY, "--steps=1", "--template=chat-think",
      "--rewards.workers=1", f"--workdir={top / 'student'}",
      f"--export={top / 'student_hf'}"])
  assert "wrote" in succeeds(student)
  assert writer.read(top / "student")[-1]["policy/teacher_kl"] > 1
  assert generated(top / "student_hf").strip()
