"""A tiny Qwen3 or Llama folder, and texts that make tokens hard to split."""

import torch
import transformers

from tests.data.text import hf_cases

SIZES = dict(
    hidden_size=24, intermediate_size=40, num_hidden_layers=2,
    num_attention_heads=6, num_key_value_heads=2, head_dim=8,
    max_position_embeddings=256, initializer_range=0.2)
FAMILIES = {"qwen": "qwen3", "llama": "llama"}

PAIRS = [
    ("What is 3 + 4?", " 7"), ("What is 3 + 4? ", "7"), ("", "The answer"),
    ("Answer:", " it is a long sentence with many words, and 12345."),
    ("  ", "x"), ("3 4 5" * 60, " 6"), ("Q: 你好", "，世界")]
LONG = "one two three four five six seven " * 80  # more than the context


def folder(path, name):
  """(folder, the model of transformers in it)."""
  hf_cases.FAMILIES[name](path)
  torch.manual_seed(1)
  tokenizer = transformers.PreTrainedTokenizerFast.from_pretrained(path)
  model = transformers.AutoModelForCausalLM.from_config(
      transformers.AutoConfig.for_model(
          FAMILIES[name], **SIZES, vocab_size=len(tokenizer),
          tie_word_embeddings=False), dtype=torch.float32).eval()
  model.save_pretrained(path)
  hf_cases.FAMILIES[name](path)  # its generation_config once more
  return path, model
