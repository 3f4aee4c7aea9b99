"""Parameters and floating-point operations, counted from a config.

A multiply-add is two operations. Norms, activations, softmax and rotary
embeddings are not counted (the usual convention for MFU); nor is the embedding
lookup, but the head is.
"""

from __future__ import annotations

import dataclasses

from r1jax.core.config import check
from r1jax.models.config import ModelConfig


@dataclasses.dataclass(frozen=True, kw_only=True)
class Parameters:
  """Numbers of parameters, the router's selection bias included.

  Attributes:
    total: the main model, with embedding and head (counted once if tied).
    active: those that one token uses: only its activated routed experts.
    products: those in matrices that one token is multiplied with: `active`
      without the embedding (unless tied), norms and biases.
    mtp: the multi-token prediction modules, not part of `total`.
    mtp_products: those in the modules' matrices that one token is multiplied
      with, without the head, which is shared with the main model.
  """

  total: int
  active: int
  products: int
  mtp: int
  mtp_products: int


def parameters(cfg: ModelConfig) -> Parameters:
  """Counts for `cfg` (671,026,419,200 and 37.55B active for DeepSeek-V3)."""
  d, v = cfg.d_model, cfg.vocab_size
  n_mixture = cfg.n_mixture_layers
  n_dense = cfg.n_layers - n_mixture
  attention, attention_small = _attention(cfg)
  expert = 3 * d * cfg.d_expert
  dense = attention + 3 * d * cfg.d_ff
  shared = attention + d * cfg.n_experts + cfg.n_shared * expert
  small = attention_small + 2 * d  # Two norms a block.
  bias = cfg.n_experts if cfg.selection_bias else 0
  blocks = n_dense * dense + n_mixture * (shared + cfg.n_activated * expert)
  idle = n_mixture * (cfg.n_experts - cfg.n_activated) * expert
  embeddings = d * v if cfg.tie_embeddings else 2 * d * v
  active = embeddings + blocks + cfg.n_layers * small + n_mixture * bias + d
  ffn_block = (shared + cfg.n_activated * expert) if cfg.n_experts else dense
  mtp_products = cfg.n_mtp * (ffn_block + 2 * d * d)
  mtp_idle = cfg.n_mtp * (
      (cfg.n_experts - cfg.n_activated) * expert if cfg.n_experts else 0)
  return Parameters(
      total=active + idle, active=active, products=blocks + d * v,
      mtp=mtp_products + mtp_idle + cfg.n_mtp * (small + 3 * d + bias),
      mtp_products=mtp_products)


def forward(cfg: ModelConfig, keys: float, *, absorbed: bool = False) -> float:
  """FLOPs of one token that attends to `keys` positions, head included.

  Args:
    cfg: the model.
    keys: positions attended to, the token's own included; the mean over the
      tokens of a causal sequence of T is (T + 1) / 2.
    absorbed: decoding on the latent cache (`mla` only): scores and values are
      products with the latent of width kv_rank instead of with each head's own
      keys and values. The absorbed projections cost as much as expanding one
      position.

  Raises:
    ValueError: `keys` is negative, or `absorbed` without latent attention.
  """
  check(keys >= 0, f"keys={keys} must not be negative")
  check(not absorbed or cfg.attention == "mla",
        f"absorbed=True needs attention='mla', not {cfg.attention!r}")
  per_layer = 2 * _pair(cfg, absorbed) * keys
  return 2 * parameters(cfg).products + cfg.n_layers * per_layer


def drafted(cfg: ModelConfig, keys: float, depth: int, *,
            absorbed: bool = False) -> float:
  """Operations of a decoding step with drafts, which gives one token or more.

  The model reads the latest token and the drafts after it; the multi-token
  prediction module follows with all of them and drafts the next token from one,
  then reads each of its drafts to draft another.

  Args:
    cfg: the model, with an MTP module.
    keys: see `forward`.
    depth: drafts of a step, at least 1.
    absorbed: see `forward`.
  """
  check(cfg.n_mtp > 0, "the model has no MTP module that drafts")
  head = 2 * cfg.d_model * cfg.vocab_size
  return (1 + depth) * forward(cfg, keys, absorbed=absorbed) + (
      2 * depth * module(cfg, keys, absorbed=absorbed) + depth * head)


def module(cfg: ModelConfig, keys: float, *, absorbed: bool = False) -> float:
  """Operations of one token in the MTP modules, without head; see `forward`."""
  return 2 * parameters(cfg).mtp_products + (
      cfg.n_mtp * 2 * _pair(cfg, absorbed) * keys)


def latents(cfg: ModelConfig) -> float:
  """Operations of one token in the MTP modules up to their latent cache."""
  d = cfg.d_model
  return cfg.n_mtp * 2 * (2 * d * d + d * (cfg.kv_rank + cfg.rope_dim))


def training(cfg: ModelConfig, length: int, *, mtp: bool = False) -> float:
  """FLOPs per token of forward and backward pass: 6 N plus attention.

  Args:
    cfg: the model.
    length: tokens of a causal sequence; the mean over them is returned.
    mtp: whether to count the multi-token prediction modules and their use of
      the head.

  Raises:
    ValueError: `length` is below 1.
  """
  check(length >= 1, f"length={length} must be at least 1")
  keys = (length + 1) / 2
  one_pass = forward(cfg, keys)
  if mtp:
    one_pass += module(cfg, keys) + (
        cfg.n_mtp * 2 * cfg.d_model * cfg.vocab_size)
  return 3 * one_pass


def sampling(cfg: ModelConfig, prompt: int, length: int) -> float:
  """FLOPs of one sample: `length` tokens decoded after a cached prompt.

  The prefill, `prompt * forward(cfg, (prompt + 1) / 2)`, is shared by the group
  and not counted here.

  Raises:
    ValueError: `prompt` or `length` is below 1.
  """
  check(prompt >= 1 and length >= 1,
        f"prompt={prompt} and length={length} must be at least 1")
  keys = prompt + (length + 1) / 2
  return length * forward(cfg, keys, absorbed=cfg.attention == "mla")


def head_widths(cfg: ModelConfig) -> tuple[int, int]:
  """(multiply-adds of a query with a key, with a value), over all heads."""
  if cfg.attention == "gqa":
    return cfg.n_heads * cfg.head_dim, cfg.n_heads * cfg.head_dim
  return cfg.n_heads * (cfg.nope_dim + cfg.rope_dim), cfg.n_heads * cfg.v_dim


def _attention(cfg: ModelConfig) -> tuple[int, int]:
  """(entries of matrices, entries of norms and biases) of one attention."""
  d, n = cfg.d_model, cfg.n_heads
  if cfg.attention == "gqa":
    h, k = cfg.head_dim, cfg.n_kv_heads
    vectors = ((n + 2 * k) * h * cfg.qkv_bias + d * cfg.o_bias
               + 2 * h * cfg.qk_norm)
    return 2 * d * n * h + 2 * d * k * h, vectors
  head = cfg.nope_dim + cfg.rope_dim
  query = (d * cfg.q_rank + cfg.q_rank * n * head if cfg.q_rank
           else d * n * head)
  down = d * (cfg.kv_rank + cfg.rope_dim)
  up = cfg.kv_rank * n * (cfg.nope_dim + cfg.v_dim)
  return query + down + up + n * cfg.v_dim * d, cfg.q_rank + cfg.kv_rank


def _pair(cfg: ModelConfig, absorbed: bool) -> int:
  """Multiply-adds of one query with one key and its value, over all heads."""
  if absorbed:
    return cfg.n_heads * (2 * cfg.kv_rank + cfg.rope_dim)
  return sum(head_widths(cfg))
