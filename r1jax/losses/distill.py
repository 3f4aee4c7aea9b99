"""On-policy distillation: a teacher judges the student's own samples."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp

from r1jax.core import masked
from r1jax.core.config import check
from r1jax.core.types import TokenBatch
from r1jax.losses.policy import LOG_RATIO_LIMIT, LOWEST_LOGPROB

Pair = tuple[jax.Array, jax.Array]


@dataclasses.dataclass(frozen=True, kw_only=True)
class DistillConfig:
  """How a teacher enters the update.

  Attributes:
    factor: lambda in the advantage A - lambda (log pi - log pi_T); 0 is off.
    reward: factor of the rewards' advantage A when there is a teacher; 0 learns
      from the teacher alone.
    divergence: factor of the divergence from the teacher's distributions (GKD,
      arXiv:2306.13649) in the loss; 0 is off.
    beta: of that generalized Jensen-Shannon divergence, in [0, 1]: 0 is
      KL(teacher, student), 1 is KL(student, teacher).
  """

  factor: float = 0.0
  reward: float = 1.0
  divergence: float = 0.0
  beta: float = 0.5

  def __post_init__(self):
    for name in ("factor", "reward", "divergence"):
      check(getattr(self, name) >= 0,
            f"{name}={getattr(self, name)} must not be negative")
    check(0 <= self.beta <= 1, f"beta={self.beta} is not in 0..1")

  @property
  def on(self) -> bool:
    """Whether there is a teacher."""
    return self.factor > 0 or self.divergence > 0


def advantages(logprobs_BT: jax.Array, batch: TokenBatch, cfg: DistillConfig
               ) -> tuple[jax.Array, dict[str, Pair]]:
  """reward A - lambda (log pi_old - log pi_T) of every token.

  On-policy distillation: the expected gradient is that of the reverse KL at
  each token, without its effect on later tokens (a discount of 0).

  Departures: pi is the policy before the update, so that the advantage stays
  fixed during the updates of a rollout. The difference is clamped to
  +-LOG_RATIO_LIMIT, so that a single token which the teacher excludes does not
  dominate the update.

  Args:
    logprobs_BT: float32, of the policy being trained.
    batch: advantages; `teacher_logprobs_BT` if `cfg.factor` > 0.
    cfg: the options.

  Returns:
    (advantages_BT without gradient; metrics as (sum, weight): `teacher_kl`, the
    mean difference in nats per token, an estimate of KL(student, teacher)).

  Raises:
    ValueError: the teacher's log-probabilities are missing.
  """
  if not cfg.on:
    return batch.advantages_BT, {}
  given_BT = cfg.reward * batch.advantages_BT
  if not cfg.factor:
    return given_BT, {}
  check(batch.teacher_logprobs_BT is not None,
        "the batch lacks teacher_logprobs_BT, which distill.factor="
        f"{cfg.factor} needs")
  old_BT = batch.old_logprobs_BT
  old_BT = logprobs_BT if old_BT is None else old_BT
  gap_BT = _read(old_BT, batch) - _read(batch.teacher_logprobs_BT, batch)
  gap_BT = jax.lax.stop_gradient(
      jnp.clip(gap_BT, -LOG_RATIO_LIMIT, LOG_RATIO_LIMIT))
  return given_BT - cfg.factor * gap_BT, {
      "teacher_kl": masked.total(gap_BT, batch.mask_BT)}


def _read(logprobs_BT, batch):
  """Log-probabilities bounded from below; 0 where masked."""
  kept_BT = masked.fill(jnp.asarray(logprobs_BT), batch.mask_BT)
  return jnp.maximum(kept_BT, LOWEST_LOGPROB)
