"""One small GRPO run that several tests look at."""

import pathlib
from typing import NamedTuple

import pytest

from r1jax.report import rollouts
from r1jax.rollout.engine import Engine
from r1jax.rollout.sampling import SamplingConfig
from r1jax.stages import evaluating, grpo
from r1jax.stages import learner as learner_lib
from r1jax.stages.evaluating import EvalConfig
from r1jax.stages.weights import Handover, Weights
from tests.stages import cases

EVAL = EvalConfig(samples=4, max_rows=6, max_new_tokens=12, temperature=1.0,
                  top_p=1.0)


class Smoke(NamedTuple):
  """A run of 4 steps, evaluated before, after 2 and after 4.

  `compiled` has (programs of the update, programs of the engine) by step.
  """

  workdir: pathlib.Path
  weights: Weights
  compiled: list[tuple[int, int]]


@pytest.fixture(scope="session")
def smoke(tmp_path_factory):
  workdir = tmp_path_factory.mktemp("smoke")
  updates, programs = [], []

  class Learner(learner_lib.Learner):
    def update(self, micros):
      metrics = super().update(micros)
      updates.append(self.compilations())
      return metrics

  class Rollouts(Engine):
    def generate(self, *args, **kwargs):
      rollout = super().generate(*args, **kwargs)
      programs.append(self.compilations())
      return rollout

  judge, first = cases.judge(), cases.policy()
  engine = Engine(first.model, SamplingConfig(max_new_tokens=12),
                  judge.tokenizer.eos_ids)

  def evaluate(params, bias_LE, step, interrupted):
    return evaluating.metrics(evaluating.evaluate(
        EVAL, engine, judge, params, bias_LE, cases.prompts()[:3], step=step,
        path=rollouts.path(workdir, step, rollouts.EVALUATIONS),
        progress=False))

  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(learner_lib, "Learner", Learner)
    patch.setattr(grpo, "Engine", Rollouts)
    found = grpo.run(cases.config(steps=4, eval_every=2),
                     Handover(first), judge, cases.prompts(), workdir,
                     evaluate=evaluate)
  return Smoke(workdir, found, list(zip(updates, programs, strict=True)))
