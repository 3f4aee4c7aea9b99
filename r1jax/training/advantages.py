"""Advantages from the rewards of a group of samples of one question."""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import numpy as np

from r1jax.core.config import check

# Groups whose rewards differ by less have nothing to teach: comparing the std
# with 0 would miss rounding.
ZERO_VARIANCE = 1e-6


@dataclasses.dataclass(frozen=True, kw_only=True)
class AdvantageConfig:
  """Options of `group_advantages`.

  Attributes:
    normalize: `std` divides by the group's standard deviation; `none`.
    truncated: samples cut off by the length limit: `keep` treats them like
      others, `mask` counts them in the baseline but keeps them out of the
      update, `penalise` lowers their reward by `penalty` before the baseline.
    penalty: amount, in units of reward.
    eps: added to the standard deviation.
  """

  normalize: str = "std"
  truncated: str = "keep"
  penalty: float = 0.0
  eps: float = 1e-6

  def __post_init__(self):
    check(self.normalize in ("std", "none"),
          f"normalize={self.normalize!r}: choose std or none")
    check(self.truncated in ("keep", "mask", "penalise"),
          f"truncated={self.truncated!r}: choose keep, mask or penalise")
    check((self.penalty > 0) == (self.truncated == "penalise"),
          f"penalty={self.penalty} with truncated={self.truncated!r}: a"
          " positive penalty and 'penalise' need each other")
    check(self.eps >= 0, f"eps={self.eps} must not be negative")


class Advantages(NamedTuple):
  """Result of `group_advantages`.

  Attributes:
    advantages_QG: float32; 0 where not kept.
    keep_QG: bool, whether the sample takes part in the update.
    zero_variance_Q: bool, groups whose valid rewards are all alike, groups
      without a valid sample among them.
    info: `zero_variance_fraction` of the groups, `invalid_fraction` of the
      samples.
  """

  advantages_QG: np.ndarray
  keep_QG: np.ndarray
  zero_variance_Q: np.ndarray
  info: dict[str, float]


def group_advantages(
    rewards_QG: np.ndarray, valid_QG: np.ndarray, truncated_QG: np.ndarray,
    cfg: AdvantageConfig) -> Advantages:
  """A_i = (R_i - mean R) / (std R + eps) (DeepSeek-R1, Nature, eq. 3).

  Mean and std are of the valid samples of the group. A sample without a verdict
  or with a non-finite reward is left out of both and of the update. A group
  whose rewards are all alike has advantages of exactly 0; its samples are kept,
  since the KL penalty still speaks.

  Departures: the paper does not say which std (population here), names no eps
  and no rule for equal rewards. Computed in float64.

  Args:
    rewards_QG: combined rewards.
    valid_QG: bool.
    truncated_QG: bool.
    cfg: the options.

  Raises:
    ValueError: shapes differ, or groups have a single sample.
  """
  rewards_QG = np.asarray(rewards_QG, np.float64)
  shapes = {np.shape(a) for a in (rewards_QG, valid_QG, truncated_QG)}
  check(len(shapes) == 1 and rewards_QG.ndim == 2,
        f"rewards, valid and truncated have shapes {sorted(shapes)}; give"
        " [questions, samples] for all")
  check(rewards_QG.shape[1] > 1,
        "a group of one sample has no baseline; sample at least 2")
  valid_QG = np.asarray(valid_QG, bool) & np.isfinite(rewards_QG)
  truncated_QG = np.asarray(truncated_QG, bool)
  rewards_QG = np.where(valid_QG, rewards_QG, 0.0)
  if cfg.truncated == "penalise":
    rewards_QG = rewards_QG - cfg.penalty * truncated_QG

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
  info = {"zero_variance_fraction": float(np.mean(zero_Q)),
          "invalid_fraction": float(np.mean(~valid_QG))}
  return Advantages(advantages_QG.astype(np.float32), keep_QG, zero_Q, info)
