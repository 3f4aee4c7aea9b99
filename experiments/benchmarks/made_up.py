"""Hugging Face folders with published configs, or others, and made-up weights.
"""

from __future__ import annotations

import json
import os
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import ml_dtypes
import numpy as np
import tokenizers

from r1jax.checkpoint import hf_config, hf_files, hf_names, trees
from r1jax.core.config import check
from r1jax.models.config import ModelConfig
from r1jax.models.model import build

_QWEN = {
    "model_type": "qwen2", "hidden_act": "silu", "rms_norm_eps": 1e-6,
    "rope_theta": 1e6, "tie_word_embeddings": True, "vocab_size": 151936,
    "use_sliding_window": False, "max_window_layers": 28,
    "bos_token_id": 151643, "eos_token_id": 151643}
# config.json as published, without fields that do not matter here.
CONFIGS = {
    "llama-1b": {  # Llama-3.2-1B
        "model_type": "llama", "hidden_act": "silu", "hidden_size": 2048,
        "intermediate_size": 8192, "num_hidden_layers": 16,
        "num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 64,
        "max_position_embeddings": 131072, "rms_norm_eps": 1e-5,
        "rope_theta": 5e5, "tie_word_embeddings": True, "vocab_size": 128256,
        "rope_scaling": {
            "rope_type": "llama3", "factor": 32.0, "low_freq_factor": 1.0,
            "high_freq_factor": 4.0, "original_max_position_embeddings": 8192},
        "bos_token_id": 128000, "eos_token_id": 128001},
    "qwen-1.5b": _QWEN | {  # Qwen2.5-1.5B
        "hidden_size": 1536, "intermediate_size": 8960, "num_hidden_layers": 28,
        "num_attention_heads": 12, "num_key_value_heads": 2,
        "max_position_embeddings": 131072},
    "qwen-0.5b": _QWEN | {  # Qwen2.5-0.5B
        "hidden_size": 896, "intermediate_size": 4864, "num_hidden_layers": 24,
        "num_attention_heads": 14, "num_key_value_heads": 2,
        "max_position_embeddings": 32768},
    "tiny": _QWEN | {
        "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2,
        "max_position_embeddings": 2048, "vocab_size": 1024,
        "bos_token_id": 1023, "eos_token_id": 1023},
}


def model(folder: pathlib.Path, fields: dict) -> None:
  """Writes a Hugging Face folder with made-up weights."""
  folder.mkdir(parents=True)
  cfg = hf_config.from_hf(fields)
  weights(folder, cfg, 3, fields)
  tokenizer(fields["vocab_size"], fields["eos_token_id"], folder)


def tokenizer(size: int, end: int, folder: pathlib.Path) -> None:
  """Writes a byte-level BPE tokenizer of `size` ids, with <end> as id `end`."""
  names = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
  vocab = {name: number for number, name in enumerate(names)}
  merges = []
  for pair in _pairs(names):
    if len(vocab) == end:
      break
    vocab["".join(pair)] = len(vocab)
    merges.append(pair)
  made = tokenizers.Tokenizer(tokenizers.models.BPE(vocab, merges))
  made.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(
      add_prefix_space=False)
  made.decoder = tokenizers.decoders.ByteLevel()
  made.add_special_tokens(["<end>"])
  made.save(os.fspath(folder / "tokenizer.json"))
  (folder / "tokenizer_config.json").write_text(
      json.dumps({"eos_token": "<end>"}))
  check(made.get_vocab_size() <= size, "the tokenizer has too many ids")


def _pairs(names: Sequence[str]) -> Iterator[tuple[str, str]]:
  """Pairs of tokens to merge: two characters, then three, ..."""
  longer = list(names)
  while True:
    longer, shorter = [], longer
    for first in shorter:
      for last in names:
        longer.append(first + last)
        yield first, last


def weights(folder: pathlib.Path, cfg: ModelConfig, files: int,
            fields: dict[str, Any] | None = None) -> None:
  """Writes a checkpoint tensor by tensor, never all of them in memory.

  Args:
    folder: an existing folder.
    cfg: the model.
    files: number of files.
    fields: config.json; by default a Qwen2's or DeepSeek-V3's.
  """
  model = build(cfg)
  leaves = trees.flatten(jax.eval_shape(model.init, jax.random.key(0)))
  leaves[hf_names.ROUTER_BIAS] = jax.eval_shape(model.init_router_bias)
  dtype = np.dtype(ml_dtypes.bfloat16)
  plan = [hf_files.Planned(entry.name(at), dtype,
                           entry.shape(leaves[entry.path].shape))
          for entry in hf_names.table(cfg) if entry.written
          for at in entry.places()]
  noise = cfg.init_std * np.random.default_rng(0).standard_normal(999_983)
  noise = noise.astype(dtype)

  def tensors() -> Iterator[np.ndarray]:
    for tensor in plan:
      yield np.resize(noise, tensor.shape)

  size = sum(tensor.nbytes for tensor in plan)
  hf_files.write(folder, hf_files.shards(plan, size / files * 1.01), tensors())
  family = "deepseek_v3" if cfg.n_experts else "qwen2"
  fields = fields or hf_config.to_hf(cfg, family, bos_id=0, eos_ids=(1,))
  hf_files.write_extras(folder, fields, {})
