"""The decoder: blocks, scans over them, and the multi-token prediction module.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from r1jax.models import layers
from r1jax.models.compute import REMAT, Compute
from r1jax.models.config import ModelConfig
from r1jax.models.deepseek import Mixture, Mla
from r1jax.models.dense import FeedForward, Gqa
from r1jax.ops import embedding, rope, router
from r1jax.ops.linear import linear
from r1jax.ops.norms import rms_norm
from r1jax.sharding.mesh import Place
from r1jax.sharding.rules import constrain, gather_part

ATTENTION = {"mla": Mla, "gqa": Gqa}


class BlockOutput(NamedTuple):
  """Results of a block beside its activations; None if not computed.

  Attributes:
    latents: KV cache of the block's tokens, if requested.
    experts: int32 [B, T, A], those that the router chose.
    load_E: float32, tokens per expert, without padding.
    balance: (sum, number of sequences) of the balance loss, if requested.
  """

  latents: Any = None
  experts: jax.Array | None = None
  load_E: jax.Array | None = None
  balance: tuple[jax.Array, jax.Array] | None = None


class Block(nn.Module):
  """Pre-norm residual block: x += attention(norm x); x += ffn(norm x).

  With `post_norms` the outputs of attention and ffn are normed before they are
  added.
  """

  cfg: ModelConfig
  compute: Compute
  place: Place
  mixture: bool
  latents: bool = False
  balance: bool = False

  def setup(self):
    cfg, dtype = self.cfg, self.compute.param_dtype
    self.norm_1 = layers.scale(self, "norm_1", cfg.d_model, dtype)
    self.norm_2 = layers.scale(self, "norm_2", cfg.d_model, dtype)
    if cfg.post_norms:
      self.post_1 = layers.scale(self, "post_1", cfg.d_model, dtype)
      self.post_2 = layers.scale(self, "post_2", cfg.d_model, dtype)
    self.attn = ATTENTION[cfg.attention](cfg, self.compute, self.place)
    self.ffn = (Mixture(cfg, self.compute, self.place) if self.mixture else
                FeedForward(cfg, self.compute, self.place, cfg.d_ff))

  def __call__(self, x_BTD: jax.Array, bias_E: jax.Array | None,
               replay_BTA: jax.Array | None, is_local: jax.Array | None,
               context: layers.Context) -> tuple[jax.Array, BlockOutput]:
    cfg = self.cfg
    y, cache = self.attn(rms_norm(x_BTD, self.norm_1, cfg.norm_eps),
                         context.of(is_local))
    x_BTD = self._placed(x_BTD + self._after(y, 1))
    h_BTD = rms_norm(x_BTD, self.norm_2, cfg.norm_eps)
    out = BlockOutput(latents=cache if self.latents else None)
    if not self.mixture:
      return self._placed(x_BTD + self._after(self.ffn(h_BTD), 2)), out
    y, chosen_BTA, scores_BTE = self.ffn(h_BTD, bias_E, replay_BTA)
    y = self._after(y, 2)
    out = out._replace(experts=chosen_BTA, load_E=router.load(
        chosen_BTA, context.segments_BT > 0, cfg.n_experts))
    if self.balance:
      out = out._replace(balance=router.balance_loss(
          scores_BTE, context.segments_BT, cfg.n_activated))
    return self._placed(x_BTD + y), out

  def _after(self, y, part):
    """The output of a part, with its post-norm if the config has them."""
    if not self.cfg.post_norms:
      return y
    return rms_norm(y, self.post_1 if part == 1 else self.post_2,
                    self.cfg.norm_eps)

  def _placed(self, x_BTD):
    axes = ("act_batch", "act_length", "act_embed")
    return constrain(x_BTD, axes, self.place.layout)

  def decode(self, x_BTD: jax.Array, bias_E: jax.Array | None, cache: Any,
             slot: layers.Slot) -> tuple[jax.Array, Any, jax.Array | None]:
    eps = self.cfg.norm_eps
    y, cache = self.attn.decode(rms_norm(x_BTD, self.norm_1, eps), cache, slot)
    x_BTD = x_BTD + self._after(y, 1)
    h_BTD = rms_norm(x_BTD, self.norm_2, eps)
    if not self.mixture:
      return x_BTD + self._after(self.ffn(h_BTD), 2), cache, None
    y, chosen, _ = self.ffn(h_BTD, bias_E, None)
    return x_BTD + self._after(y, 2), cache, chosen


class Decoder(nn.Module):
  """Embedding, two scans of blocks (dense, then mixtures), norm, head, MTP."""

  cfg: ModelConfig
  compute: Compute
  place: Place
  balance: bool = False
  latents: bool = False  # whether the MTP module returns its KV cache

  def setup(self):
    cfg, dtype = self.cfg, self.compute.param_dtype
    init, d, v = layers.normal(cfg.init_std), cfg.d_model, cfg.vocab_size
    # The decoding layout may have a tied embedding as the head, [D, V].
    self.turned = cfg.tie_embeddings and self.has_variable("params", "w_head")
    if not self.turned:
      self.embed = layers.weight(self, "embed", ("vocab", "embed"), (v, d),
                                 init, dtype)
    n_mixture = cfg.n_mixture_layers
    if cfg.n_layers - n_mixture:
      self.dense_blocks = self._scan(False, cfg.n_layers - n_mixture)
    if n_mixture:
      self.mixture_blocks = self._scan(True, n_mixture)
    self.norm = layers.scale(self, "norm", d, dtype)
    if self.turned or not cfg.tie_embeddings:
      self.w_head = layers.weight(self, "w_head", ("embed", "vocab"), (d, v),
                                  init, dtype)
    if cfg.n_mtp:
      self.mtp = Mtp(cfg, self.compute, self.place, balance=self.balance,
                     latents=self.latents)

  def _scan(self, mixture, length):
    block = Block
    unroll = self.compute.unrolled(length, self.place.backend)
    policy = REMAT[self.compute.remat]
    if policy is not None:
      # In unrolled layers XLA would merge recomputation and forward pass.
      block = nn.remat(Block, policy=policy, prevent_cse=unroll > 1)
    scanned = nn.scan(
        block, variable_axes={"params": 0}, split_rngs={"params": True},
        in_axes=(0, 0, 0, nn.broadcast), length=length, unroll=unroll,
        metadata_params={nn.PARTITION_NAME: "layers"})
    return scanned(self.cfg, self.compute, self.place, mixture,
                   balance=self.balance)

  def __call__(self, tokens_BT: jax.Array, bias_LE: jax.Array,
               replay_LBTA: jax.Array | None, context: layers.Context
               ) -> tuple[jax.Array, BlockOutput]:
    """Tokens -> (states after the final norm, outputs of the mixture layers).
    """
    cfg = self.cfg
    x_BTD, mixture = self.lookup(tokens_BT), BlockOutput()
    if cfg.n_layers - cfg.n_mixture_layers:
      x_BTD, _ = self.dense_blocks(
          x_BTD, None, None, cfg.local_layers(), context)
    if cfg.n_mixture_layers:
      x_BTD, mixture = self.mixture_blocks(
          x_BTD, bias_LE[:cfg.n_mixture_layers], replay_LBTA, None, context)
    return self.finish(x_BTD), mixture

  def everything(self, tokens_BT, bias_LE, context):
    """Uses every parameter; only for `init`."""
    hidden, _ = self(tokens_BT, bias_LE, None, context)
    if self.cfg.n_mtp:
      self.predict(hidden, tokens_BT, bias_LE, context)

  def lookup(self, tokens: jax.Array) -> jax.Array:
    """Embeddings [..., D] in the compute dtype."""
    layout = self.place.layout
    if self.turned:
      return self._scaled(embedding.columns(self.w_head, tokens))
    embed = self.embed
    if self.place.axes:
      # Gather the width of the table first: else the compiler gathers that of
      # the looked-up rows of all tokens.
      embed = gather_part(
          embed, ("vocab", "embed"), self.compute.dtype, layout)
      embed = constrain(embed, ("act_vocab", None), layout)
    return self._scaled(embedding.lookup(embed, tokens))

  def _scaled(self, embedded):
    x, scale = embedded.astype(self.compute.dtype), self.cfg.embed_scale
    return x if scale == 1 else x * jnp.asarray(scale, x.dtype)

  def finish(self, x: jax.Array) -> jax.Array:
    """The final norm."""
    return rms_norm(x, self.norm, self.cfg.norm_eps)

  def predict(self, hidden_BTD, next_tokens_BT, bias_LE, context):
    """Hidden states that predict the token after the next (MTP)."""
    bias_E = bias_LE[-1] if self.cfg.n_experts else None
    return self.mtp(hidden_BTD, self.lookup(next_tokens_BT), bias_E, context)

  def propose(self, hidden_BTD, next_tokens_BT, bias_LE, cache, slot):
    """`predict` for a few tokens, with a cache; returns (states, cache)."""
    bias_E = bias_LE[-1] if self.cfg.n_experts else None
    return self.mtp.decode(
        hidden_BTD, self.lookup(next_tokens_BT), bias_E, cache, slot)


class Mtp(nn.Module):
  """Multi-token prediction at depth one (V3, section 2.2).

  h' = M [norm(embedding of token i+1); norm(hidden of token i)], then a block,
  then a norm of its own. Embedding and head are the main model's.

  Departure: the paper prints the order [hidden; embedding]. The order here, and
  hidden states taken after the final norm, are those of the published
  checkpoints' loaders.
  """

  cfg: ModelConfig
  compute: Compute
  place: Place
  balance: bool = False
  latents: bool = False

  def setup(self):
    cfg, dtype = self.cfg, self.compute.param_dtype
    d = cfg.d_model
    self.e_norm = layers.scale(self, "e_norm", d, dtype)
    self.h_norm = layers.scale(self, "h_norm", d, dtype)
    self.w_join = layers.weight(self, "w_join", (None, "embed"), (2 * d, d),
                                layers.normal(cfg.init_std), dtype)
    self.norm = layers.scale(self, "norm", d, dtype)
    self.block = Block(cfg, self.compute, self.place, bool(cfg.n_experts),
                       latents=self.latents, balance=self.balance)

  def __call__(self, hidden_BTD: jax.Array, next_BTD: jax.Array,
               bias_E: jax.Array | None, context: layers.Context
               ) -> tuple[jax.Array, BlockOutput]:
    x_BTD, out = self.block(
        self._joined(hidden_BTD, next_BTD), bias_E, None, None, context)
    return rms_norm(x_BTD, self.norm, self.cfg.norm_eps), out

  def decode(self, hidden_BTD: jax.Array, next_BTD: jax.Array,
             bias_E: jax.Array | None, cache: Any, slot: layers.Slot
             ) -> tuple[jax.Array, Any]:
    x_BTD, cache, _ = self.block.decode(
        self._joined(hidden_BTD, next_BTD), bias_E, cache, slot)
    return rms_norm(x_BTD, self.norm, self.cfg.norm_eps), cache

  def _joined(self, hidden_BTD, next_BTD):
    eps = self.cfg.norm_eps
    joined = jnp.concatenate([rms_norm(next_BTD, self.e_norm, eps),
                              rms_norm(hidden_BTD, self.h_norm, eps)], -1)
    return linear(joined, self.w_join, how=layers.products(self))


def make_context(cfg: ModelConfig, positions_BT: jax.Array,
                 segments_BT: jax.Array) -> layers.Context:
  """cos, sin and segments of a full-sequence pass."""
  cos, sin = rope.angles(positions_BT, cfg.rope_frequencies(), cfg.rope_scale)
  return layers.Context(cos, sin, segments_BT, local_angles(cfg, positions_BT))


def local_angles(cfg: ModelConfig, positions: jax.Array
                 ) -> tuple[jax.Array, jax.Array] | None:
  """(cos, sin) of local layers; None if the model has none."""
  freqs = cfg.local_frequencies()
  return None if freqs is None else rope.angles(positions, freqs)
