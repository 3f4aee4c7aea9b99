"""Objectives of updates: terms as (sum, weight) pairs, and their metrics."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from r1jax.core import masked
from r1jax.core.config import check
from r1jax.core.types import TokenBatch
from r1jax.losses import distill as distill_lib
from r1jax.losses import mtp, policy, segments, sft
from r1jax.losses.distill import DistillConfig
from r1jax.losses.policy import PolicyConfig
from r1jax.models.model import Model
from r1jax.ops.logprobs import (
  chunked_cross_entropy,
  chunked_divergence,
  chunked_logprobs,
)
from r1jax.training.metrics import Metrics

Pair = tuple[jax.Array, jax.Array]
NO_TEACHER = DistillConfig()


class Result(NamedTuple):
  """The objective on one micro-batch.

  Attributes:
    terms: name -> (sum, weight), differentiable.
    metrics: without gradient.
    load_LE: float32 tokens per expert, with the rows of the router bias (zeros
      for a layer that did not run).
  """

  terms: dict[str, Pair]
  metrics: Metrics
  load_LE: jax.Array


@dataclasses.dataclass(frozen=True)
class Objective:
  """sum over terms of factor * (sum over the batch / weight of the batch).

  Attributes:
    factors: term -> its factor.
    weights: batch -> {term: weight}, equal to the weights that `evaluate`
      returns. They do not depend on the parameters, so the weights of all
      micro-batches can be summed before any gradient is computed.
    evaluate: (params, router_bias_LE, batch) -> Result.
  """

  factors: Mapping[str, float]
  weights: Callable[[TokenBatch], dict[str, jax.Array]]
  evaluate: Callable[[Any, jax.Array, TokenBatch], Result]


@dataclasses.dataclass(frozen=True, kw_only=True)
class LmConfig:
  """Language modelling: pre-training and supervised fine-tuning.

  Attributes:
    mtp: factor lambda of the multi-token prediction loss (V3: 0.3, later 0.1).
    balance: factor alpha of the sequence-wise balance loss (V3: 1e-4).
  """

  mtp: float = 0.0
  balance: float = 0.0

  def __post_init__(self):
    for name in ("mtp", "balance"):
      value = getattr(self, name)
      check(value >= 0, f"{name}={value} must not be negative")


def lm_objective(model: Model, cfg: LmConfig) -> Objective:
  """Cross-entropy + lambda * MTP loss + alpha * balance loss.

  Raises:
    ValueError: a factor is positive but the model has no MTP module or experts.
  """
  check(not cfg.mtp or model.cfg.n_mtp > 0,
        f"mtp={cfg.mtp}, but the model has no MTP module; set it to 0")
  _check_balance(model, cfg.balance)
  factors = _chosen(cross_entropy=1.0, mtp=cfg.mtp, balance=cfg.balance)

  def weights(batch):
    totals = {"cross_entropy": sft.cross_entropy_weight(
        batch.mask_BT, batch.weights_BT)}
    if cfg.mtp:
      totals["mtp"] = sft.cross_entropy_weight(
          mtp.mtp_targets(batch)[1], _ahead(batch))
    return totals | _balance_weight(batch, cfg.balance)

  def evaluate(params, bias_LE, batch):
    out = _forward(model, params, bias_LE, batch, cfg.balance)
    w_DV = model.head(params)
    logprobs_BT, entropy_BT = chunked_logprobs(
        out.hidden_BTD, w_DV, batch.targets_BT, **_how(model))
    terms = {"cross_entropy": sft.cross_entropy(
        logprobs_BT, batch.mask_BT, batch.weights_BT)}
    loads, balance = [out.load_LE], out.balance[0]
    if cfg.mtp:
      ahead = model.mtp(
          params, bias_LE, out.hidden_BTD, batch.targets_BT,
          batch.positions_BT, batch.segments_BT, balance=cfg.balance > 0)
      targets_BT, mask_BT = mtp.mtp_targets(batch)
      ahead_BT, _ = chunked_logprobs(
          ahead.hidden_BTD, w_DV, targets_BT, entropy=False, **_how(model))
      terms["mtp"] = mtp.mtp_loss(ahead_BT, mask_BT, _ahead(batch))
      loads.append(ahead.load_LE)
      balance += ahead.balance[0]
    if cfg.balance:
      terms["balance"] = balance, out.balance[1]
    metrics = Metrics({"entropy": masked.total(entropy_BT, batch.mask_BT)}, {})
    return Result(terms, metrics, _load(loads, bias_LE))

  return Objective(factors, weights, evaluate)


def grpo_objective(model: Model, cfg: PolicyConfig, *, balance: float = 0.0,
                   draft: float = 0.0, temperature: float = 1.0,
                   distill: DistillConfig = NO_TEACHER,
                   teacher: Model | None = None) -> Objective:
  """Policy loss + alpha * balance loss + the MTP module's loss as a draft.

  Recorded experts in the batch are replayed: gates are computed from the
  current scores of the recorded experts, so gradients reach the router.

  The paper does not say whether R1 trains the MTP module in RL. Without `draft`
  the module is not used: leave it out of the trained parameters. With `draft`
  it learns to predict what the policy samples, for speculative decoding, and
  the rest of the model gets no gradient from it (see `_draft`).

  Metrics: those of `policy_loss`; `entropy`; if the sampler recorded its
  log-probabilities, `logp_diff` and `logp_diff_max`, the mean and largest
  absolute difference to the policy before the update (nats); with replay
  `flip_rate`, the share of (token, layer) pairs where the router would have
  chosen another set of experts; with a teacher's advantages `teacher_kl`; with
  `draft` `draft_kl`, its cross-entropy (`loss/draft`) minus the policy's
  entropy, and `draft_agreement`, the share of positions where both have the
  same most likely token.

  Args:
    model: the policy.
    cfg: options of the loss.
    balance: factor alpha of the sequence-wise balance loss.
    draft: factor of the MTP module's loss, 0.1 to 0.2; 0 is off.
    temperature: the sampler's.
    distill: how a teacher enters: advantages, and a term `distill`.
    teacher: the teacher's model, for that term. The parameters must then
      include `teacher_part`.

  Raises:
    ValueError: a factor is positive but the model has no MTP module or experts.
  """
  _check_balance(model, balance)
  check(draft >= 0, f"draft={draft} must not be negative")
  check(not draft or model.cfg.n_mtp > 0,
        f"draft={draft}, but the model has no MTP module; set it to 0")
  factors = _chosen(policy=1.0, balance=balance, draft=draft,
                    distill=distill.divergence)

  def weights(batch):
    totals = {"policy": policy.policy_weight(batch, cfg)}
    if draft:
      totals["draft"] = sft.cross_entropy_weight(mtp.mtp_targets(batch)[1])
    if distill.divergence:
      totals["distill"] = sft.cross_entropy_weight(batch.mask_BT)
    return totals | _balance_weight(batch, balance)

  def evaluate(params, bias_LE, batch):
    params, taught = _apart(params)
    out = _forward(model, params, bias_LE, batch, balance)
    logprobs_BT, entropy_BT = chunked_logprobs(
        out.hidden_BTD, model.head(params), batch.targets_BT,
        temperature=temperature, **_how(model))
    given, more = distill_lib.advantages(logprobs_BT, batch, distill)
    loss, means = policy.policy_loss(
        logprobs_BT, batch.replace(advantages_BT=given), cfg)
    drift, maxima = _drift(logprobs_BT, out.experts_BTLA, batch)
    means |= more | drift | {
        "entropy": masked.total(entropy_BT, batch.mask_BT)}
    terms, loads = {"policy": loss}, [out.load_LE]
    if balance:
      terms["balance"] = out.balance
    if distill.divergence:
      terms["distill"] = _divergence(
          model, params, out.hidden_BTD, teacher, taught, batch,
          beta=distill.beta, temperature=temperature)
    if draft:
      terms["draft"], more, load_LE = _draft(
          model, params, bias_LE, batch, out.hidden_BTD, entropy_BT,
          temperature)
      means |= more
      loads.append(load_LE)
    metrics = jax.lax.stop_gradient(Metrics(means, maxima))
    return Result(terms, metrics, _load(loads, bias_LE))

  return Objective(factors, weights, evaluate)


def _drift(logprobs_BT, experts_BTLA, batch):
  """(means, maxima) of the differences between policy and sampler."""
  means, maxima = {}, {}
  if batch.sampler_logprobs_BT is not None:
    old_BT = batch.old_logprobs_BT
    old_BT = logprobs_BT if old_BT is None else old_BT
    gap_BT = jnp.abs(old_BT - batch.sampler_logprobs_BT)
    means["logp_diff"] = masked.total(gap_BT, batch.mask_BT)
    maxima["logp_diff_max"] = masked.maximum(gap_BT, batch.mask_BT)
  if batch.experts_BTLA is not None:
    means["flip_rate"] = flips(
        experts_BTLA, batch.experts_BTLA, batch.segments_BT)
  return means, maxima


def teacher_part(params: Any, bias_LE: jax.Array) -> dict[str, Any]:
  """The teacher as a part of the parameters, which must not be trained."""
  return {"teacher": {"params": params, "router_bias_LE": bias_LE}}


def _apart(params):
  """(the student's parameters, the teacher's part or None)."""
  own = {name: part for name, part in params.items() if name != "teacher"}
  return own, params.get("teacher")


def _divergence(model, params, hidden_BTD, teacher, taught, batch, *, beta,
                temperature):
  """(sum over trained tokens, their number) of the divergence from a teacher.

  Vocabularies may be padded to different sizes: both distributions are
  restricted to the smaller one.
  """
  fixed = jax.lax.stop_gradient(taught)
  out = _forward(teacher, fixed["params"], fixed["router_bias_LE"],
                 batch.replace(experts_BTLA=None), 0.0)
  size = min(model.cfg.vocab_size, teacher.cfg.vocab_size)
  divergence_BT = chunked_divergence(
      hidden_BTD, model.head(params)[:, :size], out.hidden_BTD,
      teacher.head(fixed["params"])[:, :size], beta=beta,
      temperature=temperature, **_how(model))
  return masked.total(divergence_BT, batch.mask_BT)


def _how(model):
  """Arguments of the chunked log-probabilities."""
  return dict(precision=model.compute.products, axes=model.place.axes)


def _draft(model, params, bias_LE, batch, hidden_BTD, entropy_BT, temperature):
  """Loss of the MTP module as a draft of the policy.

  -sum_v p_{t+1}(v) log q_t(v) at each position t that `mtp.mtp_targets` keeps,
  with q_t the module's distribution of token t + 2 and p_{t+1} the policy's of
  the same token, both at the sampler's temperature. Hidden states, embedding,
  head and p are detached, so only `params["mtp"]` has a gradient.

  Returns:
    ((sum, weight), metrics, tokens sent to each of the module's experts).
  """
  hidden_BTD = jax.lax.stop_gradient(hidden_BTD)
  fixed = jax.lax.stop_gradient(params)
  out = model.mtp(
      {**fixed, "mtp": params["mtp"]}, bias_LE, hidden_BTD, batch.targets_BT,
      batch.positions_BT, batch.segments_BT)
  cross_BT, agree_BT = chunked_cross_entropy(
      out.hidden_BTD, mtp.ahead(hidden_BTD), model.head(fixed),
      temperature=temperature, **_how(model))
  mask_BT = mtp.mtp_targets(batch)[1]
  gap_BT = cross_BT - mtp.ahead(entropy_BT)
  means = {"draft_kl": masked.total(gap_BT, mask_BT),
           "draft_agreement": masked.total(agree_BT, mask_BT)}
  return masked.total(cross_BT, mask_BT), means, out.load_LE


def flips(chosen_BTLA: jax.Array, recorded_BTLA: jax.Array,
          segments_BT: jax.Array) -> Pair:
  """(number of (token, layer) pairs with different experts, number of pairs).

  Padding is left out; the order of experts does not matter.
  """
  found_BTLA = jnp.any(
      recorded_BTLA[..., :, None] == chosen_BTLA[..., None, :], -1)
  flipped_BTL = ~jnp.all(found_BTLA, -1)
  real_BTL = jnp.broadcast_to(segments_BT[:, :, None] > 0, flipped_BTL.shape)
  return masked.total(flipped_BTL, real_BTL)


def _forward(model, params, bias_LE, batch, balance):
  return model.forward(
      params, bias_LE, batch.tokens_BT, batch.positions_BT, batch.segments_BT,
      experts_BTLA=batch.experts_BTLA, balance=balance > 0)


def _ahead(batch):
  """Loss weights of the MTP module's targets."""
  return None if batch.weights_BT is None else mtp.ahead(batch.weights_BT)


def _balance_weight(batch, balance):
  if not balance:
    return {}
  segments_BT = jnp.asarray(batch.segments_BT)
  return {"balance": segments.count(segments_BT, segments_BT)}


def _check_balance(model, balance):
  check(not balance or model.cfg.n_experts > 0,
        f"balance={balance}, but the model has no experts; set it to 0")


def _chosen(**factors):
  return {name: factor for name, factor in factors.items() if factor}


def _load(loads, bias_LE):
  """The loads concatenated, padded with zeros to the rows of the bias."""
  if not bias_LE.size:
    return bias_LE
  load_LE = jnp.concatenate(loads)
  return jnp.pad(load_LE, ((0, len(bias_LE) - len(load_LE)), (0, 0)))
