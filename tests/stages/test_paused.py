"""A real signal inside a step: what was sampled is not sampled again."""

import os
import signal

import pytest

from r1jax.rollout.engine import Engine
from r1jax.stages import grpo
from tests.stages import cases
from tests.stages.test_resume import measured


def train(workdir):
  return grpo.run(
      cases.config(steps=2, replay_experts=True, save_every=9),
      cases.handed(), cases.judge(), cases.prompts(), workdir)


def test_a_rollout_with_its_experts_is_kept(tmp_path, capsys):
  whole = train(tmp_path / "whole")
  method, calls = Engine.generate, []

  def generate(*args, **kwargs):
    result = method(*args, **kwargs)
    calls.append(len(calls))
    if len(calls) == 2:
      os.kill(os.getpid(), signal.SIGTERM)
    return result

  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(Engine, "generate", generate)
    train(tmp_path / "paused")
    assert ("SIGTERM: saved inside step 2, after the rollout; the same command"
            " resumes") in capsys.readouterr().err
    resumed = train(tmp_path / "paused")
  assert len(calls) == 2
  cases.same(resumed.params, whole.params)
  assert measured(tmp_path / "paused") == measured(tmp_path / "whole")
