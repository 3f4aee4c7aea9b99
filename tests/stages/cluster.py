"""Stages in a process of a cluster, or alone, for test_processes.py.

  python -m tests.stages.cluster WORKDIR [STAGE...]

on four devices in all. Every stage (default: all) leaves WORKDIR/STAGE.
"""

import functools
import json
import os
import pathlib
import signal
import sys

import jax

from r1jax.data.sources import corpus
from r1jax.data.sources.filters import FilterConfig
from r1jax.data.sources.selection import Report, SelectConfig
from r1jax.data.streams import sft as data_lib
from r1jax.rewards.score import Score
from r1jax.rollout.engine import Engine
from r1jax.rollout.sampling import SamplingConfig
from r1jax.sharding import distributed, processes
from r1jax.sharding.mesh import MeshConfig, make_mesh
from r1jax.stages import (
  cold_start,
  dialogues,
  evaluating,
  exporting,
  grpo,
  pretrain,
  sft,
  traces,
  weights,
)
from r1jax.stages.evaluating import EvalConfig
from r1jax.stages.loop import signals
from r1jax.stages.rewriting import Rewrite
from r1jax.training.lora import LoraConfig
from r1jax.training.objectives import LmConfig
from r1jax.training.optimizer import OptimizerConfig
from tests.stages import cases

# Adam's first steps are else the sign of rounding errors.
OPTIMIZER = OptimizerConfig(lr=0.3, eps=1.0)


def run_pretrain(workdir):
  cfg = pretrain.PretrainConfig(
      steps=2, rows=8, row_length=192, micro_batches=2, save_every=2,
      lm=LmConfig(), optimizer=OPTIMIZER)
  state = pretrain.run(
      cfg, cases.handed(cases.DENSE), cases.tokenizer(),
      functools.partial(corpus.document, cfg.seed), workdir,
      mesh=make_mesh(MeshConfig(data=2, fsdp=2)))
  weights.save(workdir / "out.safetensors", cases.DENSE, state.params,
               state.router_bias_LE, dtype="float32")


def run_sft(workdir):
  """An adapter; what is held out does not fill its last batch."""
  path = workdir.parent / "data.jsonl"

  def write():
    path.write_text("".join(
        json.dumps({"prompt": f"{i} + 2", "completion": f"{i + 2}"}) + "\n"
        for i in range(40)))

  processes.from_writer(write)
  examples = data_lib.load([path], cases.tokenizer(), "plain", 64).examples
  cfg = sft.SftConfig(
      steps=2, epochs=0, rows=4, row_length=64, save_every=2, template="plain",
      eval_every=1, optimizer=OPTIMIZER, lora=LoraConfig(rank=3, alpha=6.0))
  sft.run(cfg, cases.handed(cases.DENSE), cases.tokenizer(), examples[:30],
          workdir, held_out=examples[30:], settings={"init": "base"},
          mesh=make_mesh(MeshConfig(data=1, fsdp=4)))


def run_grpo(workdir, config, mesh, **changes):
  """Evaluated before, after two steps and at the end."""
  judge, first = cases.judge(), cases.policy(config)
  engine = Engine(first.model, SamplingConfig(max_new_tokens=12),
                  judge.tokenizer.eos_ids, mesh)

  evaluate = evaluating.during(
      EvalConfig(samples=4, max_rows=8, max_new_tokens=12), engine, judge,
      cases.prompts()[:6], workdir)
  return grpo.run(
      cases.config(steps=2, eval_every=2, **changes), weights.Handover(first),
      judge, cases.prompts(), workdir, evaluate=evaluate, mesh=mesh)


def run_replay(workdir):
  """A mixture, whose recorded experts travel with the samples."""
  run_grpo(workdir, cases.MIXTURE,
           make_mesh(MeshConfig(data=1, fsdp=2, expert=2)),
           replay_experts=True)


def run_minibatches(workdir, **sizes):
  """Eight updates a step; a process may have no sample in a minibatch."""
  mesh = make_mesh(MeshConfig(**sizes or dict(data=2, fsdp=2)))
  found = run_grpo(workdir, cases.DENSE, mesh, minibatches=8, micro_rows=4)
  if not grpo.finished(workdir, cases.config(steps=2)):
    return
  exporting.write(str(workdir / "hf"), found, cases.tokenizer(),
                  init=f"orbax:{workdir}", command="test", dtype="float32")


def run_interrupted(workdir):
  """`minibatches`, with a SIGTERM to the last process in all starts but one.

  They stop at its first, fourth, seventh... question, or soon after.
  """
  asked, signalled_at, starts = 0, 1, 0
  requested = signals.Preemption.requested

  def counted(self):
    nonlocal asked
    asked += 1
    if asked == signalled_at and jax.process_index() == jax.process_count() - 1:
      os.kill(os.getpid(), signal.SIGTERM)
    return requested(self)

  signals.Preemption.requested = counted
  try:
    while not grpo.finished(workdir, cases.config(steps=2)):
      run_minibatches(workdir)
      asked, signalled_at, starts = 0, signalled_at + 3, starts + 1
  finally:
    signals.Preemption.requested = requested
  assert starts > 2


def run_rewarded(workdir):
  """Reward models: processes have different numbers of texts for them."""
  mesh = make_mesh(MeshConfig(data=2, fsdp=2))
  judge = cases.rewarding(mesh=mesh, parts=True, offload=True)
  grpo.run(cases.config(steps=2, questions=12), cases.handed(cases.DENSE),
           judge, cases.general(cases.prompts()), workdir, mesh=mesh)


def run_traced(workdir):
  """Answers with verdicts, some of a judge, then rewritten and written."""
  evaluating._BATCH = 8  # four questions a file, one process has no tenth
  mesh, policy = make_mesh(MeshConfig(data=2, fsdp=2)), cases.policy(
      cases.DENSE)
  cfg = EvalConfig(samples=2, max_rows=8, temperature=1.0, top_p=1.0,
                   max_new_tokens=12)
  select = SelectConfig(form=False, filters=FilterConfig(
      thinking=False, language_share=0))
  judge, prompts = cases.judge(NoRule()), cases.general(cases.prompts()[:10])
  engine = evaluating.sampler(cfg, policy.model, judge.tokenizer, mesh)
  placed = jax.device_put(policy.params, weights.placed(policy.model, mesh))
  traces.prepare(
      workdir, {}, policy._replace(params=placed), judge.tokenizer)
  assert traces.collect(
      cfg, engine, judge, policy._replace(params=placed), prompts, workdir,
      judged=lambda prompts, answers: [
          Score(float(len(answer) % 2), True, "") for answer in answers])
  report = Report()
  chosen = cold_start.chosen(cfg, select, prompts, workdir, report)
  assert cold_start.rewrite(chosen, lambda drafts: [
      Rewrite("I see.", draft.answer or "none") for draft in drafts], judge,
                            workdir, batch=3)
  processes.from_writer(lambda: dialogues.write(
      workdir, cold_start.rows(chosen, judge, workdir, select, report, batch=3),
      report, settings={}))


class NoRule:
  """The checksums, but no accuracy where a question has no verifier."""

  def __init__(self):
    self.pool = cases.Pool()

  def submit(self, items):
    future = self.pool.submit(items)
    for (prompt, *_), scores in zip(items, future.result(), strict=True):
      if not prompt.verifier:
        del scores["accuracy"]
    return future


def run_tensor(workdir):
  """The same where one row lies on the devices of all processes."""
  run_minibatches(workdir, data=1, tensor=4)


STAGES = {name.removeprefix("run_"): run for name, run in globals().items()
          if name.startswith("run_") and name != "run_grpo"}

if __name__ == "__main__":
  distributed.initialize()
  for _name in sys.argv[2:] or STAGES:
    STAGES[_name](pathlib.Path(sys.argv[1]) / _name)
