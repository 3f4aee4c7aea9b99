"""The GRPO objective; options select its published variants."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp

from r1jax.core import masked
from r1jax.core.config import check
from r1jax.core.types import TokenBatch
from r1jax.losses import segments

Pair = tuple[jax.Array, jax.Array]

# Differences of log-probabilities are clamped to +-20 before `exp`, as in
# verl's losses (`core_algos.py`). That is far outside any clip range. Without
# it e^89 is inf in float32, and inf * 0 (an advantage of 0) is NaN. Outside the
# limit the exponential has no gradient.
LOG_RATIO_LIMIT = 20.0
# Lower bound of log-probabilities: -inf - -inf would be NaN.
LOWEST_LOGPROB = -1e6

AGGREGATIONS = ("seq_mean_token_mean", "token_mean", "seq_sum", "constant")


@dataclasses.dataclass(frozen=True, kw_only=True)
class PolicyConfig:
  """Options of `policy_loss`.

  Attributes:
    objective: `clip` (PPO's pessimistic minimum) or `cispo` (MiniMax-M1: the
      log-probability is weighted by the clipped ratio without gradient, so that
      every token keeps a gradient).
    ratio: `token`, or `sequence` (GSPO: the ratio of every token is the
      geometric mean of the ratios of its sequence's tokens).
    clip_low, clip_high: the ratio is clipped to [1 - low, 1 + high].
    aggregation: `seq_mean_token_mean` (mean over sequences of the mean over
      their tokens), `token_mean` (mean over all tokens), `seq_sum` (mean over
      sequences of the sum over their tokens), `constant` (`seq_sum` divided by
      `max_length`).
    max_length: divisor of `constant`, in tokens; 0 stands for the longest
      completion that the run's settings allow.
    kl_beta: factor of the KL penalty to the reference policy in the loss.
    kl_estimator: of the KL per token, with d = log pi - log ref: `k1` d, `k2`
      d^2/2, `k3` exp(-d) + d - 1. In a loss, k1 has a gradient of mean zero.
    tis_cap: cap of the importance ratio pi_old / pi_sampler, which corrects for
      the gap between sampler and trainer; 0 is off.
    tis_kind: `truncate` weights each token by min(its ratio, cap) (truncated
      importance sampling); `mask` drops sequences whose ratio, the product over
      their tokens, is outside [1/cap, cap].
  """

  objective: str = "clip"
  ratio: str = "token"
  clip_low: float = 0.2
  clip_high: float = 0.2
  aggregation: str = "seq_mean_token_mean"
  max_length: int = 0
  kl_beta: float = 0.0
  kl_estimator: str = "k3"
  tis_cap: float = 0.0
  tis_kind: str = "truncate"

  def __post_init__(self):
    for name, choices in (
        ("objective", ("clip", "cispo")), ("ratio", ("token", "sequence")),
        ("aggregation", AGGREGATIONS), ("kl_estimator", ("k1", "k2", "k3")),
        ("tis_kind", ("truncate", "mask"))):
      value = getattr(self, name)
      check(value in choices, f"{name}={value!r}: choose {', '.join(choices)}")
    for name in ("clip_low", "clip_high", "kl_beta"):
      value = getattr(self, name)
      check(value >= 0, f"{name}={value} must not be negative")
    check(self.tis_cap == 0 or self.tis_cap >= 1,
          f"tis_cap={self.tis_cap}: give at least 1, or 0 for no correction")
    check(self.max_length >= 0,
          f"max_length={self.max_length} must not be negative")


def policy_loss(logprobs_BT: jax.Array, batch: TokenBatch, cfg: PolicyConfig
                ) -> tuple[Pair, dict[str, Pair]]:
  """Negated GRPO objective (DeepSeek-R1, Nature, eq. 1-3).

  The loss of each token is

    -w min(rho A, clip(rho, 1 - low, 1 + high) A) + beta KL

  with rho = pi / pi_old and w the correction of `tis_cap`, reduced over tokens
  as `aggregation` says.

  Departures: the paper prints output-level ratios and no reduction over tokens;
  here both are per token with a mean (DeepSeekMath, arXiv:2402.03300), unless
  the options say otherwise. `ratio="sequence"` is GSPO (arXiv:2507.18071, eq.
  5-7), `objective="cispo"` MiniMax-M1 (arXiv:2506.13585, eq. 4-5).

  Args:
    logprobs_BT: float32, of the policy being trained.
    batch: advantages; `old_logprobs_BT`, or None for a policy that was not
      updated since the rollout (the ratio is then 1, with the same gradient as
      otherwise); `ref_logprobs_BT` if kl_beta > 0; `sampler_logprobs_BT` if
      tis_cap > 0.
    cfg: the options.

  Returns:
    ((sum, weight), metrics as (sum, weight)). The metrics are `kl` if there is
    a reference, `ratio`, `clip_low_fraction`, `clip_high_fraction` and
    `ratio_clamped_fraction`: the share of tokens where `LOG_RATIO_LIMIT` clamps
    the ratio, the correction or k3, which should be 0. Weights depend only on
    mask and segments.

  Raises:
    ValueError: an array that the options need is missing, or `aggregation` is
      `constant` and `max_length` 0.
  """
  _check(batch, cfg)
  mask_BT, advantages_BT = batch.mask_BT, batch.advantages_BT
  logprobs_BT = _read(logprobs_BT, mask_BT)
  old_BT = batch.old_logprobs_BT
  if old_BT is None:
    old_BT = jax.lax.stop_gradient(logprobs_BT)
  old_BT = _read(old_BT, mask_BT)
  log_ratio_BT = logprobs_BT - old_BT
  if cfg.ratio == "sequence":
    log_ratio_BT = _sequence_mean(log_ratio_BT, batch)
  clamped_BT = _clamps(log_ratio_BT)
  ratio_BT = masked.fill(_exp(log_ratio_BT), mask_BT)
  low, high = 1.0 - cfg.clip_low, 1.0 + cfg.clip_high
  clipped_BT = jnp.clip(ratio_BT, low, high)
  if cfg.objective == "clip":
    gain_BT = jnp.minimum(ratio_BT * advantages_BT, clipped_BT * advantages_BT)
    clips = (advantages_BT < 0, advantages_BT > 0)
  else:
    weight_BT = jax.lax.stop_gradient(clipped_BT)
    gain_BT = weight_BT * advantages_BT * logprobs_BT
    clips = (advantages_BT != 0, advantages_BT != 0)
  if cfg.tis_cap:
    gap_BT = old_BT - _read(batch.sampler_logprobs_BT, mask_BT)
    gain_BT *= _correction(gap_BT, batch, cfg)
    clamped_BT |= _clamps(gap_BT) & (cfg.tis_kind == "truncate")
  loss_BT = -gain_BT
  metrics = {
      "ratio": masked.total(ratio_BT, mask_BT),
      "clip_low_fraction": masked.total((ratio_BT < low) & clips[0], mask_BT),
      "clip_high_fraction": masked.total((ratio_BT > high) & clips[1], mask_BT),
  }
  if batch.ref_logprobs_BT is not None:
    ref_BT = _read(batch.ref_logprobs_BT, mask_BT)
    kl_BT = kl(logprobs_BT, ref_BT, cfg.kl_estimator)
    if cfg.kl_beta:  # 0 * NaN of a broken reference would be NaN
      loss_BT += cfg.kl_beta * kl_BT
    metrics["kl"] = masked.total(kl_BT, mask_BT)
    clamped_BT |= _clamps(logprobs_BT - ref_BT) & (cfg.kl_estimator == "k3")
  metrics["ratio_clamped_fraction"] = masked.total(clamped_BT, mask_BT)
  return (aggregate(loss_BT, batch, cfg), policy_weight(batch, cfg)), metrics


def policy_weight(batch: TokenBatch, cfg: PolicyConfig) -> jax.Array:
  """The weight of `policy_loss`, which depends only on masks; float32 scalar.
  """
  if cfg.aggregation == "token_mean":
    return jnp.sum((batch.mask_BT != 0).astype(jnp.float32))
  return segments.count(batch.mask_BT, batch.segments_BT)


def aggregate(loss_BT: jax.Array, batch: TokenBatch, cfg: PolicyConfig
              ) -> jax.Array:
  """Sum of `loss_BT` over sequences, after `cfg.aggregation` within each.

  Divided by `policy_weight` it is the loss; float32 scalar.
  """
  loss_BT = masked.fill(loss_BT, batch.mask_BT)
  if cfg.aggregation == "seq_mean_token_mean":
    return jnp.sum(loss_BT / _lengths(batch))
  if cfg.aggregation == "constant":
    return jnp.sum(loss_BT) / cfg.max_length
  return jnp.sum(loss_BT)


def kl(logprobs_BT: jax.Array, ref_BT: jax.Array, estimator: str) -> jax.Array:
  """Estimate of KL(pi, ref) from each sampled token (Schulman's k1, k2, k3).

  For k3 d is clamped to +-LOG_RATIO_LIMIT. See `PolicyConfig.kl_estimator`.

  Args:
    logprobs_BT: float32, log pi.
    ref_BT: float32, log ref.
    estimator: `k1`, `k2` or `k3`.
  """
  d_BT = logprobs_BT - ref_BT
  if estimator == "k1":
    return d_BT
  if estimator == "k2":
    return 0.5 * d_BT**2
  d_BT = jnp.clip(d_BT, -LOG_RATIO_LIMIT, LOG_RATIO_LIMIT)
  return jnp.exp(-d_BT) + d_BT - 1.0


def _read(logprobs_BT, mask_BT):
  """Log-probabilities bounded from below (NaN stays); 0 where masked."""
  kept_BT = masked.fill(jnp.asarray(logprobs_BT), mask_BT)
  return jnp.maximum(kept_BT, LOWEST_LOGPROB)


def _exp(log_ratio_BT):
  return jnp.exp(jnp.clip(log_ratio_BT, -LOG_RATIO_LIMIT, LOG_RATIO_LIMIT))


def _clamps(log_ratio_BT):
  """Where `_exp` clamps its argument."""
  return jnp.abs(log_ratio_BT) > LOG_RATIO_LIMIT


def _lengths(batch):
  """Number of trained tokens of each token's sequence, at least 1."""
  kept_BT = (batch.mask_BT != 0).astype(jnp.float32)
  sums = segments.per_sequence(kept_BT, batch.segments_BT)
  return jnp.maximum(segments.per_token(sums, batch.segments_BT), 1.0)


def _sequence_mean(x_BT, batch):
  """x, 0 where masked, averaged over each sequence's trained tokens."""
  sums = segments.per_sequence(x_BT, batch.segments_BT)
  return segments.per_token(sums, batch.segments_BT) / _lengths(batch)


def _correction(gap_BT, batch, cfg):
  """Importance weight of the old policy over the sampler; without gradient.

  Args:
    gap_BT: log pi_old - log pi_sampler, 0 where masked.
    batch: for its segments.
    cfg: the options.
  """
  if cfg.tis_kind == "truncate":
    return jax.lax.stop_gradient(jnp.minimum(_exp(gap_BT), cfg.tis_cap))
  sums = segments.per_sequence(gap_BT, batch.segments_BT)
  sums_BT = segments.per_token(sums, batch.segments_BT)
  kept_BT = jnp.abs(sums_BT) <= jnp.log(cfg.tis_cap)
  return jax.lax.stop_gradient(kept_BT.astype(jnp.float32))


def _check(batch, cfg):
  check(cfg.aggregation != "constant" or cfg.max_length > 0,
        "aggregation='constant' divides by max_length=0: give it the longest"
        " completion of the run, in tokens")
  needs = {"advantages_BT": True, "ref_logprobs_BT": cfg.kl_beta > 0,
           "sampler_logprobs_BT": cfg.tis_cap > 0}
  missing = [name for name, needed in needs.items()
             if needed and getattr(batch, name) is None]
  check(not missing, f"the batch lacks {', '.join(missing)}, which kl_beta="
        f"{cfg.kl_beta} and tis_cap={cfg.tis_cap} need")
