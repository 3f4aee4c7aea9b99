"""Objectives of reward models."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from r1jax.core import masked
from r1jax.core.types import ConversationBatch
from r1jax.losses import preference, segments
from r1jax.models.scalar_head import ScalarModel
from r1jax.training.metrics import Metrics
from r1jax.training.objectives import Objective, Result


def pairwise_objective(model: ScalarModel, centre: float) -> Objective:
  """-log sigmoid(lead - margin) + centre * (sum of both scores)^2 for pairs.

  Batches have rows in pairs, see `ConversationBatch`. Metrics: `accuracy`, the
  share of pairs in the right order (ties count half); `lead`, the preferred
  score minus the other; `level`, the mean score.

  Args:
    model: the reward model.
    centre: factor of the second term; 0 leaves it out.
  """
  factors = {"pairwise": 1.0} | ({"centring": centre} if centre else {})

  def weights(batch):
    mask, weight = _pairs(batch, batch.mask_BT), _pairs(batch, batch.weights_BT)
    total_weight = preference.weight(_both(mask), weight[:, 0])
    return dict.fromkeys(factors, total_weight)

  def evaluate(params, bias_LE, batch):
    scores_BT, out = model.scores(params, bias_LE, batch)
    scores = _pairs(batch, masked.fill(scores_BT, batch.mask_BT))
    chosen, rejected = scores[:, 0], scores[:, 1]
    mask = _both(_pairs(batch, batch.mask_BT))
    margin, weight = (_pairs(batch, x)[:, 0]
                      for x in (batch.labels_BT, batch.weights_BT))
    terms = {"pairwise": preference.pairwise(
        chosen, rejected, margin, mask, weight)}
    if centre:
      terms["centring"] = preference.centring(chosen, rejected, mask, weight)
    lead = chosen - rejected
    right = (lead > 0) + 0.5 * (lead == 0)
    means = {"accuracy": masked.total(right, mask),
             "lead": masked.total(lead, mask),
             "level": masked.total((chosen + rejected) / 2, mask)}
    return _result(terms, means, out, bias_LE)

  return Objective(factors, weights, evaluate)


def pointwise_objective(model: ScalarModel) -> Objective:
  """Binary cross-entropy with the labels of single answers.

  Metrics: `accuracy`, the share of answers whose score has the right sign;
  `level`, the mean score.

  Args:
    model: the reward model.
  """
  def weights(batch):
    return {"pointwise": preference.weight(batch.mask_BT, batch.weights_BT)}

  def evaluate(params, bias_LE, batch):
    scores_BT, out = model.scores(params, bias_LE, batch)
    terms = {"pointwise": preference.pointwise(
        scores_BT, batch.labels_BT, batch.mask_BT, batch.weights_BT)}
    right_BT = (scores_BT > 0) == (batch.labels_BT > 0.5)
    means = {"accuracy": masked.total(right_BT, batch.mask_BT),
             "level": masked.total(scores_BT, batch.mask_BT)}
    return _result(terms, means, out, bias_LE)

  return Objective({"pointwise": 1.0}, weights, evaluate)


def _pairs(batch: ConversationBatch, x_BT: jax.Array) -> jax.Array:
  """[B / 2, 2, T + 1]: values of both sides of each pair, by segment number.

  `x_BT` is 0 except at the last token of each conversation.
  """
  sums_BT = segments.per_sequence(
      jnp.asarray(x_BT), jnp.asarray(batch.segments_BT))
  return sums_BT.reshape(len(sums_BT) // 2, 2, -1)


def _both(mask: jax.Array) -> jax.Array:
  return mask[:, 0] * mask[:, 1]


def _result(terms: dict[str, Any], means: dict[str, Any], out: Any,
            bias_LE: jax.Array) -> Result:
  metrics = jax.lax.stop_gradient(Metrics(means, {}))
  return Result(terms, metrics, out.load_LE if bias_LE.size else bias_LE)
