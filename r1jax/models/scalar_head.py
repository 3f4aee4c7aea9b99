"""A reward model: a decoder with a scalar head.

The score of a conversation is the state of its last token, after the final
norm, times a vector; as in transformers' ...ForSequenceClassification with one
label.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp

from r1jax.core.types import ConversationBatch
from r1jax.models.compute import Compute
from r1jax.models.config import ModelConfig
from r1jax.models.model import Model, Output, Params, build

SCORE = "score"  # name of the head's parameter


@dataclasses.dataclass(frozen=True)
class ScalarModel:
  """A decoder with a scalar head; it has the methods that training calls.

  Attributes:
    trunk: the decoder, without unembedding and MTP (see `trunk_config`).
  """

  trunk: Model

  @property
  def cfg(self) -> ModelConfig:
    return self.trunk.cfg

  @property
  def compute(self) -> Compute:
    return self.trunk.compute

  def init(self, key: jax.Array) -> Params:
    """Random parameters: the trunk's and `score` [D, 1]."""
    return self.trunk.init(key) | {SCORE: self.init_head(key)}

  def init_head(self, key: jax.Array) -> jax.Array:
    """A new head, N(0, 1 / (D + 1)) (Stiennon et al., arXiv:2009.01325)."""
    width = self.cfg.d_model
    key = jax.random.fold_in(key, 1)
    head = jax.random.normal(key, (width, 1), jnp.float32)
    return (head / math.sqrt(width + 1)).astype(self.compute.param_dtype)

  def param_axes(self, params: Params | None = None) -> Params:
    """As `Model.param_axes`."""
    trunk = None if params is None else _trunk(params)
    return self.trunk.param_axes(trunk) | {SCORE: ("embed", None)}

  def cast(self, params: Params) -> Params:
    """As `Model.cast`; the head stays as it is."""
    return self.trunk.cast(_trunk(params)) | {SCORE: params[SCORE]}

  def casts_nothing(self, params: Params) -> bool:
    """As `Model.casts_nothing`."""
    return self.trunk.casts_nothing(_trunk(params))

  def init_router_bias(self) -> jax.Array:
    """As `Model.init_router_bias`."""
    return self.trunk.init_router_bias()

  def scores(self, params: Params, bias_LE: jax.Array,
             batch: ConversationBatch) -> tuple[jax.Array, Output]:
    """(float32 scores [B, T] of the text up to each position, trunk's Output).

    The scores where `batch.mask_BT` is 1 are those of whole conversations.
    """
    out = self.trunk.forward(
        _trunk(params), bias_LE, batch.tokens_BT, batch.positions_BT,
        batch.segments_BT)
    # A float32 sum, because backends may round the operands of a product.
    head_D = params[SCORE][:, 0].astype(jnp.float32)
    hidden_BTD = out.hidden_BTD.astype(jnp.float32)
    return jnp.sum(hidden_BTD * head_D[None, None], -1), out


def trunk_config(cfg: ModelConfig) -> ModelConfig:
  """A policy's config without unembedding and MTP module.

  `tie_embeddings` makes a decoder without an unembedding of its own.
  """
  return dataclasses.replace(cfg, tie_embeddings=True, n_mtp=0)


def over(cfg: ModelConfig, compute: Compute | None = None) -> ScalarModel:
  """A scalar head over the trunk of `cfg`."""
  return ScalarModel(build(trunk_config(cfg), compute))


def grown(model: ScalarModel, params: Params, router_bias_LE: jax.Array,
          key: jax.Array) -> tuple[Params, jax.Array]:
  """A reward model's parameters from a policy's, with a new head.

  Args:
    model: made from the policy's config.
    params: of the policy; the arrays are shared, not copied.
    router_bias_LE: of the policy.
    key: for the head's initial values.

  Returns:
    (parameters, router bias).
  """
  kept = {name: part for name, part in params.items()
          if name not in ("w_head", "mtp")}
  rows = len(model.init_router_bias())
  return kept | {SCORE: model.init_head(key)}, router_bias_LE[:rows]


def _trunk(params: Params) -> Any:
  return {name: part for name, part in params.items() if name != SCORE}
