"""Cross-entropy of the trained tokens."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from r1jax.core import masked


def cross_entropy(
    logprobs_BT: jax.Array, mask_BT: jax.Array,
    weights_BT: jax.Array | None = None) -> tuple[jax.Array, jax.Array]:
  """-sum_t w_t log p(target_t) over the tokens that the mask keeps.

  Args:
    logprobs_BT: float32, of the targets.
    mask_BT: 1 where trained; other entries of `logprobs_BT` may be non-finite.
    weights_BT: float32 factor of each token; ones if None.

  Returns:
    (sum, sum of the unmasked tokens' weights), float32 scalars.
  """
  loss_BT = -masked.fill(logprobs_BT, mask_BT)
  if weights_BT is not None:
    loss_BT *= masked.fill(weights_BT, mask_BT)
  return jnp.sum(loss_BT), cross_entropy_weight(mask_BT, weights_BT)


def cross_entropy_weight(
    mask_BT: jax.Array, weights_BT: jax.Array | None = None) -> jax.Array:
  """The weight of `cross_entropy`, from mask and weights; float32 scalar."""
  kept_BT = (mask_BT != 0).astype(jnp.float32)
  if weights_BT is not None:
    kept_BT *= masked.fill(weights_BT, mask_BT)
  return jnp.sum(kept_BT)
