"""Files that transformers writes come back byte by byte."""

import json

import numpy as np
import pytest

from r1jax.checkpoint import hf_config, hf_io
from r1jax.models.compute import Compute
from r1jax.models.model import build
from tests.checkpoint import hf_cases

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
pytestmark = pytest.mark.torch

_SHARED = dict(
    vocab_size=61, hidden_size=24, intermediate_size=40, num_hidden_layers=3,
    max_position_embeddings=64)
_MLA = _SHARED | dict(
    num_attention_heads=6, num_key_value_heads=6, n_routed_experts=8,
    num_experts_per_tok=3, moe_intermediate_size=9, kv_lora_rank=11,
    q_lora_rank=14, qk_rope_head_dim=4, qk_nope_head_dim=10, v_head_dim=7,
    n_group=4, topk_group=2, first_k_dense_replace=1)
_GQA = _SHARED | dict(num_attention_heads=6, num_key_value_heads=2)
FAMILIES = {
    # transformers has no MTP module, though its config says 1 by default.
    "deepseek_v3": _MLA | dict(
        n_shared_experts=1, num_nextn_predict_layers=0),
    "deepseek_v2": _MLA | dict(
        n_shared_experts=2, topk_method="group_limited_greedy"),
    "qwen2": _GQA | dict(tie_word_embeddings=True),
    "qwen3": _GQA | dict(head_dim=8),
    "llama": _GQA | dict(attention_bias=True)}
BIAS = "e_score_correction_bias"


@pytest.mark.parametrize("family", FAMILIES)
def test_import_and_export_are_byte_equal(family, tmp_path):
  torch.manual_seed(0)
  theirs = transformers.AutoModelForCausalLM.from_config(
      transformers.AutoConfig.for_model(family, **FAMILIES[family]),
      dtype=torch.bfloat16).to(torch.bfloat16)  # some keep the router wider
  theirs.save_pretrained(tmp_path / "in", max_shard_size="20KB")
  assert len(list((tmp_path / "in").glob("*.safetensors"))) > 1
  fields = json.loads((tmp_path / "in/config.json").read_text())
  cfg = hf_config.from_hf(fields)
  params, bias = hf_io.load(
      tmp_path / "in", build(cfg, Compute(param_dtype="bfloat16")))
  hf_io.save(tmp_path / "out", cfg, params, bias, fields=fields)
  expected = hf_cases.read(tmp_path / "in")
  found = hf_cases.read(tmp_path / "out")
  assert set(found) == set(expected)
  for name in expected:
    if name.endswith(BIAS):  # float32 in what DeepSeek publishes and we write
      assert found[name][0] == "F32"
      wide = np.frombuffer(expected[name][2], hf_cases.BF16)
      np.testing.assert_array_equal(
          np.frombuffer(found[name][2], np.float32), wide.astype(np.float32))
    else:
      assert found[name] == expected[name], name
