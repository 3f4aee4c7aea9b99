"""Settings of GRPO."""

from __future__ import annotations

import dataclasses

from r1jax.core.config import check
from r1jax.losses.distill import DistillConfig
from r1jax.losses.policy import PolicyConfig
from r1jax.report import sinks
from r1jax.rollout.slots import Deadline
from r1jax.training.advantages import AdvantageConfig
from r1jax.training.lora import LoraConfig
from r1jax.training.optimizer import OptimizerConfig


@dataclasses.dataclass(frozen=True, kw_only=True)
class GrpoConfig:
  """Settings of `grpo.run`; the defaults fit the embedded base."""

  # Rollouts to make; each is followed by minibatches * epochs updates.
  steps: int = 100
  questions: int = 16  # questions per rollout (R1: 512, 32 per update)
  samples: int = 16  # samples per question, the group size (R1: 16)
  # Updates per rollout and epoch, on random parts of it (R1: 16).
  minibatches: int = 1
  epochs: int = 1  # passes over a rollout (R1: 1)
  row_length: int = 256  # tokens of a packed row
  micro_rows: int = 24  # packed rows of a micro-batch, over all devices
  temperature: float = 1.0  # sampling temperature of rollouts (R1-Zero: 1)
  # Longest completion in tokens; several values are stages, which
  # `stage_steps` separates (R1-Zero: 32768, then 65536).
  max_new_tokens: tuple[int, ...] = (96,)
  # Steps at which stages 2, 3, ... of max_new_tokens begin.
  stage_steps: tuple[int, ...] = ()
  # Rounds of new questions that replace groups without variance (dynamic
  # sampling of DAPO, arXiv:2503.14476); 0 trains on all groups.
  dynamic_tries: int = 0
  # Completions that are decoded at once, over all devices; the others wait for
  # a free row. 0: as many as fit into the devices' free memory (all, on CPU).
  # It changes no sample, unless rollout_deadline is set.
  max_rows: int = 0
  # Speculative decoding of rollouts: the MTP module drafts so many tokens at a
  # time and the policy verifies them; 0: none. Samples change by rounding only.
  speculate: int = 0
  # When a question's unfinished samples are truncated, counted from the start
  # of its first one: 2000 are the tokens that a row can decode until then, 30s
  # are seconds, in which compiling does not count. The fewer max_rows, the more
  # are truncated; with seconds it also depends on the machine's speed: such a
  # run cannot be reproduced. 0: no deadline.
  rollout_deadline: str = "0"
  # Use the experts that the sampler's router chose in the update.
  replay_experts: bool = False
  # Updates between replacements of the reference by the policy (R1: 400).
  reference_every: int = 400
  # Log the KL to the reference policy although policy.kl_beta is 0.
  log_kl: bool = False
  # Factor of the loss that trains the MTP module to draft the policy's tokens;
  # 0 leaves the module unchanged.
  draft: float = 0.0
  # Step size of the router's selection bias per update (V3: 0.001 in
  # pre-training).
  bias_update_speed: float = 0.0
  balance: float = 0.0  # factor of the sequence-wise balance loss
  # Prompt template: r1-zero, plain, chat, chat-think, r1 or file:PATH.
  template: str = "r1-zero"
  # What is kept in host memory while idle: optimizer, reference, rewards
  # (reward models).
  offload: tuple[str, ...] = ()
  # mesh, or pmap: replicas on all devices, of which the first one samples.
  driver: str = "mesh"
  seed: int = 0  # seed of the order of questions and of the samples
  save_every: int = 25  # steps between checkpoints
  eval_every: int = 25  # steps between evaluations; 0: never
  # Services that get the metrics too: wandb, trackio or both.
  sinks: tuple[str, ...] = ()
  policy: PolicyConfig = PolicyConfig(kl_beta=0.001)
  distill: DistillConfig = dataclasses.field(
      default=DistillConfig(), metadata={"flag": False})  # from a teacher
  advantages: AdvantageConfig = AdvantageConfig()
  optimizer: OptimizerConfig = OptimizerConfig(lr=1e-4)
  lora: LoraConfig = LoraConfig()

  def __post_init__(self):
    sinks.check_names(self.sinks)
    for name in ("steps", "questions", "minibatches", "epochs", "row_length",
                 "micro_rows", "reference_every", "save_every"):
      check(getattr(self, name) > 0,
            f"{name}={getattr(self, name)} must be positive")
    for name in ("dynamic_tries", "max_rows", "speculate", "draft",
                 "eval_every", "seed"):
      check(getattr(self, name) >= 0,
            f"{name}={getattr(self, name)} must not be negative")
    Deadline.parse(self.rollout_deadline)
    check(self.samples > 1, f"samples={self.samples} must be at least 2: a"
          " group of one has no baseline")
    check(self.temperature > 0, f"temperature={self.temperature} must be"
          " positive: greedy samples of a group are all equal")
    check(self.questions * self.samples % self.minibatches == 0,
          f"{self.questions * self.samples} samples do not divide into"
          f" minibatches={self.minibatches}")
    check(len(self.max_new_tokens) == len(self.stage_steps) + 1
          and list(self.stage_steps) == sorted(self.stage_steps),
          f"max_new_tokens={self.max_new_tokens} needs one more entry than"
          f" stage_steps={self.stage_steps}, which must ascend")
    check(set(self.offload) <= {"optimizer", "reference", "rewards"},
          f"offload={','.join(self.offload)}: choose from optimizer, reference,"
          " rewards")
    check(self.driver in ("mesh", "pmap"),
          f"driver={self.driver!r}: choose mesh or pmap")
    check(self.driver == "mesh" or not self.distill.on, "driver='pmap' takes no"
          " teacher; choose driver='mesh'")
    # JAX 0.11.2 crashes when it compiles an adapter under pmap.
    check(self.driver == "mesh" or not self.lora.rank,
          f"driver='pmap' trains all parameters, not"
          f" lora.rank={self.lora.rank}; choose driver='mesh'")

  @property
  def on_policy(self) -> bool:
    """Whether a rollout has one update, so that the sampler is the old policy.
    """
    return self.minibatches == self.epochs == 1

  @property
  def deadline(self) -> Deadline:
    """`rollout_deadline` as numbers."""
    return Deadline.parse(self.rollout_deadline)

  @property
  def reads_reference(self) -> bool:
    """Whether a step needs the reference policy."""
    return self.policy.kl_beta > 0 or self.log_kl

  def longest(self, step: int) -> int:
    """max_new_tokens of rollout `step` (from 0)."""
    return self.max_new_tokens[sum(step >= s for s in self.stage_steps)]

  def prompt_limit(self, context: int) -> int:
    """The most tokens of a prompt, in all stages."""
    # A sequence of n tokens takes n - 1 positions of a row.
    return min(self.row_length + 1, context) - max(self.max_new_tokens)

  def explain(self) -> str:
    """One line with the sizes of a step, derived from the settings."""
    n, updates = self.questions * self.samples, self.minibatches * self.epochs
    return (f"{self.questions} questions x {self.samples} samples = {n}"
            f" completions a step; updates of {n // self.minibatches}"
            f" completions: {updates} a step, {self.steps * updates} in all")
