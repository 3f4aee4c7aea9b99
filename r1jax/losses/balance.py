"""Auxiliary-loss-free balance of experts (DeepSeek-V3, arXiv:2412.19437)."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from r1jax.core import masked


def bias_update(bias_LE: jax.Array, load_LE: jax.Array, gamma: float
                ) -> jax.Array:
  """b += gamma sign(mean load - load) (section 2.1.2; arXiv:2408.15664).

  Args:
    bias_LE: float32 selection bias.
    load_LE: tokens sent to each expert over the whole batch. Layers that did
      not run (all zeros) keep their bias.
    gamma: bias update speed, 0.001 in V3's pre-training.

  Returns:
    float32 [L, E].
  """
  mean_L1 = jnp.mean(load_LE, -1, keepdims=True)
  return bias_LE + gamma * jnp.sign(mean_L1 - load_LE)


def load_metrics(load_LE: jax.Array, groups: int = 1) -> dict[str, jax.Array]:
  """Float32 scalars over the layers that ran; {} for a dense model.

  `max_over_mean`: tokens of the busiest expert divided by the mean, averaged
  over layers. `dead_fraction`: share of experts without any token.
  `device_max_over_mean`: as the first, for the tokens of a device, since the
  others wait for the busiest one; only with several groups.

  Args:
    load_LE: tokens sent to each expert.
    groups: number of devices that the experts are split over, in order.
  """
  if not load_LE.size:
    return {}
  ran_L = (jnp.sum(load_LE, -1) > 0).astype(jnp.float32)

  def busiest(load_LX):
    mean_L = jnp.mean(load_LX, -1)
    ratio_L = jnp.max(load_LX, -1) / jnp.where(mean_L > 0, mean_L, 1.0)
    return masked.mean(masked.total(ratio_L, ran_L))

  dead_L = jnp.mean((load_LE == 0).astype(jnp.float32), -1)
  metrics = {"max_over_mean": busiest(load_LE),
             "dead_fraction": masked.mean(masked.total(dead_L, ran_L))}
  if groups > 1:
    metrics["device_max_over_mean"] = busiest(
        jnp.sum(load_LE.reshape(len(load_LE), groups, -1), -1))
  return metrics
