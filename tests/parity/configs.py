"""Tiny configurations of each family that together move every switch.

Sizes differ pairwise within a family, so that a swapped axis cannot pass;
scaled rotations are used far beyond their original 16 positions.
"""

import pytest

_MLA = dict(
    vocab_size=67, hidden_size=30, intermediate_size=42, num_hidden_layers=2,
    num_attention_heads=5, num_key_value_heads=5, kv_lora_rank=11,
    q_lora_rank=16, qk_nope_head_dim=6, qk_rope_head_dim=8, v_head_dim=7,
    n_routed_experts=12, num_experts_per_tok=3, moe_intermediate_size=17,
    max_position_embeddings=128, rope_theta=100.0)
_V3 = _MLA | dict(num_nextn_predict_layers=0, n_group=1, topk_group=1,
                  n_shared_experts=1, first_k_dense_replace=1)
# Its rotation in transformers takes even strides alone.
_V2 = _MLA | dict(kv_lora_rank=18, n_shared_experts=2,
                  first_k_dense_replace=1, topk_method="greedy")
_LIMITED = dict(topk_method="group_limited_greedy", n_group=4, topk_group=2)
_GQA = dict(
    vocab_size=67, hidden_size=24, intermediate_size=42, num_hidden_layers=2,
    num_attention_heads=6, num_key_value_heads=2, max_position_embeddings=128,
    rope_theta=100.0)


def _yarn(**more):
  return {"rope_scaling": dict(
      rope_type="yarn", factor=8.0, original_max_position_embeddings=16)
      | more}


def _llama3(**more):
  return {"rope_scaling": dict(
      rope_type="llama3", factor=8.0, original_max_position_embeddings=16,
      low_freq_factor=1.0, high_freq_factor=4.0) | more}


_MOE = _GQA | dict(
    num_experts=9, num_experts_per_tok=3, moe_intermediate_size=17)
_OPEN = dict(sliding_window=None)
# Row 0 of the embedding has a gradient where nothing pads.
_GEMMA = {k: v for k, v in _GQA.items() if k != "rope_theta"} | dict(
    head_dim=10, query_pre_attn_scalar=7, sliding_window=128,
    pad_token_id=None)
_KIMI = _yarn(mscale=1.0, mscale_all_dim=1.0, beta_fast=1.0, beta_slow=1.0)

CONFIGS = {
    "deepseek_v3": {
        "plain": _V3 | dict(q_lora_rank=None, first_k_dense_replace=0),
        "groups": _V3 | dict(n_group=4, topk_group=2, n_shared_experts=2),
        "yarn": _V3 | dict(
            num_hidden_layers=4, first_k_dense_replace=2, n_group=4,
            topk_group=3) | _yarn(mscale=1.0, mscale_all_dim=1.0),
        "llama3": _V3 | dict(
            q_lora_rank=None, tie_word_embeddings=True, norm_topk_prob=False,
            routed_scaling_factor=0.7, num_experts_per_tok=1) | _llama3(),
        "yarn-bare": _V3 | dict(
            rms_norm_eps=1e-3, n_group=2, topk_group=1,
            num_experts_per_tok=4) | _yarn(),
        "dense": _V3 | dict(first_k_dense_replace=2, q_lora_rank=None),
        "yarn-0.707": _V3 | dict(
            n_shared_experts=2, tie_word_embeddings=True, rope_theta=1e4)
        | _yarn(mscale=0.707, mscale_all_dim=0.707),
    },
    "deepseek_v2": {
        "plain": _V2 | dict(q_lora_rank=None, first_k_dense_replace=0),
        "limited": _V2 | _LIMITED | dict(
            n_shared_experts=1, routed_scaling_factor=4.0),
        "yarn-0.707": _V2 | dict(
            num_hidden_layers=4, first_k_dense_replace=2)
        | _yarn(mscale=0.707, mscale_all_dim=0.707),
        "llama3": _V2 | dict(
            q_lora_rank=None, tie_word_embeddings=True,
            num_experts_per_tok=1) | _llama3(),
        "yarn-factor": _V2 | dict(rms_norm_eps=1e-3)
        | _yarn(attention_factor=1.2, beta_slow=0.1),
        "yarn-mscales": _V2 | _LIMITED | dict(
            n_group=2, topk_group=1, num_experts_per_tok=4, rope_theta=1e4,
            routed_scaling_factor=2.5)
        | _yarn(mscale=1.0, mscale_all_dim=0.5),
    },
    "qwen2": {
        "tied": _GQA | dict(tie_word_embeddings=True),
        "all-heads": _GQA | dict(num_key_value_heads=6, head_dim=10),
        "yarn": _GQA | dict(num_key_value_heads=1) | _yarn(),
        "llama3": _GQA | dict(num_key_value_heads=3) | _llama3(),
        "yarn-factor": _GQA | dict(
            tie_word_embeddings=True, num_hidden_layers=3)
        | _yarn(attention_factor=1.5),
        # As Qwen2.5's model card has it: the context is the original one.
        "yarn-card": _GQA | dict(
            max_position_embeddings=16, rope_theta=1e6, rms_norm_eps=1e-3)
        | _yarn(),
    },
    "qwen3": {
        "plain": _GQA | dict(head_dim=10),
        "bias": _GQA | dict(
            head_dim=10, attention_bias=True, tie_word_embeddings=True),
        "yarn": _GQA | dict(head_dim=8, num_key_value_heads=3) | _yarn(),
        "llama3": _GQA | dict(head_dim=10, num_key_value_heads=1) | _llama3(),
        "yarn-mscales": _GQA | dict(head_dim=10, num_key_value_heads=6)
        | _yarn(mscale=2.0, mscale_all_dim=1.0),
        "wide": _GQA | dict(
            head_dim=14, attention_bias=True, num_hidden_layers=3,
            rms_norm_eps=1e-3, rope_theta=1e6),
    },
    "qwen3_moe": {
        "plain": _MOE | dict(head_dim=10),
        "dense-first": _MOE | dict(
            head_dim=14, mlp_only_layers=[0], norm_topk_prob=True,
            num_hidden_layers=3),
        "bias": _MOE | dict(
            head_dim=10, attention_bias=True, tie_word_embeddings=True,
            num_experts_per_tok=1),
        "yarn": _MOE | dict(head_dim=8, num_key_value_heads=3) | _yarn(),
        "llama3": _MOE | dict(
            head_dim=10, num_key_value_heads=1, norm_topk_prob=True)
        | _llama3(),
        "wide": _MOE | dict(
            num_key_value_heads=6, num_experts_per_tok=5, rms_norm_eps=1e-3,
            rope_theta=1e6, moe_intermediate_size=21, head_dim=4),
    },
    "mistral": {
        "plain": _GQA | _OPEN | dict(head_dim=10),
        "all-heads": _GQA | _OPEN | dict(num_key_value_heads=6),
        "tied": _GQA | _OPEN | dict(
            tie_word_embeddings=True, num_hidden_layers=3),
        "yarn": _GQA | _OPEN | dict(num_key_value_heads=1) | _yarn(),
        "llama3": _GQA | _OPEN | dict(num_key_value_heads=3) | _llama3(),
        "wide": _GQA | dict(
            sliding_window=128, head_dim=14, rms_norm_eps=1e-3,
            rope_theta=1e6),
    },
    "kimi_k2": {
        "plain": _V3 | dict(q_lora_rank=None, first_k_dense_replace=0),
        "yarn": _V3 | _KIMI,
        "deep": _V3 | _KIMI | dict(
            num_hidden_layers=4, first_k_dense_replace=2, rope_theta=5e4),
        "scaled": _V3 | dict(routed_scaling_factor=2.827, rms_norm_eps=1e-3),
        # Normalised, one gate is 1 and the router's gradient noise about 0.
        "one": _V3 | dict(num_experts_per_tok=1, norm_topk_prob=False,
                          tie_word_embeddings=True),
        "shared": _V3 | _KIMI | dict(n_shared_experts=2, q_lora_rank=None),
    },
    "gemma3_text": {
        "plain": _GEMMA | dict(num_hidden_layers=3, sliding_window_pattern=2),
        "local": _GEMMA,
        "bases": _GEMMA | dict(
            num_hidden_layers=3, layer_types=[
                "sliding_attention", "full_attention", "sliding_attention"],
            rope_parameters={"full_attention": dict(
                rope_type="default", rope_theta=300.0), "sliding_attention":
                             dict(rope_type="default", rope_theta=20.0)}),
        "untied": _GEMMA | dict(
            tie_word_embeddings=False, sliding_window_pattern=1),
        "all-heads": _GEMMA | dict(
            num_key_value_heads=6, head_dim=14, query_pre_attn_scalar=14,
            sliding_window_pattern=2),
        "wide": _GEMMA | dict(
            num_key_value_heads=1, rms_norm_eps=1e-3, sliding_window_pattern=2,
            sliding_window=4096),
    },
    "llama": {
        "plain": _GQA | dict(num_key_value_heads=6),
        "bias": _GQA | dict(attention_bias=True),
        "llama3": _GQA | dict(num_key_value_heads=1) | _llama3(),
        "yarn": _GQA | dict(tie_word_embeddings=True) | _yarn(),
        "llama3-steep": _GQA | dict(head_dim=10, num_key_value_heads=3)
        | _llama3(factor=4.0, low_freq_factor=2.0, high_freq_factor=8.0),
        "yarn-bias": _GQA | dict(
            attention_bias=True, tie_word_embeddings=True, rms_norm_eps=1e-3,
            num_hidden_layers=3, head_dim=10)
        | _yarn(beta_fast=1, beta_slow=0.1),
    },
}
NAMES = tuple(f"{family}:{name}" for family, configs in CONFIGS.items()
              for name in configs)

# Whose mathematics others have already; the rest runs with -m slow.
_ALIKE = {"mistral": ("plain",), "kimi_k2": ("yarn",),
          "qwen3_moe": ("plain", "dense-first", "yarn"),
          "gemma3_text": ("plain", "untied")}


def parameters():
  """`NAMES` as parameters of a fixture."""
  for name in NAMES:
    family, _, short = name.partition(":")
    slow = short not in _ALIKE.get(family, (short,))
    yield pytest.param(name, marks=[pytest.mark.slow] * slow)


# Which parameters the comparisons can see is looked at on these, which together
# move every switch.
SENSITIVE = (
    "deepseek_v3:plain", "deepseek_v3:yarn", "deepseek_v3:llama3",
    "deepseek_v2:limited", "deepseek_v2:yarn-factor", "qwen2:tied",
    "qwen2:yarn", "qwen3:bias", "qwen3_moe:dense-first", "qwen3:yarn-mscales",
    "gemma3_text:plain", "llama:llama3", "llama:yarn-bias")


def get(name):
  """(family, fields) of `family:name`."""
  family, _, name = name.partition(":")
  return family, CONFIGS[family][name]
