"""A model that transformers wrote is trained here and generates there."""

import json

import numpy as np
import pytest

from r1jax.report import writer
from tests.data.text import hf_cases
from tests.experiments.calls import calls
from tests.experiments.test_commands import succeeds

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

SIZES = dict(
    hidden_size=24, intermediate_size=40, num_hidden_layers=2,
    num_attention_heads=6, num_key_value_heads=2, max_position_embeddings=512,
    initializer_range=0.2)
MODELS = {
    "qwen": ("qwen2", dict(tie_word_embeddings=True)),
    "llama": ("llama", dict(head_dim=8, tie_word_embeddings=False)),
}
NEW = 12


@pytest.fixture(scope="module", params=MODELS)
def trained(request, questions, cache, tmp_path_factory):
  """Folders: what transformers wrote, what SFT and GRPO exported."""
  folder = tmp_path_factory.mktemp(request.param)
  first = hf_cases.FAMILIES[request.param](folder / "first")
  kind, fields = MODELS[request.param]
  torch.manual_seed(1)  # one whose answers are not empty
  transformers.AutoModelForCausalLM.from_config(
      transformers.AutoConfig.for_model(
          kind, **SIZES, **fields, vocab_size=len(
              transformers.PreTrainedTokenizerFast.from_pretrained(first)))
  ).save_pretrained(first)
  hf_cases.FAMILIES[request.param](first)  # its generation_config once more
  rows = [{"messages": [
      {"role": "user", "content": f"What is {i} + 2?"},
      {"role": "assistant", "content": f"{i + 2}"}]} for i in range(12)]
  data = folder / "rows.jsonl"
  data.write_text("".join(json.dumps(row) + "\n" for row in rows))
  shared = [f"--init=hf:{first}", "--template=chat", "--optimizer.lr=0.003"]
  sft, = calls("experiments.train_sft", [
      *shared, f"--sft_data={data}", "--rows=2", "--steps=3", "--eval_every=0",
      f"--workdir={folder / 'sft_run'}", f"--export={folder / 'sft'}"])
  grpo, = calls("experiments.train_grpo", [
      *shared, "--recipe=embedded", "--data=gsm8k", f"--data_dir={questions}",
      "--steps=1",
      "--questions=2", "--samples=4", "--micro_rows=8", "--eval_every=0",
      f"--max_new_tokens={NEW}", "--eval_split=validation",
      "--eval.samples=2", f"--eval.max_new_tokens={NEW}", "--policy.kl_beta=0",
      f"--workdir={folder / 'grpo_run'}", f"--export={folder / 'grpo'}"],
      XDG_CACHE_HOME=str(cache))
  succeeds(sft)
  succeeds(grpo)
  return folder


@pytest.mark.parametrize("stage", ["sft", "grpo"])
def test_transformers_generates_from_what_was_trained(trained, stage):
  out = trained / stage
  rows = writer.read(trained / f"{stage}_run")
  assert rows[-1]["skipped"] == 0
  model = transformers.AutoModelForCausalLM.from_pretrained(
      out, dtype=torch.float32)
  before = transformers.AutoModelForCausalLM.from_pretrained(
      trained / "first", dtype=torch.float32)
  gap = (model.lm_head.weight - before.lm_head.weight).abs().max()
  if stage == "sft":  # a random model earns no reward that could move it
    assert gap > 1e-3
  # AutoTokenizer would take Qwen2's own class, which numbers the control
  # tokens anew where, as in these small files, added_tokens_decoder is empty.
  tokenizer = transformers.PreTrainedTokenizerFast.from_pretrained(out)
  ids = tokenizer.apply_chat_template(
      [{"role": "user", "content": "What is 3 + 2?"}], return_tensors="pt",
      add_generation_prompt=True, return_dict=True)
  found = model.generate(**ids, do_sample=False, max_new_tokens=NEW,
                         pad_token_id=0)[0, ids["input_ids"].shape[1]:]
  theirs = tokenizer.decode(found, skip_special_tokens=True)
  ours, = calls("experiments.sample", [
      f"--init=hf:{out}", f"--max_new_tokens={NEW}", "--template=chat",
      "--question=What is 3 + 2?", "--temperature=0"])
  assert theirs.strip() and theirs.strip() == succeeds(ours).strip()
  ends = set(np.atleast_1d(model.generation_config.eos_token_id).tolist())
  # The tokenizer's own end is named, whatever the first file said.
  assert tokenizer.eos_token_id in ends and len(ends) == 2
