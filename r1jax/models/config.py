"""A model's architecture: sizes and options, without dtypes and mesh."""

from __future__ import annotations

import dataclasses

import numpy as np

from r1jax.core.config import check
from r1jax.ops import rope


@dataclasses.dataclass(frozen=True, kw_only=True)
class RopeConfig:
  """Rotary embedding.

  Attributes:
    theta: base of the frequencies.
    scaling: `none`, `yarn` or `llama3`.
    factor: new context length / original context length.
    original: length of the original context, in positions.
    beta_fast, beta_slow: rotations within the original context above which YaRN
      keeps a frequency, and below which it divides it by `factor`.
    mscale: YaRN's correction of the softmax scale in latent attention (1.0 in
      V3, 0.707 in V2-Lite; 0 is none), see `rope.yarn_mscale`.
    attention_factor: YaRN's factor on cos and sin: 1 in DeepSeek's models,
      0.1 ln(factor) + 1 in dense ones.
    low_factor, high_factor: Llama 3's limits: original context / wavelength
      below and above which frequencies are scaled and kept.
  """

  theta: float = 10000.0
  scaling: str = "none"
  factor: float = 1.0
  original: int = 4096
  beta_fast: float = 32.0
  beta_slow: float = 1.0
  mscale: float = 1.0
  attention_factor: float = 1.0
  low_factor: float = 1.0
  high_factor: float = 4.0

  def __post_init__(self):
    check(self.scaling in ("none", "yarn", "llama3"),
          f"rope scaling={self.scaling!r}: choose none, yarn or llama3")


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelConfig:
  """A decoder: DeepSeek-V2/V3 (`mla`) or Qwen2/Llama/Gemma 3 (`gqa`).

  The first `n_dense_layers` have a dense feed-forward of width `d_ff`. The rest
  have `n_experts` routed experts of width `d_expert`, `n_activated` of them per
  token, and `n_shared` shared experts. `n_experts=0` makes all layers dense.
  `q_rank=0` projects queries directly. `max_position` is the longest context in
  tokens; YaRN is active if it exceeds `rope.original`, as in DeepSeek's code.
  `qk_norm` normalises each head's queries and keys before RoPE (Qwen3).

  Gemma 3 (arXiv:2503.19786): `post_norms` adds a norm after attention and after
  the feed-forward, `norm_offset` is added to the gain of every norm,
  `embed_scale` multiplies embeddings (not the head), `activation` is that of
  the gate, and `query_scale` replaces 1/sqrt(head width) as the factor of the
  scores. All layers but every `global_every`th are local: they use the RoPE
  base `local_theta`, without scaling. Sliding windows are not implemented, so
  `max_position` must not exceed the window, where both are the same.
  """

  attention: str = "mla"
  vocab_size: int
  d_model: int
  n_layers: int
  n_heads: int
  d_ff: int
  max_position: int
  rope: RopeConfig = RopeConfig()
  norm_eps: float = 1e-6
  init_std: float = 0.02
  tie_embeddings: bool = False
  q_rank: int = 0
  kv_rank: int = 0
  nope_dim: int = 0
  rope_dim: int = 0
  v_dim: int = 0
  n_kv_heads: int = 0
  head_dim: int = 0
  qkv_bias: bool = False
  o_bias: bool = False
  qk_norm: bool = False
  post_norms: bool = False
  norm_offset: float = 0.0
  embed_scale: float = 1.0
  activation: str = "silu"
  query_scale: float | None = None
  local_theta: float | None = None
  global_every: int = 1
  n_dense_layers: int = 0
  n_experts: int = 0
  n_shared: int = 0
  n_activated: int = 0
  d_expert: int = 0
  n_groups: int = 1
  n_limited_groups: int = 1
  score: str = "sigmoid"
  selection_bias: bool = True
  normalize_gates: bool = True
  route_scale: float = 1.0
  n_mtp: int = 0

  def __post_init__(self):
    check(self.attention in ("mla", "gqa"),
          f"attention={self.attention!r}: choose mla or gqa")
    if self.attention == "mla":
      check(min(self.kv_rank, self.nope_dim, self.rope_dim, self.v_dim) > 0,
            "attention='mla' needs kv_rank, nope_dim, rope_dim and v_dim")
    else:
      check(self.n_kv_heads > 0 and self.n_heads % self.n_kv_heads == 0,
            f"n_heads={self.n_heads} is no multiple of"
            f" n_kv_heads={self.n_kv_heads}")
      check(self.n_mtp == 0, "multi-token prediction needs attention='mla'")
    check(self.activation in ("silu", "gelu"),
          f"activation={self.activation!r}: choose silu or gelu")
    check(self.global_every > 0,
          f"global_every={self.global_every} must be positive")
    check(self.activation == "silu" and self.local_theta is None
          or not self.n_experts, "a model with experts needs activation='silu'"
          " and no local_theta")
    check(self.rotated % 2 == 0, f"rotated width {self.rotated} must be even")
    if self.n_experts:
      self._check_experts()

  def _check_experts(self):
    check(self.n_experts % self.n_groups == 0,
          f"n_experts={self.n_experts} is no multiple of"
          f" n_groups={self.n_groups}")
    check(self.n_limited_groups <= self.n_groups, "n_limited_groups="
          f"{self.n_limited_groups} is more than n_groups={self.n_groups}")
    reachable = self.n_experts // self.n_groups * self.n_limited_groups
    check(0 < self.n_activated <= reachable,
          f"n_activated={self.n_activated}: the {self.n_limited_groups} groups"
          f" a token may use hold {reachable} experts")
    check(self.n_dense_layers < self.n_layers,
          f"n_dense_layers={self.n_dense_layers} leaves none of"
          f" n_layers={self.n_layers} for experts; set n_experts=0")

  @property
  def n_mixture_layers(self) -> int:
    """Number of layers with routed experts, without the MTP module's."""
    return self.n_layers - self.n_dense_layers if self.n_experts else 0

  @property
  def rotated(self) -> int:
    """Width of a head's part that RoPE rotates."""
    return self.rope_dim if self.attention == "mla" else self.head_dim

  @property
  def stretched(self) -> bool:
    """Whether YaRN is active."""
    return (self.rope.scaling == "yarn"
            and self.max_position > self.rope.original)

  @property
  def softmax_scale(self) -> float:
    """`query_scale`, or 1/sqrt(head width), times YaRN's m^2 for `mla`."""
    if self.query_scale is not None:
      return self.query_scale
    if self.attention == "gqa":
      return self.head_dim ** -0.5
    scale = (self.nope_dim + self.rope_dim) ** -0.5
    if not self.stretched:
      return scale
    return scale * rope.yarn_mscale(self.rope.factor, self.rope.mscale) ** 2

  @property
  def rope_scale(self) -> float:
    """The factor on cos and sin."""
    return self.rope.attention_factor if self.stretched else 1.0

  def rope_frequencies(self) -> np.ndarray:
    """float64 [rotated/2], radians per position."""
    r = self.rope
    freqs = rope.frequencies(self.rotated, r.theta)
    if self.stretched:
      return rope.yarn(freqs, r.theta, r.factor, r.original, r.beta_fast,
                       r.beta_slow)
    if r.scaling == "llama3":
      return rope.llama3(freqs, r.factor, r.original, r.low_factor,
                         r.high_factor)
    return freqs

  def local_frequencies(self) -> np.ndarray | None:
    """Frequencies of local layers, as `rope_frequencies`; None without them."""
    if self.local_theta is None:
      return None
    return rope.frequencies(self.rotated, self.local_theta)

  def local_layers(self) -> np.ndarray | None:
    """bool [n_layers], which layers are local; None if there are none."""
    if self.local_theta is None:
      return None
    return np.arange(1, self.n_layers + 1) % self.global_every != 0

  def check_length(self, length: int, what: str) -> None:
    """Raises ValueError when `what` of `length` tokens exceeds the context."""
    check(length <= self.max_position,
          f"{what} is {length} tokens, the model's context is"
          f" {self.max_position}; shorten it or choose a model with a longer"
          " context")


def describe(config: ModelConfig) -> str:
  """One line for logs: kind, layers, width, experts, context."""
  experts = (f", {config.n_experts} experts top-{config.n_activated} +"
             f" {config.n_shared} shared" if config.n_experts else "")
  return (f"{config.attention} decoder, {config.n_layers} layers, width"
          f" {config.d_model}{experts}, context {config.max_position}")
