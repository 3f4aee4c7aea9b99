"""Sizes of a run whose programs are compiled ahead of time."""

from __future__ import annotations

import dataclasses

from r1jax.core.config import check
from r1jax.losses.distill import DistillConfig
from r1jax.losses.policy import PolicyConfig
from r1jax.training.optimizer import OptimizerConfig


@dataclasses.dataclass(frozen=True, kw_only=True)
class AheadConfig:
  """What `GrpoConfig` decides on of a step's programs; the defaults are R1's.

  A step is taken at its fullest: every completion as long as a row, so that it
  has one to itself, and all of them decoded together. Not covered: LoRA, a
  trained MTP module, replayed experts.
  """

  rows: int = 512  # completions of a step: questions * samples
  micro_rows: int = 0  # rows of a micro-batch; 0 is all rows of an update
  length: int = 32768  # tokens of a row, and slots of the KV cache
  prompt: int = 1024  # tokens of the longest prompt
  samples: int = 1  # completions of a prompt; they share one prefill
  speculate: bool = False  # whether the MTP module drafts while decoding
  # Share of its drafts that is taken, to tell what a token costs (V3, section
  # 5.4.3: 0.85 to 0.9).
  acceptance: float = 0.85
  minibatches: int = 1  # updates per rollout
  epochs: int = 1  # passes over a rollout
  log_kl: bool = False  # whether a reference is kept though kl_beta is 0
  policy: PolicyConfig = PolicyConfig(kl_beta=0.001)
  distill: DistillConfig = DistillConfig()  # of a student beside a teacher
  model_rows: int = 16  # rows of a batch that a reward model scores
  model_length: int = 8192  # tokens of these rows (R1: 8,192)
  optimizer: OptimizerConfig = OptimizerConfig(
      lr=3e-6, moments="bfloat16")
  # What lies in host memory while idle: optimizer, reference, rewards (reward
  # models).
  offload: tuple[str, ...] = ()

  def __post_init__(self):
    for name in ("rows", "length", "prompt", "samples", "minibatches",
                 "epochs", "model_rows", "model_length"):
      check(getattr(self, name) > 0,
            f"{name}={getattr(self, name)} must be positive")
    check(0 <= self.acceptance <= 1,
          f"acceptance={self.acceptance} must lie in [0, 1]")
    check(self.micro_rows >= 0,
          f"micro_rows={self.micro_rows} must not be negative")
    for name in ("samples", "minibatches"):
      check(self.rows % getattr(self, name) == 0, f"rows={self.rows} do not"
            f" divide by {name}={getattr(self, name)}")
    check(self.prompt < self.length, f"prompt={self.prompt} leaves nothing of"
          f" length={self.length} to decode")
    check(set(self.offload) <= {"optimizer", "reference", "rewards"},
          f"offload={','.join(self.offload)}: choose from optimizer, reference,"
          " rewards")

  @property
  def tokens(self) -> float:
    """Of a row in one step of decoding, in the mean."""
    return 1 + self.acceptance * self.speculate

  @property
  def micro(self) -> int:
    """Rows of a micro-batch."""
    return self.micro_rows or self.rows // self.minibatches

  @property
  def micro_batches(self) -> int:
    """Of an update."""
    return -(-self.rows // self.minibatches // self.micro)

  @property
  def reads_reference(self) -> bool:
    """Whether anything asks for the reference policy."""
    return self.policy.kl_beta > 0 or self.log_kl

  @property
  def on_policy(self) -> bool:
    """Whether the policy that samples is the one that is updated."""
    return self.minibatches == self.epochs == 1
