"""Losses of reward models: of pairs, and of single answers.

R1 trains the helpful model on pairs and the safety model on single answers
(arXiv:2501.12948, section 3.1); the formulas it does not give. Here the first
is the Bradley-Terry likelihood with a margin (Llama 2, arXiv:2307.09288, eq. 2)
and the second the cross-entropy of a logistic regression.
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
    chosen, rejected: float32 scores of either side, of one shape, as all are.
    margin: by how much the chosen one should lead.
    mask: non-zero where there is a pair; elsewhere may be anything.
    weights: factor of each pair.

  Returns:
    (sum, sum of the weights), float32 scalars.
  """
  lead = masked.fill(chosen - rejected - margin, mask)
  return _weighed(jax.nn.softplus(-lead), mask, weights)


def centring(chosen: jax.Array, rejected: jax.Array, mask: jax.Array,
             weights: jax.Array) -> Pair:
  """sum w (chosen + rejected)^2, which keeps the level of scores near 0.

  The loss of pairs knows differences alone: without this the level is where
  chance and the optimizer leave it (Eisenstein et al., arXiv:2312.09244; TRL's
  factor is 0.01). Arguments and result as `pairwise`.
  """
  total = masked.fill(chosen + rejected, mask)
  return _weighed(total**2, mask, weights)


def pointwise(scores: jax.Array, labels: jax.Array, mask: jax.Array,
              weights: jax.Array) -> Pair:
  """sum w (-y log sigmoid(score) - (1 - y) log sigmoid(-score)).

  Args:
    scores: float32, log-odds that an answer is good (safe).
    labels: y, 1 good, 0 bad, or a probability.
    mask: non-zero where there is an answer; elsewhere may be anything.
    weights: factor of each answer.

  Returns:
    (sum, sum of the weights), float32 scalars.
  """
  scores, labels = masked.fill(scores, mask), masked.fill(labels, mask)
  # softplus(s) - y s: neither logarithm is taken of a rounded probability.
  return _weighed(jax.nn.softplus(scores) - labels * scores, mask, weights)


def weight(mask: jax.Array, weights: jax.Array) -> jax.Array:
  """The weight of all three, from masks alone; float32 scalar."""
  return jnp.sum(masked.fill(jnp.asarray(weights, jnp.float32), mask))


def _weighed(loss: jax.Array, mask: jax.Array, weights: jax.Array) -> Pair:
  kept = masked.fill(jnp.asarray(weights, jnp.float32), mask)
  return jnp.sum(loss * kept), weight(mask, weights)
