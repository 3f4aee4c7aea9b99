"""Thoughts of forced lengths, and evaluations of every checkpoint."""

from __future__ import annotations

import dataclasses

import jax
import numpy as np
import pytest

from r1jax.core.types import Rollout
from r1jax.evals import curves
from r1jax.models.compute import Compute
from r1jax.report import rollouts
from r1jax.rollout.engine import Engine
from r1jax.rollout.sampling import SamplingConfig
from r1jax.stages import checkpoints, evaluating, forcing
from r1jax.stages.forcing import Forcing
from tests.stages import cases
from tests.stages.conftest import EVAL

CLOSE = " </think> <answer>"


def make(judge, policy, **more):
  engine = Engine(policy.model, SamplingConfig(max_new_tokens=12),
                  judge.tokenizer.eos_ids)
  return engine, Forcing(
      engine, evaluating.laid_out(policy, engine), policy.router_bias_LE, judge,
      samples=2, seed=3, **dict(close=CLOSE, answer_tokens=5) | more)


@pytest.fixture(scope="module")
def forced():
  """(judge, engine, whole samples, samples of 4 tokens' thought, Forcing)."""
  judge, policy = cases.judge(), cases.policy(cases.DENSE)
  engine, forcing_ = make(judge, policy)
  batch = cases.prompts()[:3]
  counts = []
  forcing_.draw(batch, counts.append)
  assert sum(counts) == 3
  whole = engine.generate(
      evaluating.laid_out(policy, engine), policy.router_bias_LE,
      [judge.tokens(p) for p in batch], [p.id for p in batch], 2,
      forcing_._key())
  short = forcing_.under(4)
  for groups in forcing_.sample(4)([batch[:2], batch[2:]]):
    for one in groups:
      q = 2 * one.batch + one.question
      np.testing.assert_array_equal(one.rollout.tokens_QGT[0],
                                    short.tokens_QGT[q])
      np.testing.assert_array_equal(one.rollout.lengths_QG[0],
                                    short.lengths_QG[q])
  return judge, policy, engine, whole, short, forcing_


def test_thoughts_are_cut_closed_and_answered(forced):
  judge, policy, engine, whole, short, forcing_ = forced
  close = judge.tokenizer.encode_chat(CLOSE)
  changed = 0
  for q, g in np.ndindex(whole.lengths_QG.shape):
    before, after = whole.completion(q, g), short.completion(q, g)
    if len(before) <= 4 and not whole.truncated_QG[q, g] or (
        "</think>" in judge.tokenizer.decode(before[:4].tolist())):
      np.testing.assert_array_equal(after, before)  # ended by itself
      continue
    changed += 1
    assert after[:4].tolist() == before[:4].tolist()
    assert after[4:4 + len(close)].tolist() == close
    answer = after[4 + len(close):]
    assert 1 <= len(answer) <= 5
    ended = int(answer[-1]) in judge.tokenizer.eos_ids
    assert short.truncated_QG[q, g] == (not ended)
  assert 0 < changed == forcing_.forced <= forcing_.asked == 6


def test_the_answer_is_what_the_model_says_there(forced):
  """Greedy, the continuation of the cut thought by another engine."""
  judge, policy, *_ = forced
  cold = SamplingConfig(max_new_tokens=12, temperature=0.0)
  engine = Engine(policy.model, cold, judge.tokenizer.eos_ids)
  made = Forcing(engine, evaluating.laid_out(policy, engine),
                 policy.router_bias_LE, judge, 1, 0, close=CLOSE,
                 answer_tokens=5)
  close = judge.tokenizer.encode_chat(CLOSE)
  answering = Engine(
      policy.model, dataclasses.replace(cold, max_new_tokens=5),
      judge.tokenizer.eos_ids)
  compared = 0
  for prompt in cases.prompts()[:4]:
    made.draw([prompt], lambda count: None)
    short = made.under(1)
    got = short.completion(0, 0)
    if len(got) > 1:  # else the sample ends with its first token
      again = answering.generate(
          evaluating.laid_out(policy, engine), policy.router_bias_LE,
          [np.concatenate([judge.tokens(prompt), got[:1], close]).astype(
              np.int32)], [7], 1, jax.random.key(9))
      np.testing.assert_array_equal(
          again.completion(0, 0), got[1 + len(close):])
      compared += 1
  assert compared


def test_long_thoughts_are_sampled_once(forced, monkeypatch):
  *_, whole, short, forcing_ = forced
  calls = []
  sample = Engine.generate
  monkeypatch.setattr(Engine, "generate", lambda self, *a, **k: (
      calls.append(self.cfg.max_new_tokens), sample(self, *a, **k))[1])
  longer = forcing_.under(8)
  assert calls == [5]
  for q, g in np.ndindex(whole.lengths_QG.shape):
    cut = min(8, int(whole.lengths_QG[q, g]))
    assert longer.completion(q, g)[:cut].tolist() == whole.completion(
        q, g)[:cut].tolist()


def test_closed_thoughts_stay(forced):
  judge, *_, forcing_ = forced
  ids = judge.tokenizer.encode_chat("a </think> b c d e f g")
  whole = Rollout(
      prompt_tokens=(np.ones(2, np.int32),), prompt_ids_Q=np.zeros(1, np.int64),
      tokens_QGT=np.array([[ids]], np.int32),
      lengths_QG=np.array([[len(ids)]]), truncated_QG=np.array([[True]]),
      logprobs_QGT=np.zeros((1, 1, len(ids)), np.float32))
  closed = len(judge.tokenizer.encode_chat("a </think>"))
  assert forcing_._open(whole, closed) == []
  assert forcing_._open(whole, 1) == [(0, 0)]


def test_what_does_not_close_a_thought():
  with pytest.raises(ValueError, match="'Answer:' does not end a thought"):
    make(cases.judge(), cases.policy(cases.DENSE), close="Answer:")
  assert forcing._STREAM != evaluating._STREAM


def test_every_checkpoint_is_evaluated(smoke, tmp_path, monkeypatch):
  init = f"orbax:{smoke.workdir}"
  steps = checkpoints.choose("all", init)
  assert steps == checkpoints.choose("2,4", init) == [2, 4]
  judge = cases.judge()
  engine = evaluating.sampler(EVAL, smoke.weights.model, judge.tokenizer)
  shared = EVAL, engine, judge, cases.prompts()[:3], init
  figure = checkpoints.evaluate(*shared, steps, tmp_path, Compute())
  assert figure.stat().length > 5000
  assert [row["step"] for row in curves.of_run(tmp_path, ["reasoning"])] == [
      2, 4]
  # The last checkpoint is what the run ended with.
  evaluating.evaluate(
      EVAL, engine, judge, smoke.weights.params, smoke.weights.router_bias_LE,
      cases.prompts()[:3], path=tmp_path / "last.jsonl.gz", progress=False)
  first, last = (rollouts.read(tmp_path, step, rollouts.EVALUATIONS)
                 for step in steps)
  assert last == rollouts.read_file(tmp_path / "last.jsonl.gz") != first
  # What is there is not made again.
  monkeypatch.setattr(checkpoints.weights, "load", None)
  checkpoints.evaluate(*shared, steps, tmp_path, Compute())
  for text, message in (("3", r"has checkpoints \[2, 4\]"), ("x", "give all")):
    with pytest.raises(ValueError, match=message):
      checkpoints.choose(text, init)
  with pytest.raises(ValueError, match="give --init=orbax:WORKDIR, not base"):
    checkpoints.choose("all", "base")
