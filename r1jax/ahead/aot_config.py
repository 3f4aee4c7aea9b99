"""Sizes of a GRPO step whose programs are compiled ahead of time."""

from __future__ import annotations

import dataclasses

from r1jax.core.config import check
from r1jax.losses.distill import DistillConfig
from r1jax.losses.policy import PolicyConfig
from r1jax.training.optimizer import OptimizerConfig


@dataclasses.dataclass(frozen=True, kw_only=True)
class AheadConfig:
  """The settings of `GrpoConfig` that shape a step's programs.

  The defaults of rows, length and optimizer are those of one update of R1-Zero.
  A step is assumed at its largest: every completion is as long as a row and so
  has one to itself, and all are decoded at once. Not covered: LoRA, a trained
  MTP module, replayed experts.
  """

  # Completions per step: questions * samples (R1: 8192, 512 per update).
  rows: int = 512
  # Packed rows of a micro-batch, over all devices; 0: all rows of an update.
  micro_rows: int = 0
  # Tokens of a packed row, and slots of the KV cache (R1-Zero: 32,768).
  length: int = 32768
  prompt: int = 1024  # tokens of the longest prompt
  samples: int = 1  # completions per prompt; they share one prefill
  # Tokens that the MTP module drafts at a time in decoding; 0: none.
  speculate: int = 0
  # How often a draft is right if those before it are, for the bytes per token
  # (V3, section 5.4.3, for the first: 0.85 to 0.9).
  acceptance: float = 0.85
  # Tokens of the longest row when a decode step is counted; 0: length. If a
  # step reads the whole cache, as on GPUs and mostly on CPUs, the cache has
  # slots for these tokens only.
  live: int = 0
  minibatches: int = 1  # updates per rollout and epoch
  epochs: int = 1  # passes over a rollout
  log_kl: bool = False  # whether a reference is kept although kl_beta is 0
  policy: PolicyConfig = PolicyConfig(kl_beta=0.001)
  distill: DistillConfig = DistillConfig()  # of a student with a teacher
  model_rows: int = 16  # rows of a batch that a reward model scores
  model_length: int = 8192  # tokens of such a row (R1: 8,192)
  optimizer: OptimizerConfig = OptimizerConfig(
      lr=3e-6, moments="bfloat16")
  # What is kept in host memory while idle: optimizer, reference, rewards
  # (reward models).
  offload: tuple[str, ...] = ()

  def __post_init__(self):
    for name in ("rows", "length", "prompt", "samples", "minibatches",
                 "epochs", "model_rows", "model_length"):
      check(getattr(self, name) > 0,
            f"{name}={getattr(self, name)} must be positive")
    check(self.speculate >= 0,
          f"speculate={self.speculate} must not be negative")
    check(0 <= self.acceptance <= 1,
          f"acceptance={self.acceptance} must lie in [0, 1]")
    check(0 <= self.live <= self.length, f"live={self.live} must lie in [0,"
          f" length={self.length}]")
    check(self.micro_rows >= 0,
          f"micro_rows={self.micro_rows} must not be negative")
    for name in ("samples", "minibatches"):
      check(self.rows % getattr(self, name) == 0, f"rows={self.rows} must be a"
            f" multiple of {name}={getattr(self, name)}")
    check(self.prompt < self.length, f"prompt={self.prompt} leaves no room for"
          f" a completion in length={self.length}")
    check(set(self.offload) <= {"optimizer", "reference", "rewards"},
          f"offload={','.join(self.offload)}: choose from optimizer, reference,"
          " rewards")

  @property
  def tokens(self) -> float:
    """Tokens that a row gains in one step of decoding, in the mean."""
    return sum(self.acceptance**n for n in range(self.speculate + 1))

  @property
  def read(self) -> int:
    """Tokens of the longest row in the decode step that is counted."""
    return self.live or self.length

  @property
  def micro(self) -> int:
    """Rows of a micro-batch."""
    return self.micro_rows or self.rows // self.minibatches

  @property
  def micro_batches(self) -> int:
    """Micro-batches of an update."""
    return -(-self.rows // self.minibatches // self.micro)

  @property
  def reads_reference(self) -> bool:
    """Whether the step needs the reference policy."""
    return self.policy.kl_beta > 0 or self.log_kl

  @property
  def on_policy(self) -> bool:
    """Whether a rollout has one update, so that the sampler is the old policy.
    """
    return self.minibatches == self.epochs == 1
