"""config.json: published files, round trips, and what is refused."""

import dataclasses
import json
import math

import pytest

from r1jax.checkpoint import hf_config
from r1jax.models import presets
from r1jax.models.config import ModelConfig, RopeConfig

# The fields of the published config.json files.
R1 = {
    "architectures": ["DeepseekV3ForCausalLM"], "attention_bias": False,
    "attention_dropout": 0.0, "aux_loss_alpha": 0.001, "bos_token_id": 0,
    "auto_map": {"AutoConfig": "configuration_deepseek.DeepseekV3Config"},
    "eos_token_id": 1, "ep_size": 1, "first_k_dense_replace": 3,
    "hidden_act": "silu", "hidden_size": 7168, "initializer_range": 0.006,
    "intermediate_size": 18432, "kv_lora_rank": 512,
    "max_position_embeddings": 163840, "model_type": "deepseek_v3",
    "moe_intermediate_size": 2048, "moe_layer_freq": 1, "n_group": 8,
    "n_routed_experts": 256, "n_shared_experts": 1, "norm_topk_prob": True,
    "num_attention_heads": 128, "num_experts_per_tok": 8,
    "num_hidden_layers": 61, "num_key_value_heads": 128,
    "num_nextn_predict_layers": 1, "pretraining_tp": 1, "q_lora_rank": 1536,
    "qk_nope_head_dim": 128, "qk_rope_head_dim": 64,
    "quantization_config": {
        "activation_scheme": "dynamic", "fmt": "e4m3", "quant_method": "fp8",
        "weight_block_size": [128, 128]},
    "rms_norm_eps": 1e-06, "rope_scaling": {
        "beta_fast": 32, "beta_slow": 1, "factor": 40, "mscale": 1.0,
        "mscale_all_dim": 1.0, "original_max_position_embeddings": 4096,
        "type": "yarn"},
    "rope_theta": 10000, "routed_scaling_factor": 2.5,
    "scoring_func": "sigmoid", "seq_aux": True, "tie_word_embeddings": False,
    "topk_group": 4, "topk_method": "noaux_tc", "torch_dtype": "bfloat16",
    "transformers_version": "4.33.1", "use_cache": True, "v_head_dim": 128,
    "vocab_size": 129280}
V2_LITE = R1 | {
    "architectures": ["DeepseekV2ForCausalLM"], "model_type": "deepseek_v2",
    "first_k_dense_replace": 1, "hidden_size": 2048, "intermediate_size": 10944,
    "moe_intermediate_size": 1408, "n_group": 1, "n_routed_experts": 64,
    "n_shared_experts": 2, "norm_topk_prob": False, "num_attention_heads": 16,
    "num_experts_per_tok": 6, "num_hidden_layers": 27,
    "num_key_value_heads": 16, "num_nextn_predict_layers": None,
    "q_lora_rank": None, "quantization_config": None,
    "rope_scaling": R1["rope_scaling"] | {
        "mscale": 0.707, "mscale_all_dim": 0.707},
    "routed_scaling_factor": 1.0, "scoring_func": "softmax", "topk_group": 1,
    "topk_method": "greedy", "vocab_size": 102400}
V2 = V2_LITE | {
    "hidden_size": 5120, "intermediate_size": 12288,
    "moe_intermediate_size": 1536, "n_group": 8, "n_routed_experts": 160,
    "num_attention_heads": 128, "num_hidden_layers": 60,
    "num_key_value_heads": 128, "q_lora_rank": 1536,
    "rope_scaling": R1["rope_scaling"], "routed_scaling_factor": 16.0,
    "topk_group": 3, "topk_method": "group_limited_greedy"}
DISTILL_QWEN = {
    "architectures": ["Qwen2ForCausalLM"], "attention_dropout": 0.0,
    "bos_token_id": 151643, "eos_token_id": 151643, "hidden_act": "silu",
    "hidden_size": 1536, "initializer_range": 0.02, "intermediate_size": 8960,
    "max_position_embeddings": 131072, "max_window_layers": 21,
    "model_type": "qwen2", "num_attention_heads": 12, "num_hidden_layers": 28,
    "num_key_value_heads": 2, "rms_norm_eps": 1e-06, "rope_theta": 10000,
    "sliding_window": 4096, "tie_word_embeddings": False,
    "torch_dtype": "bfloat16", "transformers_version": "4.44.0",
    "use_cache": True, "use_mrope": False, "use_sliding_window": False,
    "vocab_size": 151936}
QWEN25_7B = {
    "architectures": ["Qwen2ForCausalLM"], "attention_dropout": 0.0,
    "bos_token_id": 151643, "eos_token_id": 151643, "hidden_act": "silu",
    "hidden_size": 3584, "initializer_range": 0.02, "intermediate_size": 18944,
    "max_position_embeddings": 131072, "max_window_layers": 28,
    "model_type": "qwen2", "num_attention_heads": 28, "num_hidden_layers": 28,
    "num_key_value_heads": 4, "rms_norm_eps": 1e-06, "rope_theta": 1000000.0,
    "sliding_window": 131072, "tie_word_embeddings": False,
    "torch_dtype": "bfloat16", "transformers_version": "4.40.1",
    "use_cache": True, "use_mrope": False, "use_sliding_window": False,
    "vocab_size": 152064}
QWEN25_1_5B = QWEN25_7B | {
    "hidden_size": 1536, "intermediate_size": 8960, "num_attention_heads": 12,
    "num_key_value_heads": 2, "tie_word_embeddings": True,
    "vocab_size": 151936}
QWEN3 = {
    "architectures": ["Qwen3ForCausalLM"], "attention_bias": False,
    "attention_dropout": 0.0, "bos_token_id": 151643, "eos_token_id": 151645,
    "head_dim": 128, "hidden_act": "silu", "hidden_size": 1024,
    "initializer_range": 0.02, "intermediate_size": 3072,
    "max_position_embeddings": 40960, "max_window_layers": 28,
    "model_type": "qwen3", "num_attention_heads": 16, "num_hidden_layers": 28,
    "num_key_value_heads": 8, "rms_norm_eps": 1e-06, "rope_scaling": None,
    "rope_theta": 1000000, "sliding_window": None, "tie_word_embeddings": True,
    "torch_dtype": "bfloat16", "transformers_version": "4.51.0",
    "use_cache": True, "use_sliding_window": False, "vocab_size": 151936}
DISTILL_LLAMA = {
    "architectures": ["LlamaForCausalLM"], "attention_bias": False,
    "attention_dropout": 0.0, "bos_token_id": 128000, "eos_token_id":
    [128001, 128008], "hidden_act": "silu", "hidden_size": 4096,
    "initializer_range": 0.02, "intermediate_size": 14336,
    "max_position_embeddings": 131072, "mlp_bias": False,
    "model_type": "llama", "num_attention_heads": 32, "num_hidden_layers": 32,
    "num_key_value_heads": 8, "pretraining_tp": 1, "rms_norm_eps": 1e-05,
    "rope_scaling": {
        "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192, "rope_type": "llama3"},
    "rope_theta": 500000.0, "tie_word_embeddings": False,
    "torch_dtype": "bfloat16", "transformers_version": "4.43.0.dev0",
    "use_cache": True, "vocab_size": 128256}
QWEN_7B = ModelConfig(
    attention="gqa", vocab_size=151936, d_model=1536, n_layers=28, n_heads=12,
    n_kv_heads=2, head_dim=128, d_ff=8960, max_position=131072, qkv_bias=True)
YARN = RopeConfig(scaling="yarn", factor=4.0, original=16)
LLAMA3 = RopeConfig(theta=5e5, scaling="llama3", factor=8.0, original=16)


QWEN3_MOE = QWEN3 | {
    "architectures": ["Qwen3MoeForCausalLM"], "decoder_sparse_step": 1,
    "hidden_size": 2048, "intermediate_size": 6144, "max_window_layers": 48,
    "mlp_only_layers": [], "model_type": "qwen3_moe",
    "moe_intermediate_size": 768, "norm_topk_prob": True,
    "num_attention_heads": 32, "num_experts": 128, "num_experts_per_tok": 8,
    "num_hidden_layers": 48, "num_key_value_heads": 4,
    "output_router_logits": False, "router_aux_loss_coef": 0.001,
    "tie_word_embeddings": False}
KIMI_K2 = R1 | {
    "bos_token_id": 163584, "eos_token_id": 163585, "model_type": "kimi_k2",
    "first_k_dense_replace": 1, "max_position_embeddings": 131072, "n_group": 1,
    "n_routed_experts": 384, "num_attention_heads": 64,
    "num_key_value_heads": 64, "num_nextn_predict_layers": 0, "rope_scaling":
    R1["rope_scaling"] | {"beta_fast": 1.0, "beta_slow": 1.0, "factor": 32.0},
    "rope_theta": 50000.0, "routed_scaling_factor": 2.827, "topk_group": 1,
    "vocab_size": 163840}
MISTRAL = {
    "architectures": ["MistralForCausalLM"], "attention_dropout": 0.0,
    "bos_token_id": 1, "eos_token_id": 2, "hidden_act": "silu",
    "hidden_size": 4096, "initializer_range": 0.02, "intermediate_size": 14336,
    "max_position_embeddings": 32768, "model_type": "mistral",
    "num_attention_heads": 32, "num_hidden_layers": 32,
    "num_key_value_heads": 8, "rms_norm_eps": 1e-05, "rope_theta": 1000000.0,
    "sliding_window": None, "tie_word_embeddings": False,
    "torch_dtype": "bfloat16", "transformers_version": "4.42.0.dev0",
    "use_cache": True, "vocab_size": 32768}


@pytest.mark.parametrize("fields, expected", [
    (QWEN3_MOE, ModelConfig(
        attention="gqa", vocab_size=151936, d_model=2048, n_layers=48,
        n_heads=32, n_kv_heads=4, head_dim=128, d_ff=6144, max_position=40960,
        rope=RopeConfig(theta=1e6), qk_norm=True, n_experts=128, n_activated=8,
        d_expert=768, score="softmax", selection_bias=False)),
    (KIMI_K2, dataclasses.replace(
        presets.R1_671B, vocab_size=163840, n_heads=64, n_dense_layers=1,
        n_experts=384, n_groups=1, n_limited_groups=1, route_scale=2.827,
        max_position=131072, n_mtp=0, rope=dataclasses.replace(
            presets.R1_671B.rope, theta=5e4, factor=32.0, beta_fast=1.0))),
    (MISTRAL, ModelConfig(
        attention="gqa", vocab_size=32768, d_model=4096, n_layers=32,
        n_heads=32, n_kv_heads=8, head_dim=128, d_ff=14336, max_position=32768,
        norm_eps=1e-5, rope=RopeConfig(theta=1e6))),
    (R1, presets.R1_671B), (V2, presets.V2_236B),
    (V2_LITE, presets.V2_LITE_16B), (DISTILL_QWEN, QWEN_7B),
    (QWEN25_1_5B, presets.QWEN25_1_5B), (QWEN25_7B, presets.QWEN25_7B),
    (QWEN3, ModelConfig(
        attention="gqa", vocab_size=151936, d_model=1024, n_layers=28,
        n_heads=16, n_kv_heads=8, head_dim=128, d_ff=3072, max_position=40960,
        rope=RopeConfig(theta=1e6), qk_norm=True, tie_embeddings=True)),
    (DISTILL_LLAMA, ModelConfig(
        attention="gqa", vocab_size=128256, d_model=4096, n_layers=32,
        n_heads=32, n_kv_heads=8, head_dim=128, d_ff=14336,
        max_position=131072, norm_eps=1e-5, rope=RopeConfig(
            theta=5e5, scaling="llama3", factor=8.0, original=8192)))],
    ids=["qwen3-moe", "kimi-k2", "mistral", "r1", "v2", "v2-lite", "qwen2",
         "qwen2.5-1.5b", "qwen2.5-7b", "qwen3", "llama"])
def test_published_files(fields, expected):
  before = json.dumps(fields)
  found = hf_config.from_hf(fields)
  # V2's files do not give the spread that its preset takes from V3's paper.
  assert dataclasses.replace(found, init_std=expected.init_std) == expected
  assert found.init_std == fields["initializer_range"]
  assert json.dumps(fields) == before


V3 = presets.TINY
GQA = dataclasses.replace(presets.TINY_DENSE, n_layers=2)


def _v3(**changes):
  return dataclasses.replace(V3, **changes)


def _v2(**changes):
  return dataclasses.replace(V3, **dict(
      n_mtp=0, score="softmax", selection_bias=False, normalize_gates=False)
      | changes)


def _gqa(**changes):
  return dataclasses.replace(GQA, **changes)


def _moe(**changes):
  return _gqa(**dict(
      qkv_bias=False, qk_norm=True, n_experts=4, n_activated=2, d_expert=10,
      score="softmax", selection_bias=False) | changes)


LLAMA = dict(qkv_bias=False, tie_embeddings=False)
ROUND_TRIPS = {
    "deepseek_v3": [
        V3, presets.R1_671B, presets.BASE_ARITH, _v3(q_rank=0, n_shared=2),
        _v3(n_mtp=0, normalize_gates=False, n_dense_layers=0),
        _v3(n_groups=1, n_limited_groups=1, tie_embeddings=True),
        _v3(rope=YARN), _v3(rope=LLAMA3, norm_eps=1e-5),
        _v3(rope=dataclasses.replace(YARN, mscale=0.707, beta_fast=8.0)),
        _v3(rope=dataclasses.replace(YARN, mscale=0.0)),
        _v3(rope=dataclasses.replace(YARN, attention_factor=1.25)),
        ModelConfig(vocab_size=61, d_model=24, n_layers=3, n_heads=5, d_ff=40,
                    max_position=64, kv_rank=11, nope_dim=6, rope_dim=4,
                    v_dim=7)],
    "deepseek_v2": [
        presets.V2_236B, presets.V2_LITE_16B, _v2(), _v2(q_rank=0, n_shared=2),
        _v2(n_groups=1, n_limited_groups=1, n_dense_layers=2),
        _v2(normalize_gates=True, route_scale=1.0), _v2(rope=YARN)],
    "qwen2": [QWEN_7B, GQA, _gqa(tie_embeddings=False),
              _gqa(rope=YARN), _gqa(rope=LLAMA3), _gqa(rope=RopeConfig(
                  scaling="yarn", factor=4.0, original=16,
                  attention_factor=1.1386294361119891))],
    "qwen3": [_gqa(qk_norm=True, qkv_bias=False), _gqa(
        qk_norm=True, qkv_bias=True, o_bias=True, head_dim=10)],
    "qwen3_moe": [_moe(), _moe(n_dense_layers=1, normalize_gates=False),
                  _moe(qkv_bias=True, o_bias=True, rope=YARN)],
    "llama": [_gqa(**LLAMA), _gqa(o_bias=True), _gqa(**LLAMA, rope=LLAMA3),
              _gqa(**LLAMA, n_kv_heads=6, rope=YARN)]}


@pytest.mark.parametrize("family, cfg", [
    (family, cfg) for family, configs in ROUND_TRIPS.items()
    for cfg in configs])
def test_round_trip(family, cfg):
  assert hf_config.family_for(cfg) == family
  fields = hf_config.to_hf(cfg, family, bos_id=1, eos_ids={7, 2}, pad_id=3,
                           dtype="float32")
  fields = json.loads(json.dumps(fields))
  assert hf_config.family_of(fields) == family
  assert hf_config.from_hf(fields) == cfg
  assert fields["eos_token_id"] == [2, 7] and fields["bos_token_id"] == 1
  assert (fields["pad_token_id"], fields["torch_dtype"]) == (3, "float32")


def test_yarn_factor_of_dense_models_is_left_to_its_default():
  """vLLM does not read attention_factor."""
  cfg = _gqa(rope=dataclasses.replace(YARN, attention_factor=(
      1.1386294361119891)))
  fields = hf_config.to_hf(cfg, "qwen2", bos_id=None, eos_ids=[2])
  assert "attention_factor" not in fields["rope_scaling"]
  assert fields["eos_token_id"] == 2


def test_other_factors_of_yarn_are_written_for_both_engines():
  """What vLLM multiplies with attn_factor is what transformers reads whole."""
  fields = hf_config.to_hf(_gqa(rope=YARN), "qwen2", bos_id=None, eos_ids=[2])
  scaling = fields["rope_scaling"]
  assert scaling["attention_factor"] == 1
  assert scaling["attn_factor"] == pytest.approx(1 / 1.1386294361119891)
  with pytest.raises(ValueError, match="attn_factor=0.5.* disagree; keep one"):
    hf_config.from_hf(fields | {"rope_scaling": scaling | {"attn_factor": .5}})


@pytest.mark.parametrize("family, like, cfg", [
    ("kimi_k2", "deepseek_v3", _v3(rope=YARN)),
    ("mistral", "llama", _gqa(**LLAMA, rope=YARN))])
def test_families_under_two_names(family, like, cfg):
  fields = hf_config.to_hf(cfg, family, bos_id=1, eos_ids={2})
  assert hf_config.family_of(fields) == family
  assert hf_config.from_hf(fields) == cfg
  assert hf_config.family_for(cfg) == like
  window = fields | {"sliding_window": cfg.max_position * 4}
  if family == "mistral":  # as wide as the context: it cuts nothing off
    assert hf_config.from_hf(window) == cfg


def test_yarn_that_does_not_act_is_written_as_plain_rope():
  cfg = _v3(rope=dataclasses.replace(YARN, original=64))
  fields = hf_config.to_hf(cfg, "deepseek_v3", bos_id=0, eos_ids=[])
  assert fields["rope_scaling"] is None and fields["eos_token_id"] is None
  assert hf_config.from_hf(fields) == V3


@pytest.mark.parametrize("cfg, family, message", [
    (V3, "llama", "attention='mla' with n_experts=8; choose deepseek_v3"),
    (GQA, "qwen3_moe", "attention='gqa' with n_experts=0; choose qwen2"),
    (_moe(), "qwen3", "with n_experts=4; choose qwen3_moe"),
    (_moe(n_shared=1), "qwen3_moe", "n_shared: 1 -> 0"),
    (V3, "gpt2", "family='gpt2': choose one of deepseek_v3"),
    (_v3(route_scale=1.0), "deepseek_v2",
     "cannot hold this model.*n_mtp: 1 -> 0.*score: 'sigmoid' -> 'softmax'"),
    (_v3(selection_bias=False), "deepseek_v3", "selection_bias: False -> True"),
    (_v2(normalize_gates=True), "deepseek_v2", "routed_scaling_factor=2.5"),
    (GQA, "llama", "o_bias: False -> True"),
    (GQA, "deepseek_v3", "kv_lora_rank|attention"),
    (_gqa(qk_norm=True), "qwen3", "o_bias: False -> True"),
    (_gqa(qk_norm=True, qkv_bias=False, o_bias=True), "qwen3",
     "o_bias: True -> False")])
def test_what_a_family_cannot_hold(cfg, family, message):
  with pytest.raises(ValueError, match=message):
    hf_config.to_hf(cfg, family, bos_id=0, eos_ids=[1])


@pytest.mark.parametrize("fields", [DISTILL_QWEN, R1, DISTILL_LLAMA])
def test_both_spellings_of_rope(fields):
  new = dict(fields)
  scaling = dict(new.pop("rope_scaling", None) or {})
  scaling["rope_type"] = scaling.pop("type", scaling.get("rope_type"))
  scaling["rope_type"] = scaling["rope_type"] or "default"
  new["rope_parameters"] = scaling | {"rope_theta": new.pop("rope_theta")}
  new["dtype"] = new.pop("torch_dtype")
  assert hf_config.from_hf(new) == hf_config.from_hf(fields)


def _yarn(fields, **scaling):
  return fields | {"rope_scaling": {
      "type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768}
      | scaling}


def test_yarn_in_dense_models():
  """As Qwen2.5's model card asks for it, which leaves the longest context."""
  short = DISTILL_QWEN | {"max_position_embeddings": 32768}
  cfg = hf_config.from_hf(_yarn(short))
  assert cfg.stretched and cfg.max_position == 131072
  assert cfg.rope_scale == pytest.approx(1.1386294361119891)
  assert cfg.softmax_scale == 128 ** -0.5
  without = hf_config.from_hf(_yarn(short, original_max_position_embeddings=(
      None)))
  assert without == cfg
  assert hf_config.from_hf(_yarn(short, attention_factor=1.5)).rope_scale == 1.5
  ratio = hf_config.from_hf(_yarn(short, mscale=2.0, mscale_all_dim=1.0))
  assert ratio.rope_scale == pytest.approx(1.2772588722 / 1.1386294361)


def test_attn_factor_multiplies_as_in_vllm():
  """DeepSeek-R1-0528-Qwen3-8B's own: cos and sin end up unscaled."""
  cfg = hf_config.from_hf(QWEN3 | {
      "max_position_embeddings": 131072, "rope_scaling": {
          "rope_type": "yarn", "factor": 4.0,
          "original_max_position_embeddings": 32768,
          "attn_factor": 0.8782488562869419}})
  assert cfg.rope_scale == pytest.approx(1, rel=1e-12)


def test_yarn_in_latent_attention():
  cfg = hf_config.from_hf(R1)
  assert cfg.rope_scale == 1
  assert cfg.softmax_scale == pytest.approx(192 ** -0.5 * 1.8738, rel=1e-4)
  plain = hf_config.from_hf(_yarn(R1, factor=40))
  assert plain.rope_scale == pytest.approx(1.36889, rel=1e-5)
  assert plain.softmax_scale == pytest.approx(192 ** -0.5)


def test_widths_of_heads():
  assert hf_config.from_hf(DISTILL_LLAMA).head_dim == 128
  wide = {k: v for k, v in QWEN3.items() if k != "head_dim"}
  assert hf_config.from_hf(wide | {"hidden_size": 640}).head_dim == 128
  all_heads = {k: v for k, v in DISTILL_QWEN.items()
               if k != "num_key_value_heads"}
  assert hf_config.from_hf(all_heads).n_kv_heads == 12
  with pytest.raises(ValueError, match="no head_dim, and hidden_size=1537"):
    hf_config.from_hf(DISTILL_QWEN | {"hidden_size": 1537})


def test_v2_without_groups():
  """As transformers writes it."""
  fields = V2_LITE | {"n_group": None, "topk_group": None}
  assert hf_config.from_hf(fields) == hf_config.from_hf(V2_LITE)
  ignored = V2_LITE | {"n_group": 8, "topk_group": 3}
  assert hf_config.from_hf(ignored) == hf_config.from_hf(V2_LITE)


def test_both_names_of_prediction_layers():
  fields = R1 | {"num_nextn_predict_layers": None, "num_mtp_layers": 1}
  assert hf_config.from_hf(fields) == hf_config.from_hf(R1)


def test_all_layers_dense():
  cfg = hf_config.from_hf(R1 | {"first_k_dense_replace": 61,
                                "num_nextn_predict_layers": 0})
  assert cfg.n_experts == 0 and cfg.n_mixture_layers == 0


@pytest.mark.parametrize("fields, change, message", [
    (R1, {"model_type": "deepseek_v32"}, "deepseek_v32' is not.*an indexer"),
    (R1, {"model_type": "glm4_moe"}, "glm4_moe' is not .* need partial RoPE"),
    (R1, {"model_type": "gpt_oss"}, "gpt_oss' is not .* attention sinks"),
    (R1, {"model_type": "qwen3_next"}, "qwen3_next' is not .* DeltaNet"),
    (R1, {"model_type": "gemma3"}, "gemma3' is not .* image inputs"),
    (R1, {"model_type": ["llama"]}, r"model_type=\['llama'\] is not"),
    (QWEN3_MOE, {"decoder_sparse_step": 2}, "decoder_sparse_step=2"),
    (QWEN3_MOE, {"mlp_only_layers": [1]}, r"mlp_only_layers=\[1\] is not"),
    (QWEN3_MOE, {"mlp_only_layers": "x"}, "mlp_only_layers='x' is not"),
    (QWEN3_MOE, {"num_experts": None}, "config.json has no num_experts"),
    (MISTRAL, {"sliding_window": 4096}, "sliding_window=4096 is not supported"),
    (MISTRAL, {"attention_bias": True}, "attention_bias=True: unknown"),
    (DISTILL_LLAMA, {"rope_interleaved": True}, "rope_interleaved=True"),
    (R1, {"model_type": None}, "model_type=None is not supported.*llama"),
    (R1, {"hidden_act": "gelu"}, "hidden_act='gelu' .* only 'silu'"),
    (R1, {"attention_dropout": 0.1}, "attention_dropout=0.1"),
    (R1, {"attention_bias": True}, "attention_bias=True"),
    (R1, {"moe_layer_freq": 2}, "moe_layer_freq=2 .* only 1"),
    (R1, {"rope_interleave": False}, "rope_interleave=False"),
    (R1, {"topk_method": "greedy"}, "topk_method='greedy' .* only noaux_tc"),
    (R1, {"scoring_func": "softmax"}, "scoring_func='softmax'"),
    (R1, {"num_key_value_heads": 8}, "num_key_value_heads=8 .* only 128"),
    (R1, {"head_dim": 56}, "head_dim=56 is not supported, only 64"),
    (R1, {"num_nextn_predict_layers": 2}, "num_nextn_predict_layers=2"),
    (R1, {"kv_lora_rank": None}, "config.json has no kv_lora_rank"),
    (R1, {"n_group": None}, "config.json has no n_group"),
    (R1, {"routed_scaling_factor": None}, "has no routed_scaling_factor"),
    (V2, {"topk_group": None}, "config.json has no topk_group"),
    (R1, {"index_topk": 2048}, "index_topk=2048: unknown.*remove"),
    (R1, {"partial_rotary_factor": 0.5}, "partial_rotary_factor=0.5"),
    (R1, {"rope_parameters": {"rope_type": "default"}}, "disagree"),
    (V2, {"topk_method": "noaux_tc"}, "greedy or group_limited_greedy"),
    (V2, {"mlp_bias": True}, "mlp_bias=True"),
    (V2, {"norm_topk_prob": True}, "with routed_scaling_factor=16.0 is read"),
    (DISTILL_QWEN, {"use_sliding_window": True}, "use_sliding_window=True"),
    (DISTILL_QWEN, {"use_mrope": True}, "use_mrope=True"),
    (DISTILL_QWEN, {"attention_bias": False}, "attention_bias=False: unknown"),
    (QWEN3, {"layer_types": ["full_attention", "sliding_attention"]},
     "layer_types=.*sliding_attention.* only full_attention"),
    (DISTILL_LLAMA, {"mlp_bias": True}, "mlp_bias=True"),
    (DISTILL_LLAMA, {"sliding_window": 9}, "sliding_window=9: unknown"),
    (DISTILL_LLAMA, {"hidden_size": "4096"}, "hidden_size='4096' should be"),
    (DISTILL_LLAMA, {"attn_pdrop": 0.1}, "attn_pdrop=0.1: unknown, and may"),
    (DISTILL_LLAMA, {"num_key_value_heads": 7},
     "config.json: n_heads=32 is no multiple of n_kv_heads=7; take the file"),
    (R1, {"topk_group": 9}, "n_limited_groups=9 is more than n_groups=8"),
    (R1, {"num_mtp_layers": 0}, "num_nextn_predict_layers=1 and num_mtp_layers"
     "=0 disagree; keep one"),
    (QWEN3_MOE, {"num_local_experts": 64}, "num_experts=128 and num_local_expe"
     "rts=64 disagree"),
    (R1, {"model_type": "qwen3_vl", "text_config": {"model_type": "qwen3"}},
     "'qwen3_vl' is not .* language model .text_config. alone"),
    (DISTILL_LLAMA, {"vocab_size": None}, "config.json has no vocab_size")])
def test_refused(fields, change, message):
  with pytest.raises(ValueError, match=message):
    hf_config.from_hf(fields | change)


@pytest.mark.parametrize("change, message", [
    ({"type": "linear"}, "rope type 'linear' is not supported, only default"),
    ({"type": "dynamic"}, "rope type 'dynamic'"),
    ({"rope_type": "longrope", "type": None}, "rope type 'longrope'"),
    ({"truncate": False}, "rope_scaling.truncate=False"),
    ({"factor": None}, "no rope_scaling.factor"),
    ({"mrope_section": [16]}, r"rope_scaling.mrope_section=\[16\]: unknown"),
    ({"partial_rotary_factor": 0.5}, "rope_scaling.partial_rotary_factor"),
    ({"factor": 1e6, "original_max_position_embeddings": 1 << 20},
     "rope_scaling.factor=1000000.0 of 1048576 positions makes"),
    ({"mscale": 0.7}, "mscale=0.7 and mscale_all_dim=0: give both"),
    ({"mscale_all_dim": 0.7}, "mscale=0 and mscale_all_dim=0.7: give both")])
def test_refused_rotations(change, message):
  with pytest.raises(ValueError, match=message):
    hf_config.from_hf(_yarn(R1, **change))


@pytest.mark.parametrize("change, message", [
    ({"quant_method": "gptq"}, "quantization_config.quant_method='gptq'"),
    ({"weight_block_size": [64, 64]}, r"weight_block_size=\[64, 64\]"),
    ({"weight_block_size": None}, "has no weight_block_size; supported is"),
    ({"quant_method": "awq", "bits": 4, "weight_block_size": None},
     "quantization_config.quant_method='awq' .* the model that is not quant"),
    ({"fmt": "e5m2"}, "fmt='e5m2'"), ({"bits": 4}, "bits=4: unknown")])
def test_refused_quantization(change, message):
  fields = R1 | {"quantization_config": R1["quantization_config"] | change}
  with pytest.raises(ValueError, match=message):
    hf_config.from_hf(fields)


HARMLESS = {
    "is_llama_config": True, "rope_interleaved": False, "unk_token_id": 0,
    "transformers.js_config": {"dtype": "q4"}, "do_sample": True,
    "_attn_implementation_autoset": True, "temperature": 0.6, "top_k": 20,
    "max_length": 20, "is_decoder": False, "max_sequence_length": 2048,
    "model_max_length": 4096, "num_labels": 2, "pruned_heads": {},
    "embd_pdrop": 0.0, "hidden_dropout": 0, "classifier_dropout": 0.1}
PASSED = {"_commit": "abc", "image_token_id": 7, "my_tool.version": "1",
          "contrastive_loss_weight": 0.1}


def test_fields_that_change_nothing():
  """SmolLM2's and those that older programs write."""
  said = []
  plain = hf_config.from_hf(DISTILL_LLAMA)
  assert hf_config.from_hf(DISTILL_LLAMA | HARMLESS, said.append) == plain
  assert not said
  assert hf_config.from_hf(DISTILL_LLAMA | PASSED, said.append) == plain
  assert said == [f"config.json: {', '.join(PASSED)}: unknown, ignored because"
                  " by the name they do not change what the model computes"]


@pytest.mark.parametrize("change", [
    {"weird": ["x" * 9999]}, {f"weird{i}": i for i in range(999)},
    {"vocab_size": 10**999}, {"hidden_act": "x" * 9999},
    {"model_type": "x" * 9999}, {"layer_types": ["x"] * 9999}])
def test_messages_stay_short(change):
  with pytest.raises(ValueError, match="config.json: ") as caught:
    hf_config.from_hf(DISTILL_LLAMA | change)
  assert len(str(caught.value)) < 600


@pytest.mark.parametrize("names", [3, "LlamaForSequenceClassification", {}])
def test_architectures_are_a_list(names):
  with pytest.raises(ValueError, match="architectures=.* a list of names"):
    hf_config.is_scalar({"architectures": names})


SIZES = ("vocab_size", "hidden_size", "num_hidden_layers",
         "num_attention_heads", "intermediate_size", "max_position_embeddings",
         "kv_lora_rank", "n_routed_experts", "moe_intermediate_size",
         "num_experts_per_tok", "v_head_dim", "n_group")


@pytest.mark.parametrize("name", SIZES)
@pytest.mark.parametrize("value", [-1, 1.5, "8", True, [8], math.nan, math.inf,
                                   10**18])
def test_sizes_out_of_proportion(name, value):
  """Before anything is built by them."""
  with pytest.raises(ValueError, match=f"config.json: {name}="):
    hf_config.from_hf(R1 | {name: value})


@pytest.mark.parametrize("fields, change, message", [
    (R1, {"hidden_size": 0}, "hidden_size=0 should be a whole number from 1"),
    (R1, {"num_hidden_layers": 4096, "n_routed_experts": 65536},
     "4096 layers of 65536 experts are"),
    (R1, {"rms_norm_eps": math.nan}, "rms_norm_eps=nan should be a finite"),
    (R1, {"rms_norm_eps": -1e-6}, "rms_norm_eps=-1e-06 should be a finite"),
    (R1, {"routed_scaling_factor": math.inf}, "routed_scaling_factor=inf"),
    (R1, {"rope_theta": 1}, "rope_theta=1 should be"),
    (R1, {"rope_theta": 10**400}, "rope_theta=1000"),
    (R1, {"norm_topk_prob": "yes"}, "norm_topk_prob='yes' should be true or"),
    (R1, {"tie_word_embeddings": 1}, "tie_word_embeddings=1 should be true"),
    (R1, {"rope_scaling": "yarn"}, "rope_scaling is 'yarn', not an object"),
    (R1, {"rope_scaling": ["yarn"]}, "rope_scaling is .'yarn'., not an"),
    (R1, {"quantization_config": "fp8"}, "quantization_config is 'fp8', not"),
    (QWEN3, {"layer_types": 7}, "layer_types=7 is not supported"),
    (DISTILL_LLAMA, {"attention_bias": "no"}, "attention_bias='no' should be"),
    (DISTILL_LLAMA, {"rope_scaling": DISTILL_LLAMA["rope_scaling"] | {
        "type": "yarn"}}, "type='yarn' and rope_type='llama3' disagree"),
    (DISTILL_LLAMA, {"rope_scaling": DISTILL_LLAMA["rope_scaling"] | {
        "rope_theta": 1e4}}, "rope_theta is 500000.0 and, among .* 10000.0"),
    (DISTILL_LLAMA, {"rope_scaling": DISTILL_LLAMA["rope_scaling"] | {
        "low_freq_factor": 4.0}}, "low_freq_factor=4.0 should be below"),
    (R1, {"rope_scaling": R1["rope_scaling"] | {"factor": 0}},
     "rope_scaling.factor=0 should be a finite number from 1"),
])
def test_malformed_values(fields, change, message):
  with pytest.raises(ValueError, match=message):
    hf_config.from_hf(fields | change)


@pytest.mark.parametrize("fields", [[R1], "llama", None, 7])
def test_a_file_that_is_no_object(fields):
  for read in (hf_config.from_hf, hf_config.family_of, hf_config.is_scalar):
    with pytest.raises(ValueError, match="the file is .* not an object"):
      read(fields)


# As gemma-3-1b's file.
GEMMA = {
    "architectures": ["Gemma3ForCausalLM"], "attention_bias": False,
    "attn_logit_softcapping": None, "cache_implementation": "hybrid",
    "final_logit_softcapping": None, "head_dim": 256, "hidden_activation":
    "gelu_pytorch_tanh", "hidden_size": 1152, "intermediate_size": 6912,
    "max_position_embeddings": 32768, "model_type": "gemma3_text",
    "num_attention_heads": 4, "num_hidden_layers": 26,
    "num_key_value_heads": 1, "query_pre_attn_scalar": 256,
    "rms_norm_eps": 1e-6, "rope_local_base_freq": 10000, "rope_scaling": None,
    "rope_theta": 1000000, "sliding_window": 512, "sliding_window_pattern": 6,
    "vocab_size": 262144}


def test_a_window_bounds_the_context_of_gemma_and_is_told():
  told = []
  cfg = hf_config.from_hf(GEMMA, told.append)
  assert cfg.max_position == 512 and cfg.tie_embeddings
  assert "longest context is 512 tokens instead of 32768" in told[0]
  assert (cfg.rope.theta, cfg.local_theta) == (1e6, 1e4)
  assert [i for i, x in enumerate(cfg.local_layers()) if not x] == [
      5, 11, 17, 23]
  assert cfg.query_scale == 1 / 16 and cfg.embed_scale == math.sqrt(1152)
  short = told.clear() or hf_config.from_hf(
      GEMMA | {"max_position_embeddings": 400}, told.append)
  assert short.max_position == 400 and not told
  # And out again, as transformers and as the published file spell it.
  fields = hf_config.to_hf(cfg, "gemma3_text", bos_id=2, eos_ids=[1])
  assert fields["sliding_window"] == 512
  assert fields["query_pre_attn_scalar"] == 256
  assert hf_config.family_for(cfg) == "gemma3_text"


@pytest.mark.parametrize("change,message", [
    ({"attn_logit_softcapping": 50.0}, "attn_logit_softcapping=50.0 is not"),
    ({"rope_scaling": {"rope_type": "linear", "factor": 8.0}},
     "rope_scaling=.* in gemma3_text"),
    ({"layer_types": ["sliding_attention"] * 3}, "for each of 26"),
    ({"layer_types": [["sliding_attention"]] * 26}, "for each of 26"),
    ({"layer_types": ["full_attention"] + ["sliding_attention"] * 25},
     "only one with every n-th"),
    ({"rope_parameters": {"full_attention": {"rope_theta": 5.0}}},
     "base of full_attention is 1000000 and, in rope_parameters, 5.0"),
    ({"use_bidirectional_attention": True}, "use_bidirectional_attention"),
    ({"hidden_activation": "silu"}, "hidden_activation='silu'")])
def test_what_gemma_may_not_say(change, message):
  with pytest.raises(ValueError, match=message):
    hf_config.from_hf(GEMMA | change)
