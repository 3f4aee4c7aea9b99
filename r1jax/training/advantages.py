"""Advantages from the rewards of a group of samples of one question."""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import numpy as np

from r1jax.core.config import check

# Groups whose rewards differ by less count as having equal rewards. Comparing
# the std with 0 would be defeated by rounding errors.
ZERO_VARIANCE = 1e-6


@dataclasses.dataclass(frozen=True, kw_only=True)
class AdvantageConfig:
  """Options of `group_advantages`.

  Attributes:
    normalize: `std` divides by the group's standard deviation, `none` does not.
    truncated: how to treat samples that the length limit cut off: `keep` like
      others; `mask` counts them in the baseline but leaves them out of the
      update; `penalise` reduces their reward by `penalty` before the baseline.
    penalty: what `penalise` subtracts, in units of reward.
    overlong_tokens: length in tokens of DAPO's soft punishment zone before the
      length limit (DAPO: 4096 of 20480). A penalty that grows linearly over the
      zone is subtracted from the reward before the baseline, also for samples
      that `truncated=mask` leaves out of the update. 0 is off.
    overlong_penalty: the penalty at the length limit, in units of reward
      (DAPO: 1).
    eps: added to the standard deviation.
  """

  normalize: str = "std"
  truncated: str = "keep"
  penalty: float = 0.0
  overlong_tokens: int = 0
  overlong_penalty: float = 1.0
  eps: float = 1e-6

  def __post_init__(self):
    check(self.normalize in ("std", "none"),
          f"normalize={self.normalize!r}: choose std or none")
    check(self.truncated in ("keep", "mask", "penalise"),
          f"truncated={self.truncated!r}: choose keep, mask or penalise")
    check((self.penalty > 0) == (self.truncated == "penalise"),
          f"penalty={self.penalty} with truncated={self.truncated!r}: a"
          " positive penalty and 'penalise' need each other")
    check(self.overlong_tokens >= 0,
          f"overlong_tokens={self.overlong_tokens} must not be negative")
    check(self.overlong_penalty > 0,
          f"overlong_penalty={self.overlong_penalty} must be positive;"
          " overlong_tokens=0 turns it off")
    check(not self.overlong_tokens or self.truncated != "penalise",
          f"overlong_tokens={self.overlong_tokens} and truncated='penalise'"
          " would punish a truncated sample twice; choose one")
    check(self.eps >= 0, f"eps={self.eps} must not be negative")


class Advantages(NamedTuple):
  """Result of `group_advantages`.

  Attributes:
    advantages_QG: float32; 0 where not kept.
    keep_QG: bool, whether the sample takes part in the update.
    zero_variance_Q: bool, whether all valid rewards of the group are equal, or
      it has no valid sample.
    info: `zero_variance_fraction` of the groups, `invalid_fraction` of the
      samples; with a soft zone `overlong_penalty`, its mean over all samples.
  """

  advantages_QG: np.ndarray
  keep_QG: np.ndarray
  zero_variance_Q: np.ndarray
  info: dict[str, float]


def group_advantages(
    rewards_QG: np.ndarray, valid_QG: np.ndarray, truncated_QG: np.ndarray,
    cfg: AdvantageConfig, *, lengths_QG: np.ndarray | None = None,
    longest: int = 0) -> Advantages:
  """A_i = (R_i - mean R) / (std R + eps) (DeepSeek-R1, Nature, eq. 3).

  Mean and std are over the valid samples of the group. A sample without a
  verdict or with a non-finite reward is left out of both, and of the update. A
  group with equal rewards has advantages of exactly 0; its samples are kept,
  because the KL penalty still applies to them.

  Departures: the paper does not say which std (the population's here), and
  gives no eps and no rule for equal rewards. Computed in float64.

  Args:
    rewards_QG: combined rewards.
    valid_QG: bool, whether the sample has a verdict.
    truncated_QG: bool, whether the length limit cut the sample off.
    cfg: the options.
    lengths_QG: tokens of each completion; needed only for a soft zone.
    longest: most tokens of a completion; needed only for a soft zone.

  Raises:
    ValueError: shapes differ, groups have a single sample, or what a soft zone
      needs is missing or shorter than the zone.
  """
  rewards_QG = np.asarray(rewards_QG, np.float64)
  arrays = [rewards_QG, valid_QG, truncated_QG]
  arrays += [lengths_QG] if cfg.overlong_tokens else []
  shapes = {np.shape(a) for a in arrays}
  check(len(shapes) == 1 and rewards_QG.ndim == 2,
        "rewards, valid, truncated and lengths have shapes"
        f" {sorted(shapes)}; give [questions, samples] for all")
  check(rewards_QG.shape[1] > 1,
        "a group of one sample has no baseline; sample at least 2")
  valid_QG = np.asarray(valid_QG, bool) & np.isfinite(rewards_QG)
  truncated_QG = np.asarray(truncated_QG, bool)
  rewards_QG = np.where(valid_QG, rewards_QG, 0.0)
  if cfg.truncated == "penalise":
    rewards_QG = rewards_QG - cfg.penalty * truncated_QG
  info = {}
  if cfg.overlong_tokens:
    penalty_QG = overlong(lengths_QG, longest, cfg.overlong_tokens)
    penalty_QG = cfg.overlong_penalty * penalty_QG
    rewards_QG = rewards_QG + penalty_QG
    info["overlong_penalty"] = float(np.mean(penalty_QG))

  count_Q1 = np.maximum(valid_QG.sum(1, keepdims=True), 1)
  mean_Q1 = (rewards_QG * valid_QG).sum(1, keepdims=True) / count_Q1
  centred_QG = np.where(valid_QG, rewards_QG - mean_Q1, 0.0)
  spread_Q = (np.where(valid_QG, rewards_QG, -np.inf).max(1)
              - np.where(valid_QG, rewards_QG, np.inf).min(1))
  zero_Q = spread_Q < ZERO_VARIANCE  # -inf where nothing is valid
  scale_Q1 = np.ones_like(mean_Q1)
  if cfg.normalize == "std":
    variance_Q1 = (centred_QG**2).sum(1, keepdims=True) / count_Q1
    scale_Q1 = np.sqrt(variance_Q1) + cfg.eps
  scale_Q1 = np.where(zero_Q[:, None], 1.0, scale_Q1)
  keep_QG = valid_QG
  if cfg.truncated == "mask":
    keep_QG = keep_QG & ~truncated_QG
  advantages_QG = np.where(
      keep_QG & ~zero_Q[:, None], centred_QG / scale_Q1, 0.0)
  info |= {"zero_variance_fraction": float(np.mean(zero_Q)),
           "invalid_fraction": float(np.mean(~valid_QG))}
  return Advantages(advantages_QG.astype(np.float32), keep_QG, zero_Q, info)


def overlong(lengths: np.ndarray, longest: int, zone: int) -> np.ndarray:
  """Soft overlong punishment (DAPO, arXiv:2503.14476, eq. 13), in [-1, 0].

  0 up to longest - zone tokens, then linearly down to -1 at `longest`.

  Args:
    lengths: tokens of each completion, any shape.
    longest: most tokens of a completion.
    zone: length of the soft zone in tokens.

  Returns:
    float64, the shape of `lengths`.

  Raises:
    ValueError: the zone is empty or longer than `longest`.
  """
  check(0 < zone <= longest,
        f"overlong_tokens={zone} must be in 1 to the longest completion,"
        f" {longest} tokens")
  return np.clip((longest - zone - np.asarray(lengths, np.float64)) / zone,
                 -1.0, 0.0)
