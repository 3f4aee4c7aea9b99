"""Balance of the experts without a loss (DeepSeek-V3, arXiv:2412.19437)."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from r1jax.core import masked


def bias_update(bias_LE: jax.Array, load_LE: jax.Array, gamma: float
                ) -> jax.Array:
  """b += gamma sign(mean load - load) (section 2.1.2; arXiv:2408.15664).

  Args:
    bias_LE: float32 selection bias.
    load_LE: tokens of each expert over the whole batch. Layers that did not
      run (all zeros) keep their bias.
    gamma: step, 0.001 in V3's pre-training.

  Returns:
    float32 [L, E].
  """
  mean_L1 = jnp.mean(load_LE, -1, keepdims=True)
  return bias_LE + gamma * jnp.sign(mean_L1 - load_LE)


def load_metrics(load_LE: jax.Array, groups: int = 1) -> dict[str, jax.Array]:
  """Float32 scalars, over the layers that ran; empty for a dense model.

  `max_over_mean`: of each layer the busiest expert's tokens against the mean,
  averaged over layers. `dead_fraction`: experts without any token.
  `device_max_over_mean`: as the first, of the devices' tokens, whom the others
  wait for; where there are several groups.

  Args:
    load_LE: tokens of each expert.
    groups: that the experts are split over, in order.
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
