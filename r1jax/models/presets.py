"""Named model architectures."""

from __future__ import annotations

import dataclasses

from r1jax.models.config import ModelConfig, RopeConfig

_YARN = RopeConfig(scaling="yarn", factor=40.0, original=4096)

R1_671B = ModelConfig(
    vocab_size=129280, d_model=7168, n_layers=61, n_heads=128, d_ff=18432,
    max_position=163840, rope=_YARN, q_rank=1536, kv_rank=512, nope_dim=128,
    rope_dim=64, v_dim=128, n_dense_layers=3, n_experts=256, n_shared=1,
    n_activated=8, d_expert=2048, n_groups=8, n_limited_groups=4,
    route_scale=2.5, n_mtp=1, init_std=0.006)

V2_236B = ModelConfig(
    vocab_size=102400, d_model=5120, n_layers=60, n_heads=128, d_ff=12288,
    max_position=163840, rope=_YARN, q_rank=1536, kv_rank=512, nope_dim=128,
    rope_dim=64, v_dim=128, n_dense_layers=1, n_experts=160, n_shared=2,
    n_activated=6, d_expert=1536, n_groups=8, n_limited_groups=3,
    route_scale=16.0, score="softmax", selection_bias=False,
    normalize_gates=False, init_std=0.006)

V2_LITE_16B = ModelConfig(
    vocab_size=102400, d_model=2048, n_layers=27, n_heads=16, d_ff=10944,
    max_position=163840, rope=dataclasses.replace(_YARN, mscale=0.707),
    kv_rank=512, nope_dim=128, rope_dim=64, v_dim=128, n_dense_layers=1,
    n_experts=64, n_shared=2, n_activated=6, d_expert=1408, score="softmax",
    selection_bias=False, normalize_gates=False, init_std=0.006)

# The config.json of Qwen/Qwen2.5-1.5B and of Qwen/Qwen2.5-7B, the base models.
QWEN25_1_5B = ModelConfig(
    attention="gqa", vocab_size=151936, d_model=1536, n_layers=28, n_heads=12,
    n_kv_heads=2, head_dim=128, d_ff=8960, max_position=131072,
    rope=RopeConfig(theta=1e6), norm_eps=1e-6, qkv_bias=True,
    tie_embeddings=True)

QWEN25_7B = ModelConfig(
    attention="gqa", vocab_size=152064, d_model=3584, n_layers=28, n_heads=28,
    n_kv_heads=4, head_dim=128, d_ff=18944, max_position=131072,
    rope=RopeConfig(theta=1e6), norm_eps=1e-6, qkv_bias=True)

# The sizes of the test model are pairwise distinct, so that a swapped axis
# cannot go unnoticed.
TINY = ModelConfig(
    vocab_size=61, d_model=24, n_layers=3, n_heads=5, d_ff=40,
    max_position=64, q_rank=14, kv_rank=11, nope_dim=6, rope_dim=4, v_dim=7,
    n_dense_layers=1, n_experts=8, n_shared=1, n_activated=3, d_expert=9,
    n_groups=4, n_limited_groups=2, route_scale=2.5, n_mtp=1, init_std=0.2)

TINY_DENSE = ModelConfig(
    attention="gqa", vocab_size=61, d_model=24, n_layers=3, n_heads=6,
    n_kv_heads=2, head_dim=8, d_ff=40, max_position=64, qkv_bias=True,
    tie_embeddings=True, init_std=0.2)

# The base model that ships with the package: a small DeepSeek-V3.
BASE_ARITH = ModelConfig(
    vocab_size=512, d_model=96, n_layers=4, n_heads=4, d_ff=256,
    max_position=256, q_rank=48, kv_rank=32, nope_dim=16, rope_dim=16,
    v_dim=24, n_dense_layers=1, n_experts=8, n_shared=1, n_activated=2,
    d_expert=64, n_groups=2, n_limited_groups=2, n_mtp=1)

# The base model of the small world, and two students for distillation with the
# architectures of Qwen2.5 and Llama 3.
BASE_WORLD = ModelConfig(
    vocab_size=768, d_model=128, n_layers=4, n_heads=4, d_ff=320,
    max_position=320, q_rank=64, kv_rank=48, nope_dim=24, rope_dim=16,
    v_dim=32, n_dense_layers=1, n_experts=8, n_shared=1, n_activated=2,
    d_expert=80, n_groups=2, n_limited_groups=2, n_mtp=1)

STUDENT_QWEN = ModelConfig(
    attention="gqa", vocab_size=768, d_model=96, n_layers=3, n_heads=6,
    n_kv_heads=2, head_dim=16, d_ff=288, max_position=320, qkv_bias=True,
    tie_embeddings=True)

STUDENT_LLAMA = ModelConfig(
    attention="gqa", vocab_size=768, d_model=96, n_layers=4, n_heads=4,
    n_kv_heads=2, head_dim=24, d_ff=256, max_position=320,
    rope=RopeConfig(scaling="llama3", factor=8.0, original=256,
                    low_factor=1.0, high_factor=4.0, theta=5e5))

PEER_SMALL = ModelConfig(
    attention="gqa", vocab_size=512, d_model=256, n_layers=4, n_heads=4,
    n_kv_heads=2, head_dim=64, d_ff=1024, max_position=4096, qkv_bias=True,
    tie_embeddings=True)

PEER_MOE = ModelConfig(
    vocab_size=512, d_model=256, n_layers=4, n_heads=8, d_ff=1024,
    max_position=4096, q_rank=96, kv_rank=64, nope_dim=32, rope_dim=16,
    v_dim=32, n_dense_layers=1, n_experts=8, n_shared=1, n_activated=2,
    d_expert=256, n_groups=2, n_limited_groups=1, route_scale=2.5)

PRESETS = {
    "r1-671b": R1_671B,
    "v2-236b": V2_236B,
    "v2-lite-16b": V2_LITE_16B,
    "qwen2.5-1.5b": QWEN25_1_5B,
    "qwen2.5-7b": QWEN25_7B,
    "base-arith": BASE_ARITH,
    "base-world": BASE_WORLD,
    "student-qwen": STUDENT_QWEN,
    "student-llama": STUDENT_LLAMA,
    "peer-small": PEER_SMALL,
    "peer-moe": PEER_MOE,
    "tiny": TINY,
    "tiny-dense": TINY_DENSE,
}


def get(name: str) -> ModelConfig:
  """The preset `name`.

  Raises:
    ValueError: unknown; the message lists the presets.
  """
  if name not in PRESETS:
    raise ValueError(
        f"preset {name!r} is unknown; choose one of {', '.join(PRESETS)}")
  return PRESETS[name]
