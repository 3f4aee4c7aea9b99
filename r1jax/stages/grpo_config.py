"""Settings of GRPO."""

from __future__ import annotations

import dataclasses

from r1jax.core.config import check
from r1jax.losses.distill import DistillConfig
from r1jax.losses.policy import PolicyConfig
from r1jax.report import sinks
from r1jax.training.advantages import AdvantageConfig
from r1jax.training.lora import LoraConfig
from r1jax.training.optimizer import OptimizerConfig


@dataclasses.dataclass(frozen=True, kw_only=True)
class GrpoConfig:
  """Settings of `grpo.run`; the defaults fit the embedded base."""

  steps: int = 100  # rollouts, each followed by minibatches * epochs updates
  questions: int = 16  # questions per rollout
  samples: int = 16  # samples per question: the group (R1: 16)
  minibatches: int = 1  # updates a rollout is split into, at random (R1: 16)
  epochs: int = 1  # passes over a rollout (R1: 1)
  row_length: int = 256  # tokens of a packed row
  micro_rows: int = 24  # rows of a micro-batch
  temperature: float = 1.0  # sampling temperature of rollouts (R1-Zero: 1)
  # Longest completion in tokens; several are stages that `stage_steps` divides.
  max_new_tokens: tuple[int, ...] = (96,)
  stage_steps: tuple[int, ...] = ()  # rollouts before stages 2, 3, ...
  # Rounds of fresh questions that replace groups without variance (DAPO's
  # dynamic sampling); 0 trains on all groups.
  dynamic_tries: int = 0
  # Completions that grow at once, the others wait for a free slot; 0 is as many
  # as the devices have memory for (all, on a CPU). It changes no sample.
  max_rows: int = 0
  # Let the MTP module draft tokens of rollouts, which the policy then draws or
  # not. It changes no sample.
  speculate: bool = False
  # Tokens that a question's samples have, counted from when the first of them
  # began: what is unfinished then is truncated, the fewer `max_rows` the more.
  # 0 is no such end.
  rollout_deadline: int = 0
  replay_experts: bool = False  # use the sampler's experts in the update
  reference_every: int = 400  # updates between refreshes of the reference
  # Log the KL to the reference policy although policy.kl_beta is 0.
  log_kl: bool = False
  # Factor of the loss that trains the MTP module as a draft of the policy; with
  # 0 the module stays as it is.
  draft: float = 0.0
  # Step of the router bias (V3: 0.001 in pre-training).
  bias_update_speed: float = 0.0
  balance: float = 0.0  # factor of the sequence-wise balance loss during RL
  # Prompt template: r1-zero, plain, chat, chat-think, r1 or file:PATH.
  template: str = "r1-zero"
  # What lies in host memory while idle: optimizer, reference, rewards (reward
  # models).
  offload: tuple[str, ...] = ()
  driver: str = "mesh"  # mesh, or pmap (replicas; the first device samples)
  seed: int = 0  # seed of the order of prompts and of samples
  save_every: int = 25  # steps between checkpoints
  eval_every: int = 25  # steps between evaluations; 0 is never
  # Who shows the metrics beside TensorBoard: wandb, trackio or both.
  sinks: tuple[str, ...] = ()
  policy: PolicyConfig = PolicyConfig(kl_beta=0.001)
  distill: DistillConfig = dataclasses.field(
      default=DistillConfig(), metadata={"flag": False})  # by a teacher
  advantages: AdvantageConfig = AdvantageConfig()
  optimizer: OptimizerConfig = OptimizerConfig(lr=1e-4)
  lora: LoraConfig = LoraConfig()

  def __post_init__(self):
    sinks.check_names(self.sinks)
    for name in ("steps", "questions", "minibatches", "epochs", "row_length",
                 "micro_rows", "reference_every", "save_every"):
      check(getattr(self, name) > 0,
            f"{name}={getattr(self, name)} must be positive")
    for name in ("dynamic_tries", "max_rows", "rollout_deadline", "draft"):
      check(getattr(self, name) >= 0,
            f"{name}={getattr(self, name)} must not be negative")
    check(self.samples > 1, f"samples={self.samples}: one has no baseline")
    check(self.temperature > 0, f"temperature={self.temperature} must be"
          " positive: greedy samples of a group are all alike")
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
    # JAX 0.11.2's compiler dies of an adapter under pmap.
    check(self.driver == "mesh" or not self.lora.rank,
          f"driver='pmap' trains all parameters, not"
          f" lora.rank={self.lora.rank}; choose driver='mesh'")

  @property
  def on_policy(self) -> bool:
    """Whether the policy that samples is the one that is updated."""
    return self.minibatches == self.epochs == 1

  @property
  def reads_reference(self) -> bool:
    """Whether anything asks for the reference policy."""
    return self.policy.kl_beta > 0 or self.log_kl

  def longest(self, step: int) -> int:
    """max_new_tokens of rollout `step` (from 0)."""
    return self.max_new_tokens[sum(step >= s for s in self.stage_steps)]

  def prompt_limit(self, context: int) -> int:
    """Tokens of the longest prompt that every stage has room for."""
    # A sequence of n tokens takes n - 1 slots of a row.
    return min(self.row_length + 1, context) - max(self.max_new_tokens)

  def explain(self) -> str:
    """The sizes of a step, derived."""
    n, updates = self.questions * self.samples, self.minibatches * self.epochs
    return (f"{self.questions} questions x {self.samples} samples = {n}"
            f" completions a step, {updates} update(s) of"
            f" {n // self.minibatches}; {self.steps} steps ="
            f" {self.steps * updates} updates")
