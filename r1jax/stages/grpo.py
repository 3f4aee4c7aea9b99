"""GRPO: from a base model to one that reasons, by rule rewards alone.

One step is seven calls:

  Prompt -> engine -> Rollout -> judge -> Scored -> advantages -> pack ->
  TokenBatch -> update -> state -> engine
"""

from __future__ import annotations

import collections
import dataclasses
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
from r1jax.data import packing, pipeline, tokenizer
from r1jax.losses.policy import PolicyConfig
from r1jax.report import rollouts as rollouts_lib
from r1jax.report import writer
from r1jax.rollout.engine import Engine
from r1jax.rollout.sampling import SamplingConfig
from r1jax.sharding import rules
from r1jax.stages import updating
from r1jax.stages.judging import Judge
from r1jax.stages.session import Session
from r1jax.stages.weights import Weights
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
          "compute": config_lib.to_dict(model.compute)},
      title="R1-Zero", total=cfg.steps, save_every=cfg.save_every,
      best_metric="eval/pass1",
      shown=("reward/accuracy", "reward/format", "rollout/length_mean",
             "eval/pass1"))
  tokenizer.keep(judge.tokenizer, workdir)
  stream = pipeline.prompt_batches(prompts, cfg.questions, cfg.seed)
  learner = updating.Learner(cfg, weights, mesh)
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
      session.writer.write(0, evaluate(
          learner.params, learner.state.router_bias_LE, 0))
    for step in range(session.step, cfg.steps):
      clock = Clock()
      questions = next(stream)
      rollout = engines[cfg.longest(step)].generate(
          learner.params, learner.state.router_bias_LE,
          [judge.tokens(p) for p in questions], [p.id for p in questions],
          cfg.samples, keys.fold(jax.random.key(cfg.seed), step))
      clock.lap("rollout")
      verdicts = judge.submit(rollout, questions)
      order = shuffled(cfg, step)
      fixed = learner.fixed_logprobs(  # the device works while children judge
          [pack(rollout, cfg, part) for part in order])
      clock.lap("logprobs")
      scored = verdicts()
      clock.lap("rewards")
      advantages = group_advantages(
          scored.rewards_QG, scored.valid_QG, rollout.truncated_QG,
          cfg.advantages)
      batches = [pack(rollout, cfg, part, advantages) for part in order]
      update_metrics = learner.update(batches, fixed)
      clock.lap("update")
      metrics = summary(cfg, scored, advantages, update_metrics, clock)
      if evaluate and due(cfg, step + 1):
        metrics |= evaluate(learner.params, learner.state.router_bias_LE,
                            step + 1)
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
  shards = 1 if mesh is None else rules.batch_shards(mesh)
  check(cfg.questions % shards == 0 and cfg.micro_rows % shards == 0,
        f"questions={cfg.questions} and micro_rows={cfg.micro_rows} do not"
        f" divide over {shards} devices; make both a multiple of that")


def finished(workdir: str | os.PathLike, cfg: GrpoConfig) -> bool:
  """Whether the run in `workdir` has done all its steps."""
  rows = writer.read(workdir)
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


def pack(rollout: Rollout, cfg: GrpoConfig, part: np.ndarray,
         advantages: Advantages | None = None) -> TokenBatch:
  """The samples `part` in rows, padded to a whole number of micro-batches.

  The layout depends on lengths alone: without advantages it is that of the
  batch that is trained on later. Samples that are not kept lie in it untrained.
  """
  sequences = []
  for q, g in zip(*np.unravel_index(part, rollout.lengths_QG.shape)):
    prompt, completion = rollout.prompt_tokens[q], rollout.completion(q, g)
    tokens = np.concatenate([prompt, completion])
    check(len(tokens) <= cfg.row_length + 1,
          f"a prompt of {len(prompt)} and a completion of {len(completion)}"
          f" tokens exceed row_length={cfg.row_length}; raise it")
    sequences.append(packing.Sequence(
        tokens=tokens, prompt=len(prompt),
        advantage=0.0 if advantages is None else float(
            advantages.advantages_QG[q, g]),
        logprobs=rollout.logprobs_QGT[q, g, :len(completion)],
        experts=_experts(rollout, q, g)))
  lengths = [len(s.tokens) - 1 for s in sequences]
  rows = len(packing.best_fit(lengths, cfg.row_length))
  rows = -(-rows // cfg.micro_rows) * cfg.micro_rows
  batch = packing.pack(sequences, cfg.row_length, rows)
  if advantages is None or advantages.keep_QG.all():
    return batch
  # 1 for the tokens of kept samples: packed like them, as their advantage.
  marked = [dataclasses.replace(s, advantage=float(k)) for s, k in zip(
      sequences, advantages.keep_QG.reshape(-1)[part], strict=True)]
  kept_BT = packing.pack(marked, cfg.row_length, rows).advantages_BT
  return batch.replace(mask_BT=batch.mask_BT * kept_BT)


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


def summary(cfg: GrpoConfig, scored: Scored, advantages: Advantages,
            update_metrics: dict[str, float], clock: Clock) -> dict[str, float]:
  """The numbers of a step, by name."""
  lengths = scored.rollout.lengths_QG
  prompt_tokens = cfg.samples * sum(map(len, scored.rollout.prompt_tokens))
  metrics = reward_means(scored) | measure_means(scored) | {
      "rollout/length_mean": float(lengths.mean()),
      "rollout/length_max": float(lengths.max()),
      "rollout/truncated_fraction": float(scored.rollout.truncated_QG.mean()),
      "rollout/tokens_per_s": float(lengths.sum()) / clock.laps["rollout"],
      "update/tokens_per_s": (float(lengths.sum()) + prompt_tokens)
                             / clock.laps["update"],
      # How long the device stood still for verdicts.
      "rewards/wait_fraction": clock.laps["rewards"]
                               / sum(clock.laps.values()),
      "rewards/invalid_fraction": float(1 - scored.valid_QG.mean()),
  }
  metrics |= {f"advantage/{k}": v for k, v in advantages.info.items()}
  metrics |= {f"seconds/{k}": v for k, v in clock.laps.items()}
  return metrics | update_metrics


def reward_means(scored: Scored) -> dict[str, float]:
  """Mean of every reward over the samples it judges, whole and by domain.

  Samples without a verdict count nowhere; a rule that judged none has no mean.
  Domains are told apart where there is more than one.
  """
  domain_Q = np.array([prompt.domain for prompt in scored.prompts])
  values = dict(scored.parts) | {"combined": scored.rewards_QG}
  means = {}
  for name, values_QG in values.items():
    judged_QG = scored.valid_QG & ~np.isnan(values_QG)
    if judged_QG.any():
      means[f"reward/{name}"] = float(values_QG[judged_QG].mean())
    for domain in sorted(set(domain_Q)) if len(set(domain_Q)) > 1 else ():
      of_QG = judged_QG & (domain_Q == domain)[:, None]
      if of_QG.any():
        means[f"domain/{domain}/{name}"] = float(values_QG[of_QG].mean())
  return means


def measure_means(scored: Scored) -> dict[str, float]:
  """Mean of every measurement behind the verdicts, as `measure/RULE/NAME`."""
  values = collections.defaultdict(list)
  for row, valid_G in zip(scored.measures, scored.valid_QG, strict=True):
    for sample, valid in zip(row, valid_G, strict=True):
      for name, value in sample.items() if valid else ():
        values[f"measure/{name}"].append(value)
  return {name: float(np.mean(found)) for name, found in values.items()}


def record(session: Session, step: int, scored: Scored,
           advantages: Advantages) -> None:
  """Writes the step's samples, for people to read."""
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
  rollouts_lib.write(session.workdir, step, rows)


class Clock:
  """Seconds between laps, by name."""

  def __init__(self):
    self.laps: dict[str, float] = {}
    self._last = time.perf_counter()

  def lap(self, name: str) -> None:
    now = time.perf_counter()
    self.laps[name], self._last = now - self._last, now
