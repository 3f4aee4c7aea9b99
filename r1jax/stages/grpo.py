"""GRPO (arXiv:2402.03300) with rule rewards, reward models and a teacher.

`take_step` is one step:

  questions -> engine -> Rollout -> packing -> fixed log-probabilities
                         Rollout -> judge (meanwhile) -> Scored -> advantages
  packed batches with both -> updates -> policy of the next step
"""

from __future__ import annotations

import dataclasses
import functools
import os
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from r1jax.accounting import cost
from r1jax.accounting.compilations import Compilations
from r1jax.core import config as config_lib
from r1jax.core import keys
from r1jax.core.config import check
from r1jax.core.prompt import Prompt
from r1jax.core.types import Rollout, Scored, TokenBatch
from r1jax.data.streams import minibatches, pipeline
from r1jax.data.streams.minibatches import Minibatch
from r1jax.data.text.tokenizer import check_fits
from r1jax.report import rollouts as rollouts_lib
from r1jax.report import writer
from r1jax.rollout.engine import Engine
from r1jax.rollout.sampling import SamplingConfig
from r1jax.sharding import processes, rules, watchdog
from r1jax.stages import learner as learner_lib
from r1jax.stages import step_metrics
from r1jax.stages.collecting import collect
from r1jax.stages.grpo_config import GrpoConfig
from r1jax.stages.judging import Judge
from r1jax.stages.learner import Learner
from r1jax.stages.loop.session import Session
from r1jax.stages.paused import Paused, Work
from r1jax.stages.stalled import Stalled
from r1jax.stages.weights import Handover, Weights
from r1jax.training import metrics as metrics_lib
from r1jax.training import optimizer
from r1jax.training import step as step_lib
from r1jax.training.advantages import Advantages, group_advantages

# (params, router_bias_LE, step, interrupted) -> metrics by name, or None if
# interrupted() became true.
Evaluate = Callable[
    [Any, jax.Array, int, Callable[[], bool]], dict[str, float] | None]


def run(cfg: GrpoConfig, initial: Handover, judge: Judge,
        prompts: Sequence[Prompt], workdir: str | os.PathLike, *,
        evaluate: Evaluate | None = None,
        mesh: jax.sharding.Mesh | None = None,
        teacher: Weights | None = None,
        settings: dict[str, Any] | None = None,
        skip_damaged: bool = False,
        remedies: Mapping[str, str] | None = None) -> Weights:
  """Trains, or resumes the run in `workdir`.

  With several processes each samples, judges and packs its part of a step's
  questions, in whole groups.

  Args:
    cfg: the settings.
    initial: the model and its first parameters, which are also the first
      reference policy. Their arrays are moved into the run's state.
    judge: renders questions and judges answers.
    prompts: the training questions.
    workdir: folder of the run.
    evaluate: called at the start, after every `eval_every` steps and at the
      end; never if that is 0.
    mesh: to train and sample on; None for one device.
    teacher: the teacher of `cfg.distill`, with the same tokenizer, on `mesh`.
    settings: other settings that define the run, for config.json.
    skip_damaged, remedies: see `Session`.

  Returns:
    The model with its parameters after the last step (or the interruption).

  Raises:
    ValueError: settings, model and mesh do not fit together, `workdir` has a
      run with other settings, or no sample of the first step has a verdict.
  """
  model = initial.model
  cfg = dataclasses.replace(cfg, optimizer=optimizer.scheduled(
      cfg.optimizer, cfg.steps * cfg.minibatches * cfg.epochs))
  check_fits(judge.tokenizer, model.cfg.vocab_size)
  _check(cfg, model, mesh, teacher)
  session = Session(
      workdir, config_lib.to_dict(cfg) | (settings or {}) | {
          "model": config_lib.to_dict(model.cfg),
          "compute": config_lib.to_dict(model.compute)}, judge.tokenizer,
      title="distill" if teacher else "GRPO", total=cfg.steps,
      save_every=cfg.save_every, best_metric="eval/pass1",
      skip_damaged=skip_damaged, remedies=remedies,
      # Moments are donated only after the next rollout.
      donated=("params", "router_bias_LE", "step"),
      shown=("reward/accuracy", "reward/format", "rollout/length_mean",
             "eval/pass1"))
  stream = pipeline.prompt_batches(prompts, cfg.questions, cfg.seed)
  learner = learner_lib.Learner(cfg, initial, mesh, teacher)
  arrays, host = session.restore(learner.arrays(), {})
  learner.load(arrays)
  del arrays  # would keep the old reference alive after a refresh
  if host:
    stream.set_state(host["stream"])
  compiled = Compilations()
  this = Run(
      cfg, session, stream, _engines(cfg, model, judge.tokenizer, mesh), judge,
      learner, evaluate, Paused(session, host, learner), Stalled(), compiled)
  with session, learner.on_mesh(), compiled:
    available = pipeline.size(prompts)
    if available < cfg.questions:
      session.progress.say(
          f"a step has {cfg.questions} questions but there are only"
          f" {available}: they repeat within a step, with different samples")
    if evaluate and due(cfg, 0) and not session.resumes:
      measured = this.evaluated(0)
      if measured is None:
        session.leave("the evaluation of the first model")
      else:
        session.log(0, measured)
    for step in range(session.step, cfg.steps):
      if session.stopped:
        break
      take_step(this, step)
  return Weights(model, learner.params, learner.state.router_bias_LE)


def _engines(cfg, model, tokenizer, mesh) -> dict[int, Engine]:
  """The samplers by `max_new_tokens`."""
  return {new: Engine(model, SamplingConfig(
      temperature=cfg.temperature, max_new_tokens=new,
      record_experts=cfg.replay_experts, vocab=tokenizer.vocab_size),
      tokenizer.eos_ids, mesh, max_rows=cfg.max_rows or None,
      deadline=cfg.deadline, speculate=cfg.speculate)
          for new in set(cfg.max_new_tokens)}


class Run(NamedTuple):
  """What every step of a run works with.

  Attributes:
    cfg: the settings.
    session: files, logging and interruption.
    stream: batches of questions; its position is saved.
    engines: the samplers by `max_new_tokens`.
    judge: renders questions and judges answers.
    learner: policy and updates.
    evaluate: as given to `run`.
    paused: the state of an interrupted step, and its saving.
    stalled: notices when nothing is learned.
    compiled: counts the programs that are compiled.
  """

  cfg: GrpoConfig
  session: Session
  stream: Any
  engines: Mapping[int, Engine]
  judge: Judge
  learner: Learner
  evaluate: Evaluate | None
  paused: Paused
  stalled: Stalled
  compiled: Compilations

  def sampled(self, step: int, questions: Sequence[Prompt],
              repeats: Sequence[int], *,
              ended: Callable[[int, int, np.ndarray], None] | None = None
              ) -> Rollout:
    """The samples of this process's questions in rollout `step`.

    `ended`: see `Engine.generate`.
    """
    cfg = self.cfg
    with self.learner.sampling() as policy:
      rollout = self.engines[cfg.longest(step)].generate(
          policy, self.learner.state.router_bias_LE,
          [self.judge.tokens(p) for p in questions], [p.id for p in questions],
          cfg.samples, keys.fold(jax.random.key(cfg.seed), step),
          repeats_Q=repeats, ended=ended)
    cost.sampled(self.learner.model.cfg, rollout)
    return rollout

  def drafts(self, step: int) -> step_metrics.Sums:
    """(accepted drafts, forward passes) of this process by depth, to log."""
    speed = self.engines[self.cfg.longest(step)].speed
    names = [name for name in speed if name.startswith("accepted")]
    taken = {f"rollout/{name}": (float(speed[name]), speed["rounds"])
             for name in names if speed["rounds"]}
    speed.clear()
    return taken

  def evaluated(self, step: int) -> dict[str, float] | None:
    """The policy's evaluation after `step` steps; None if interrupted."""
    with self.learner.sampling() as policy:
      return self.evaluate(policy, self.learner.state.router_bias_LE, step,
                           self.session.interrupted)


def take_step(run: Run, step: int) -> None:
  """One step, after `step` earlier ones; a signal sets `session.stopped`."""
  cfg, session, learner, paused = run.cfg, run.session, run.learner, run.paused
  clock, drawn = Clock(), run.stream.get_state()
  rollouts, work = paused.take()
  if work is None:
    collected = collect(
        cfg, run.stream, functools.partial(run.sampled, step), run.judge,
        rollouts, session.interrupted)
    clock.lap("rollout", rewards=collected.waited if collected else 0.0)
    if collected is None:
      return paused.save_rollouts(step, rollouts, drawn)
    packed = minibatches.pack(
        collected.rollout, parts(cfg, step), cfg.row_length,
        cfg.micro_rows // jax.process_count())
    count_reads(cfg, learner, packed)
    placed = learner.place(packed)
    fixed = learner.fixed_logprobs(placed[:cfg.minibatches])
    jax.block_until_ready(fixed)  # else its time would count as rewards'
    clock.lap("logprobs")  # overlaps with judging in child processes
    scored = collected.verdicts()
    advantages = group_advantages(
        scored.rewards_QG, scored.valid_QG, scored.rollout.truncated_QG,
        cfg.advantages, lengths_QG=scored.rollout.lengths_QG,
        longest=cfg.longest(step))
    sums = processes.gather(step_metrics.sums(
        scored, advantages, run.drafts(step), deadline=any(cfg.deadline)))
    if not step:
      check_verdicts(scored)
    run.stalled.add(scored)
    clock.lap("rewards")
    work = Work(
        learner.ready(packed, placed, fixed, advantages.advantages_QG,
                      advantages.keep_QG),
        {"sums": sums, "others": collected.metrics}, clock.laps)
    del placed, fixed  # `work` has the arrays that updates read
    record(session, step + 1, scored, advantages)
  work.update(learner, session)
  if not work.complete:
    return paused.save_work(step, work, run.stream.get_state())
  updates = learner_lib.named(metrics_lib.floats(*work.seen))
  clock.lap("update")
  metrics = step_metrics.merged(
      work.numbers["sums"], work.laps | clock.laps) | updates | (
          work.numbers["others"])
  if said := run.stalled.said(metrics["advantage/zero_variance_fraction"]):
    session.progress.say(said)
  if run.evaluate and due(cfg, step + 1):
    measured = run.evaluated(step + 1)
    if measured is None:
      return paused.save_work(step, work, run.stream.get_state())
    metrics |= measured
  metrics |= run.compiled.new()
  session.finish(step + 1, metrics, lambda: joined(
      [learner.on_host(micros) for micros in work.batches]), learner.arrays,
      lambda: {"stream": run.stream.get_state()})


def count_reads(cfg: GrpoConfig, learner: Learner,
                packed: Sequence[Minibatch]) -> None:
  """Counts the cost of a step's updates and fixed log-probabilities."""
  model, teacher = learner.model.cfg, learner.teacher
  for number, (batch, _) in enumerate(packed):
    cost.read("train", model, batch, factor=cost.TRAINING, part=True)
    if cfg.distill.divergence:
      cost.read("teacher", teacher.model.cfg, batch, part=True)
    if number < cfg.minibatches:  # later epochs reuse the first one's
      for _ in range(cfg.reads_reference + (not cfg.on_policy)):
        cost.read("score", model, batch, part=True)
      if cfg.distill.factor:
        cost.read("teacher", teacher.model.cfg, batch, part=True)


def parts(cfg: GrpoConfig, step: int) -> list[np.ndarray]:
  """This process's samples of every update of a step, epoch by epoch."""
  return [part for epoch in range(cfg.epochs)
          for part in minibatches.own(minibatches.partition(
              cfg.questions * cfg.samples, cfg.minibatches, cfg.seed, step,
              epoch))]


def _check(cfg, model, mesh, teacher):
  """Checks the settings against model, mesh and processes."""
  check(cfg.distill.on == (teacher is not None),
        f"distill.factor={cfg.distill.factor}, distill.divergence="
        f"{cfg.distill.divergence}: they need a teacher, and a teacher needs"
        " one of them above 0")
  if teacher is not None:
    teacher.model.cfg.check_length(cfg.row_length, "row_length (teacher)")
  for new in cfg.max_new_tokens:
    check(new < cfg.row_length, f"max_new_tokens={new} and a prompt do not fit"
          f" row_length={cfg.row_length}")
  model.cfg.check_length(cfg.row_length, "row_length")
  check(mesh is None or cfg.driver == "mesh",
        "driver='pmap' takes no mesh; it has a replica on every device")
  check(not cfg.replay_experts or model.cfg.n_experts > 0,
        "replay_experts=True, but the model has no experts; set it to False")
  step_lib.check_rows(cfg.micro_rows, cfg.row_length, mesh)
  shards = 1 if mesh is None else rules.batch_shards(mesh, "decode")
  check(cfg.questions % shards == 0, f"questions={cfg.questions} do not divide"
        f" over {shards} devices; make them a multiple of that")
  count = jax.process_count()
  check(count == 1 or cfg.driver == "mesh", f"driver='pmap' is for one process;"
        f" there are {count}: choose driver='mesh'")
  check(cfg.questions % count == 0, f"questions={cfg.questions} do not divide"
        f" over {count} processes; make them a multiple of that")
  check(cfg.micro_rows % count == 0, f"micro_rows={cfg.micro_rows} do not"
        f" divide over {count} processes; make them a multiple of that")
  check(not cfg.draft or model.cfg.n_mtp > 0,
        f"draft={cfg.draft}, but the model has no MTP module; set it to 0")


def finished(workdir: str | os.PathLike, cfg: GrpoConfig) -> bool:
  """Whether the run in `workdir` has done all its steps."""
  rows = processes.from_writer(lambda: writer.read(workdir)[-1:])
  return bool(rows) and rows[-1]["step"] >= cfg.steps


def due(cfg: GrpoConfig, step: int) -> bool:
  """Whether to evaluate after `step` steps."""
  return cfg.eval_every > 0 and (
      step == cfg.steps or step % cfg.eval_every == 0)


def joined(batches: Sequence[TokenBatch]) -> TokenBatch:
  """The rows of all batches of a step as one."""
  return jax.tree.map(lambda *rows: np.concatenate(rows), *batches)


def check_verdicts(scored: Scored) -> None:
  """Ends a run in all processes if its first step has no verdict at all.

  Raises:
    ValueError: no sample has a verdict; the message says why.
  """
  if not any(processes.gather(bool(scored.valid_QG.any()))):
    raise ValueError(
        f"no sample of the first step has a verdict ({why(scored)}): nothing"
        " could be learned. Either a reference cannot be read by its verifier,"
        " or a rule fails; fix it and run the same command again")


def why(scored: Scored) -> str:
  """The reasons that the rules give for the first sample's verdict."""
  return ", ".join(f"{k}: {v}" for k, v in scored.reasons[0][0].items())


def record(session: Session, step: int, scored: Scored,
           advantages: Advantages) -> None:
  """Stores this process's samples of a step, and warns if none has a verdict.

  Without the warning a user's rule that always fails would go unnoticed.
  """
  if not scored.valid_QG.any():
    session.progress.say(
        f"step {step}: no sample got a verdict ({why(scored)})")
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
  """A stopwatch: seconds by phase."""

  def __init__(self):
    self.laps: dict[str, float] = {}
    self._last = time.perf_counter()

  def lap(self, name: str, **others: float) -> None:
    """Adds the seconds since the last lap to `name`, less those of `others`."""
    now = time.perf_counter()
    spent = {name: now - self._last - sum(others.values())} | others
    self._last = now
    for part, seconds in spent.items():
      self.laps[part] = self.laps.get(part, 0.0) + seconds
      cost.took(part, seconds)
    watchdog.mark(f"a step's {name}")
