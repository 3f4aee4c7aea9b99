"""Losses of reward models: on pairs, and on single answers.

R1 trains the helpful reward model on pairs and the safety reward model on
single answers (arXiv:2501.12948, section 3.1), without giving formulas. Here
the first loss is the negative Bradley-Terry log-likelihood with a margin (Llama
2, arXiv:2307.09288, eq. 2), the second the cross-entropy of a logistic
regression.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from r1jax.core import masked

Pair = tuple[jax.Array, jax.Array]


def pairwise(chosen: jax.Array, rejected: jax.Array, margin: jax.Array,
             mask: jax.Array, weights: jax.Array) -> Pair:
  """sum w -log sigmoid(chosen - rejected - margin).

  Args:
    chosen, rejected: float32 scores, any shape; the other arguments have the
      same.
    margin: by how much the chosen score should exceed the rejected one.
    mask: non-zero where there is a pair; other entries may be non-finite.
    weights: factor of each pair.

  Returns:
    (sum, sum of the weights), float32 scalars.
  """
  lead = masked.fill(chosen - rejected - margin, mask)
  return _weighed(jax.nn.softplus(-lead), mask, weights)


def centring(chosen: jax.Array, rejected: jax.Array, mask: jax.Array,
             weights: jax.Array) -> Pair:
  """sum w (chosen + rejected)^2, which keeps the level of scores near 0.

  `pairwise` depends on differences only, and leaves the level of the scores
  undetermined (Eisenstein et al., arXiv:2312.09244; TRL's factor for this term
  is 0.01). Arguments and result as for `pairwise`.
  """
  total = masked.fill(chosen + rejected, mask)
  return _weighed(total**2, mask, weights)


def pointwise(scores: jax.Array, labels: jax.Array, mask: jax.Array,
              weights: jax.Array) -> Pair:
  """sum w (-y log sigmoid(score) - (1 - y) log sigmoid(-score)).

  Args:
    scores: float32 log-odds that an answer is good (safe), any shape.
    labels: y: 1 good, 0 bad, or a probability.
    mask: non-zero where there is an answer; other entries may be non-finite.
    weights: factor of each answer.

  Returns:
    (sum, sum of the weights), float32 scalars.
  """
  scores, labels = masked.fill(scores, mask), masked.fill(labels, mask)
  # softplus(s) - y s avoids the logarithm of a rounded probability.
  return _weighed(jax.nn.softplus(scores) - labels * scores, mask, weights)


def weight(mask: jax.Array, weights: jax.Array) -> jax.Array:
  """The weight of all three losses, from mask and weights; float32 scalar."""
  return jnp.sum(masked.fill(jnp.asarray(weights, jnp.float32), mask))


def _weighed(loss: jax.Array, mask: jax.Array, weights: jax.Array) -> Pair:
  kept = masked.fill(jnp.asarray(weights, jnp.float32), mask)
  return jnp.sum(loss * kept), weight(mask, weights)
