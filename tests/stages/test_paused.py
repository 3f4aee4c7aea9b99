"""A signal inside a step: saved, and the same call goes on, bit for bit."""

import os
import signal

import pytest

from r1jax.report import rollouts
from r1jax.rollout.engine import Engine
from r1jax.stages import grpo
from r1jax.stages.learner import Learner
from tests.stages import cases
from tests.stages.test_resume import measured

SETTINGS = dict(steps=2, minibatches=2, epochs=2, eval_every=1, save_every=9,
                micro_rows=4)


def train(workdir, **changes):
  def evaluate(params, bias_LE, step, interrupted):
    return None if interrupted() else {"eval/pass1": step / 8}

  return grpo.run(
      cases.config(**SETTINGS | changes), cases.handed(cases.MIXTURE),
      cases.judge(), cases.prompts(), workdir, evaluate=evaluate)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
  folder = tmp_path_factory.mktemp("undisturbed")
  return folder, train(folder)


def killing(patch, owner, name, call):
  """A SIGTERM at the end of the given call of a method."""
  method, calls = getattr(owner, name), []

  def wrapped(*args, **kwargs):
    result = method(*args, **kwargs)
    calls.append(name)
    if len(calls) == call:
      os.kill(os.getpid(), signal.SIGTERM)
    return result

  patch.setattr(owner, name, wrapped)


@pytest.mark.parametrize("owner,name,call,said", [
    (Engine, "generate", 1, "saved inside step 1, after the rollout"),
    (Learner, "update", 1, "saved inside step 1, after update 1 of 4"),
    (Learner, "update", 7, "saved inside step 2, after update 3 of 4"),
    # After the last update (two calls come before the first step) there is the
    # evaluation, which is done again.
    (Learner, "rest", 3, "saved inside step 1, after update 4 of 4"),
], ids=["rollout", "first update", "later update", "evaluation"])
def test_it_goes_on_from_inside_the_step(
    undisturbed, tmp_path, capsys, owner, name, call, said):
  folder, whole = undisturbed
  with pytest.MonkeyPatch.context() as patch:
    killing(patch, owner, name, call)
    train(tmp_path)
  assert f"SIGTERM: {said}; the same command resumes" in capsys.readouterr().err
  generated = []
  with pytest.MonkeyPatch.context() as patch:
    method = Engine.generate
    patch.setattr(Engine, "generate", lambda *args, **kwargs: (
        generated.append(1), method(*args, **kwargs))[1])
    resumed = train(tmp_path)
  # What was sampled is not sampled again.
  assert len(generated) == (0 if "step 2" in said else 1)
  cases.same(resumed.params, whole.params)
  assert measured(tmp_path) == measured(folder)
  for step in (1, 2):
    assert rollouts.read(tmp_path, step) == rollouts.read(folder, step)


def test_replayed_experts_travel_too(tmp_path):
  changes = dict(replay_experts=True, epochs=1, minibatches=1, eval_every=0)
  whole = train(tmp_path / "whole", **changes)
  with pytest.MonkeyPatch.context() as patch:
    killing(patch, Engine, "generate", 2)
    train(tmp_path / "paused", **changes)
  resumed = train(tmp_path / "paused", **changes)
  cases.same(resumed.params, whole.params)
  assert measured(tmp_path / "paused") == measured(tmp_path / "whole")


def test_an_evaluation_of_the_first_model_is_done_again(tmp_path, capsys):
  """Nothing is saved yet, and the message says what is lost."""
  kills = [True]

  def evaluate(params, bias_LE, step, interrupted):
    if kills:
      kills.pop()
      os.kill(os.getpid(), signal.SIGTERM)
    return None if interrupted() else {"eval/pass1": 0.5}

  def run():
    grpo.run(cases.config(steps=1), cases.handed(cases.DENSE), cases.judge(),
             cases.prompts(), tmp_path, evaluate=evaluate)

  run()
  assert ("SIGTERM: stopped, the evaluation of the first model is lost; the"
          " same command does it again") in capsys.readouterr().err
  assert measured(tmp_path) == []
  run()
  assert [row["step"] for row in measured(tmp_path)] == [0, 1]
