"""Multi-token prediction at depth one (DeepSeek-V3, arXiv:2412.19437, 2.2)."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from r1jax.core.types import TokenBatch
from r1jax.losses import sft


def mtp_targets(batch: TokenBatch) -> tuple[jax.Array, jax.Array]:
  """Targets of the MTP module: at position t the token t + 2.

  That is the target at t + 1. It is trained if the main model trains it at
  t + 1, and t + 1 is in the same segment as t.

  Returns:
    (targets_BT int32, mask_BT float32); 0 in the last column.
  """
  segments_BT = jnp.asarray(batch.segments_BT)
  same_BT = (segments_BT > 0) & (ahead(segments_BT) == segments_BT)
  mask_BT = jnp.where(same_BT, ahead(batch.mask_BT), 0.0)
  return ahead(batch.targets_BT), mask_BT


def ahead(x: jax.Array) -> jax.Array:
  """x [B, T, ...] shifted: the entry of t + 1 at t; 0 in the last column."""
  x = jnp.asarray(x)
  return jnp.pad(x[:, 1:], ((0, 0), (0, 1)) + ((0, 0),) * (x.ndim - 2))


def mtp_loss(logprobs_BT: jax.Array, mask_BT: jax.Array,
             weights_BT: jax.Array | None = None
             ) -> tuple[jax.Array, jax.Array]:
  """Cross-entropy of the tokens after the next (eq. 24-25, D = 1).

  Departure: the mean is over the predicted tokens, where eq. 24 divides by the
  sequence length. The factor lambda is the caller's.

  Args:
    logprobs_BT: float32, of the targets of `mtp_targets`.
    mask_BT: the mask of `mtp_targets`.
    weights_BT: float32 factor of each of these targets; ones if None.

  Returns:
    (sum, weight), float32 scalars.
  """
  return sft.cross_entropy(logprobs_BT, mask_BT, weights_BT)
