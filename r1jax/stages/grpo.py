"""GRPO: from a base model to one that reasons, by rule rewards alone.

One step is seven calls:

  Prompt -> engine -> Rollout -> judge -> Scored -> advantages -> pack ->
  TokenBatch -> update -> state -> engine
"""

from __future__ import annotations

import dataclasses
import math
import os
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from r1jax.core import config as config_lib
from r1jax.core import keys
from r1jax.core.config import check
from r1jax.core.types import Prompt, Rollout, Scored, TokenBatch
from r1jax.data import packing, pipeline
from r1jax.losses.policy import PolicyConfig
from r1jax.report import rollouts as rollouts_lib
from r1jax.report import writer
from r1jax.rollout.engine import Engine
from r1jax.rollout.sampling import SamplingConfig
from r1jax.sharding import processes, rules, watchdog
from r1jax.stages import learner as learner_lib
from r1jax.stages import step_metrics
from r1jax.stages.judging import Judge
from r1jax.stages.session import Session
from r1jax.stages.weights import Weights
from r1jax.training import step as step_lib
from r1jax.training.advantages import (
  AdvantageConfig,
  Advantages,
  group_advantages,
)
from r1jax.training.lora import LoraConfig
from r1jax.training.optimizer import OptimizerConfig

# (params, router_bias_LE, step) -> metrics by name.
Evaluate = Callable[[Any, jax.Array, int], dict[str, float]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class GrpoConfig:
  """Settings of `run`; the defaults fit the embedded base."""

  steps: int = 100  # rollouts, each followed by minibatches * epochs updates
  questions: int = 16  # per rollout
  samples: int = 16  # per question, the group (R1: 16)
  minibatches: int = 1  # random parts of a rollout, one update each (R1: 16)
  epochs: int = 1  # passes over a rollout (R1: 1)
  row_length: int = 256  # tokens of a packed row
  micro_rows: int = 24  # rows of a micro-batch
  temperature: float = 1.0  # of the rollout (R1-Zero: 1)
  max_new_tokens: tuple[int, ...] = (96,)  # longest completion, by stage
  stage_steps: tuple[int, ...] = ()  # rollouts before stages 2, 3, ...
  replay_experts: bool = False  # use the sampler's experts in the update
  reference_every: int = 400  # updates between refreshes of the reference
  gamma: float = 0.0  # step of the router bias during RL
  balance: float = 0.0  # factor of the sequence-wise balance loss during RL
  template: str = "r1-zero"  # or plain, chat, chat-think, r1
  offload: tuple[str, ...] = ()  # optimizer, reference: on the host while idle
  driver: str = "mesh"  # mesh, or pmap (replicas; the first device samples)
  seed: int = 0  # of prompts and samples
  save_every: int = 25  # steps between checkpoints
  eval_every: int = 25  # steps between evaluations; 0 is never
  policy: PolicyConfig = PolicyConfig(kl_beta=0.001)
  advantages: AdvantageConfig = AdvantageConfig()
  optimizer: OptimizerConfig = OptimizerConfig(lr=1e-4)
  lora: LoraConfig = LoraConfig()

  def __post_init__(self):
    for name in ("steps", "questions", "minibatches", "epochs", "row_length",
                 "micro_rows", "reference_every", "save_every"):
      check(getattr(self, name) > 0,
            f"{name}={getattr(self, name)} must be positive")
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
    check(set(self.offload) <= {"optimizer", "reference"},
          f"offload={','.join(self.offload)}: choose from optimizer, reference")
    check(self.driver in ("mesh", "pmap"),
          f"driver={self.driver!r}: choose mesh or pmap")
    # JAX 0.11.2's compiler dies of an adapter under pmap.
    check(self.driver == "mesh" or not self.lora.rank,
          f"driver='pmap' trains all parameters, not"
          f" lora.rank={self.lora.rank}; choose driver='mesh'")

  @property
  def on_policy(self) -> bool:
    """Whether the policy that samples is the one that is updated."""
    return self.minibatches == self.epochs == 1

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


def run(cfg: GrpoConfig, weights: Weights, judge: Judge,
        prompts: Sequence[Prompt], workdir: str | os.PathLike, *,
        evaluate: Evaluate | None = None,
        mesh: jax.sharding.Mesh | None = None,
        settings: dict[str, Any] | None = None) -> Weights:
  """Trains, or goes on where `workdir` stopped.

  Under several processes each has its part of a step's questions: it samples,
  judges and packs those, with their groups whole.

  Args:
    cfg: the settings.
    weights: model and first parameters, also the first reference policy.
    judge: phrases questions, judges answers.
    prompts: the training questions.
    workdir: folder of the run.
    evaluate: called after every `eval_every` steps and at the end.
    mesh: to train and sample on; None for one device.
    settings: what else defines the run, for config.json.

  Returns:
    The model with its parameters after the last step (or the interruption).
  """
  model = weights.model
  _check(cfg, model, mesh)
  session = Session(
      workdir, config_lib.to_dict(cfg) | (settings or {}) | {
          "model": config_lib.to_dict(model.cfg),
          "compute": config_lib.to_dict(model.compute)}, judge.tokenizer,
      title="R1-Zero", total=cfg.steps, save_every=cfg.save_every,
      best_metric="eval/pass1",
      shown=("reward/accuracy", "reward/format", "rollout/length_mean",
             "eval/pass1"))
  stream = pipeline.prompt_batches(prompts, cfg.questions, cfg.seed)
  learner = learner_lib.Learner(cfg, weights, mesh)
  arrays, host = session.restore(learner.arrays(), {})
  learner.load(arrays)
  if host:
    stream.set_state(host["stream"])
  engines = {new: Engine(model, SamplingConfig(
      temperature=cfg.temperature, max_new_tokens=new,
      record_experts=cfg.replay_experts), judge.tokenizer.eos_ids, mesh)
             for new in set(cfg.max_new_tokens)}
  with session, learner.on_mesh():
    if evaluate and not session.step:
      with learner.sampling() as policy:
        session.log(0, evaluate(policy, learner.state.router_bias_LE, 0))
    for step in range(session.step, cfg.steps):
      clock = Clock()
      questions = processes.part(next(stream), "questions")
      with learner.sampling() as policy:
        rollout = engines[cfg.longest(step)].generate(
            policy, learner.state.router_bias_LE,
            [judge.tokens(p) for p in questions], [p.id for p in questions],
            cfg.samples, keys.fold(jax.random.key(cfg.seed), step))
      clock.lap("rollout")
      verdicts = judge.submit(rollout, questions)
      order = own(shuffled(cfg, step))
      rows = row_counts(rollout, cfg, order)
      fixed = learner.fixed_logprobs(  # the device works while children judge
          packed(rollout, cfg, order, rows))
      clock.lap("logprobs")
      scored = verdicts()
      advantages = group_advantages(
          scored.rewards_QG, scored.valid_QG, rollout.truncated_QG,
          cfg.advantages)
      found = processes.gather(step_metrics.sums(scored, advantages))
      clock.lap("rewards")
      batches = packed(rollout, cfg, order, rows, advantages)
      update_metrics = learner.update(batches, fixed)
      clock.lap("update")
      metrics = step_metrics.merged(found, clock.laps) | update_metrics
      if evaluate and due(cfg, step + 1):
        with learner.sampling() as policy:
          metrics |= evaluate(policy, learner.state.router_bias_LE, step + 1)
      record(session, step + 1, scored, advantages)
      if session.finish(step + 1, metrics, joined(batches), learner.arrays,
                        lambda: {"stream": stream.get_state()}):
        break
  return Weights(model, learner.params, learner.state.router_bias_LE)


def _check(cfg, model, mesh):
  """What a config cannot know by itself: whether model and mesh suit it."""
  for new in cfg.max_new_tokens:
    check(new < cfg.row_length, f"max_new_tokens={new} and a prompt do not fit"
          f" row_length={cfg.row_length}")
  model.cfg.check_length(cfg.row_length, "row_length")
  check(mesh is None or cfg.driver == "mesh",
        "driver='pmap' takes no mesh; it has a replica on every device")
  check(not cfg.replay_experts or model.cfg.n_experts > 0,
        "replay_experts=True, but the model has no experts; set it to False")
  step_lib.check_rows(cfg.micro_rows, 1, cfg.row_length, mesh)
  shards = 1 if mesh is None else rules.batch_shards(mesh, "decode")
  check(cfg.questions % shards == 0, f"questions={cfg.questions} do not divide"
        f" over {shards} devices; make them a multiple of that")
  count = jax.process_count()
  check(count == 1 or cfg.driver == "mesh", f"driver='pmap' is for one process;"
        f" there are {count}: choose driver='mesh'")
  check(cfg.questions % count == 0, f"questions={cfg.questions} do not divide"
        f" over {count} processes; make them a multiple of that")


def finished(workdir: str | os.PathLike, cfg: GrpoConfig) -> bool:
  """Whether the run in `workdir` has done all its steps."""
  rows = processes.from_writer(lambda: writer.read(workdir)[-1:])
  return bool(rows) and rows[-1]["step"] >= cfg.steps


def due(cfg: GrpoConfig, step: int) -> bool:
  """Whether to evaluate after `step` steps."""
  return step == cfg.steps or bool(
      cfg.eval_every and step % cfg.eval_every == 0)


def shuffled(cfg: GrpoConfig, step: int) -> list[np.ndarray]:
  """Samples (indices into Q*G) of each minibatch, a random partition."""
  order = np.random.default_rng((cfg.seed, step)).permutation(
      cfg.questions * cfg.samples)
  return np.split(order, cfg.minibatches)


def own(order: Sequence[np.ndarray]) -> list[np.ndarray]:
  """The samples of each minibatch that this process has, by its own count."""
  size = sum(map(len, order)) // jax.process_count()
  first = jax.process_index() * size
  return [part[(first <= part) & (part < first + size)] - first
          for part in order]


def row_counts(rollout: Rollout, cfg: GrpoConfig,
               order: Sequence[np.ndarray]) -> list[int]:
  """Rows that each minibatch takes in every process: as many as in the fullest.

  The rows of all processes make whole micro-batches.
  """
  prompts_Q = np.array([len(tokens) for tokens in rollout.prompt_tokens])
  slots = (prompts_Q[:, None] + rollout.lengths_QG - 1).reshape(-1)
  counts = processes.largest(*(
      len(packing.best_fit(slots[part], cfg.row_length)) for part in order))
  unit = cfg.micro_rows // math.gcd(cfg.micro_rows, jax.process_count())
  return [max(1, -(-count // unit)) * unit for count in counts]


def packed(rollout: Rollout, cfg: GrpoConfig, order: Sequence[np.ndarray],
           rows: Sequence[int], advantages: Advantages | None = None
           ) -> list[TokenBatch]:
  """Each minibatch in its number of rows."""
  return [pack(rollout, cfg, part, advantages, rows=count)
          for part, count in zip(order, rows, strict=True)]


def pack(rollout: Rollout, cfg: GrpoConfig, part: np.ndarray,
         advantages: Advantages | None = None, *,
         rows: int | None = None) -> TokenBatch:
  """The samples `part` in `rows` rows, by default those of `row_counts`.

  The layout depends on lengths alone: without advantages it is that of the
  batch that is trained on later. Samples that are not kept lie in it untrained.
  """
  if rows is None:
    (rows,) = row_counts(rollout, cfg, [part])
  sequences = []
  for q, g in zip(*np.unravel_index(part, rollout.lengths_QG.shape)):
    prompt, completion = rollout.prompt_tokens[q], rollout.completion(q, g)
    sequences.append(packing.Sequence(
        tokens=np.concatenate([prompt, completion]), prompt=len(prompt),
        advantage=0.0 if advantages is None else float(
            advantages.advantages_QG[q, g]),
        logprobs=rollout.logprobs_QGT[q, g, :len(completion)],
        experts=_experts(rollout, q, g)))
  batch = packing.pack(sequences, cfg.row_length, rows)
  if not sequences:  # another process has them all
    return _without_samples(batch, rollout)
  if advantages is None or advantages.keep_QG.all():
    return batch
  # 1 for the tokens of kept samples: packed like them, as their advantage.
  marked = [dataclasses.replace(s, advantage=float(k)) for s, k in zip(
      sequences, advantages.keep_QG.reshape(-1)[part], strict=True)]
  kept_BT = packing.pack(marked, cfg.row_length, rows).advantages_BT
  return batch.replace(mask_BT=batch.mask_BT * kept_BT)


def _without_samples(batch: TokenBatch, rollout: Rollout) -> TokenBatch:
  """Empty rows with the arrays that rows of samples have."""
  experts = rollout.experts_QGSLA
  return batch.replace(
      advantages_BT=batch.mask_BT, sampler_logprobs_BT=batch.mask_BT,
      experts_BTLA=None if experts is None else np.zeros(
          (*batch.tokens_BT.shape, *experts.shape[3:]), np.int32))


def joined(batches: Sequence[TokenBatch]) -> TokenBatch:
  """The rows of all batches of a step as one."""
  return jax.tree.map(lambda *parts: np.concatenate(parts), *batches)


def _experts(rollout, q, g):
  """Recorded experts at each input token of a sample: [n - 1, L, A]."""
  if rollout.experts_QGSLA is None:
    return None
  row = rollout.experts_QGSLA[q, g]
  prompt_slots = row.shape[0] - rollout.tokens_QGT.shape[2]
  after = prompt_slots + rollout.lengths_QG[q, g] - 1
  return np.concatenate(
      [row[:len(rollout.prompt_tokens[q])], row[prompt_slots:after]])


def record(session: Session, step: int, scored: Scored,
           advantages: Advantages) -> None:
  """Writes the step's samples of this process, for people to read.

  Says so where none of them got a verdict: a rule of one's own that always
  fails would else train on nothing in silence.
  """
  if not scored.valid_QG.any():
    reasons = ", ".join(f"{k}: {v}" for k, v in scored.reasons[0][0].items())
    session.progress.say(f"step {step}: no sample got a verdict ({reasons})")
  rows = []
  for q, prompt in enumerate(scored.prompts):
    for g, text in enumerate(scored.texts[q]):
      rows.append({
          "prompt_id": prompt.id, "prompt": prompt.question,
          "domain": prompt.domain, "source": prompt.source,
          "reference": prompt.reference, "sample": g, "completion": text,
          "reward": float(scored.rewards_QG[q, g]),
          "rewards": {k: float(v[q, g]) for k, v in scored.parts.items()
                      if not np.isnan(v[q, g])},
          "reasons": dict(scored.reasons[q][g]),
          "measures": dict(scored.measures[q][g]),
          "valid": bool(scored.valid_QG[q, g]),
          "advantage": float(advantages.advantages_QG[q, g]),
          "length": int(scored.rollout.lengths_QG[q, g]),
          "truncated": bool(scored.rollout.truncated_QG[q, g])})
  rollouts_lib.write(session.workdir, step, rows,
                     process=jax.process_index(), count=jax.process_count())


class Clock:
  """Seconds between laps, by name."""

  def __init__(self):
    self.laps: dict[str, float] = {}
    self._last = time.perf_counter()

  def lap(self, name: str) -> None:
    now = time.perf_counter()
    self.laps[name], self._last = now - self._last, now
    watchdog.mark(f"a step's {name}")
