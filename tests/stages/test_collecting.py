"""Questions that repeat, and questions that replace those that teach nothing.
"""

import concurrent.futures
import types

import numpy as np
import pytest

from r1jax.report import rollouts, writer
from r1jax.rewards.score import Score
from r1jax.stages import collecting, grpo
from r1jax.stages.collecting import collect
from tests.stages import cases


class Pool:
  """Accuracy by question: all right, all wrong, or by turns."""

  def __init__(self, varied):
    self.varied = varied

  def submit(self, items):
    scores = []
    for number, (prompt, *_) in enumerate(items):
      right = number % 2 if prompt.id in self.varied else 1
      scores.append({"accuracy": Score(float(right), True, "by turns"),
                     "format": Score(1.0, True, "always")})
    future = concurrent.futures.Future()
    future.set_result(scores)
    return future


def generated(questions, repeats, experts=None, ended=None):
  q = len(questions)
  del repeats, ended
  return collecting.Rollout(
      prompt_tokens=tuple(np.full(3 + p.id % 3, p.id, np.int32)
                          for p in questions),
      prompt_ids_Q=np.array([p.id for p in questions]),
      tokens_QGT=np.full((q, 2, 12), 7, np.int32),
      lengths_QG=np.array([[1 + p.id % 9, 2] for p in questions], np.int32),
      truncated_QG=np.zeros((q, 2), bool),
      logprobs_QGT=np.zeros((q, 2, 12), np.float32), experts_QGSLA=experts)


def stream(*batches):
  prompts = {p.id: p for p in cases.prompts()}
  return iter([[prompts[i] for i in batch] for batch in batches])


def ids():
  return [p.id for p in cases.prompts()]


def collected(varied, *batches, tries=2, done=None):
  cfg = cases.config(questions=4, dynamic_tries=tries)
  done = [] if done is None else done
  found = collect(cfg, stream(*batches), generated,
                  cases.judge(Pool(varied)), done, lambda: False)
  return found, len(done)


def test_groups_without_variance_give_way():
  x = ids()
  found, rounds = collected({x[1], x[4], x[6], x[7], x[9]},
                            x[:4], x[4:8], x[8:12])
  assert rounds == 2  # the second round completed the four
  scored = found.verdicts()
  assert [p.id for p in scored.prompts] == [x[1], x[4], x[6], x[7]]
  assert found.rollout is scored.rollout
  assert list(found.rollout.prompt_ids_Q) == [x[1], x[4], x[6], x[7]]
  for q, prompt in enumerate(scored.prompts):
    assert found.rollout.prompt_tokens[q][0] == prompt.id
    assert found.rollout.lengths_QG[q, 0] == 1 + prompt.id % 9
    assert scored.rewards_QG[q, 0] != scored.rewards_QG[q, 1]
  assert found.metrics == {
      "dynamic/rounds": 2.0, "dynamic/varied_fraction": 0.5,
      "dynamic/filled_fraction": 0.0}


def test_after_the_last_round_the_rest_is_filled():
  x = ids()
  found, rounds = collected({x[2]}, x[:4], x[4:8], x[8:12])
  assert rounds == 3
  assert x[2] in [p.id for p in found.verdicts().prompts]
  assert len(found.verdicts().prompts) == 4
  assert found.metrics["dynamic/filled_fraction"] == 0.75


def test_waits_between_rounds_are_counted(monkeypatch):
  """A clock that only verdicts move, by 3 seconds each."""
  x, now = ids(), [0.0]

  class Slow(Pool):
    def submit(self, items):
      future = super().submit(items)

      def result():
        now[0] += 3
        return future.result()

      return types.SimpleNamespace(result=result)

  monkeypatch.setattr(collecting, "time", types.SimpleNamespace(
      perf_counter=lambda: now[0]))
  batches = x[:4], x[4:8], x[8:12]
  for tries, waited in ((2, 9.0), (0, 0.0)):
    found = collect(
        cases.config(questions=4, dynamic_tries=tries), stream(*batches),
        generated, cases.judge(Slow({x[2]})), [], lambda: False)
    assert found.waited == waited
    clock = grpo.Clock()
    clock.lap("rollout", rewards=found.waited)
    clock.lap("rewards")
    assert clock.laps["rewards"] >= waited
    assert clock.laps["rollout"] + waited < 1


def test_without_tries_nothing_is_replaced():
  x = ids()
  found, rounds = collected(set(), x[:4], tries=0)
  assert rounds == 1 and not found.metrics
  assert [p.id for p in found.verdicts().prompts] == x[:4]


def test_an_interrupted_step_is_done_again_from_its_rollouts():
  x, asked = ids(), []
  batches = x[:4], x[4:8], x[8:12]

  def counting(questions, repeats, ended):
    del ended
    asked.append([p.id for p in questions])
    return generated(questions, repeats)

  cfg, done = cases.config(questions=4, dynamic_tries=2), []
  judge = cases.judge(Pool({x[1], x[4], x[6], x[7]}))
  assert collect(cfg, stream(*batches), counting, judge, done,
                 lambda: len(done) == 2) is None
  assert len(done) == 2 and asked == [x[:4], x[4:8]]
  again = collect(cfg, stream(*batches), counting, judge, done, lambda: False)
  assert asked == [x[:4], x[4:8]]  # nothing is sampled twice
  whole, _ = collected({x[1], x[4], x[6], x[7]}, *batches)
  np.testing.assert_array_equal(again.rollout.tokens_QGT,
                                whole.rollout.tokens_QGT)


def test_recorded_experts_of_prompts_of_different_lengths():
  """Rounds may be padded to different buckets of prompts."""
  x = ids()
  shapes = {x[0]: 16, x[4]: 20}  # slots of the prompt

  def with_experts(questions, repeats, ended):
    del ended
    slots = shapes[questions[0].id] + 12
    experts = np.random.default_rng(slots).integers(
        0, 8, (4, 2, slots, 1, 2), np.int32)
    return generated(questions, repeats, experts)

  cfg, done = cases.config(questions=4, dynamic_tries=1), []
  found = collect(cfg, stream(x[:4], x[4:8]), with_experts,
                  cases.judge(Pool({x[1], x[5]})), done, lambda: False)
  first, second = done
  experts = found.rollout.experts_QGSLA
  assert experts.shape[2] == 32
  row = [p.id for p in found.verdicts().prompts].index(x[1])
  np.testing.assert_array_equal(experts[row, :, :16],
                                first.experts_QGSLA[1, :, :16])
  np.testing.assert_array_equal(experts[row, :, 20:],
                                first.experts_QGSLA[1, :, 16:])
  row = [p.id for p in found.verdicts().prompts].index(x[5])
  np.testing.assert_array_equal(experts[row], second.experts_QGSLA[1])


@pytest.mark.parametrize("tries", [0, 1])
def test_a_training_set_smaller_than_a_batch(tmp_path, capsys, tries):
  """Equal questions in one step have samples of their own."""
  grpo.run(cases.config(steps=1, dynamic_tries=tries),
           cases.handed(cases.DENSE), cases.judge(), cases.prompts()[:3],
           tmp_path)
  assert "8 questions but there are only 3" in capsys.readouterr().err
  rows = rollouts.read(tmp_path, 1)
  texts = {}
  for row in rows:
    texts.setdefault(row["prompt_id"], []).append(row["completion"])
  assert len(rows) == 16 and len(texts) == 3
  for found in texts.values():
    assert len(set(found)) > len(found) / 2
  (logged,) = writer.read(tmp_path)
  assert ("dynamic/rounds" in logged) == (tries > 0)


def test_samples_are_judged_while_others_are_decoded():
  """Each as it ends, in any order, and none of them again."""
  begun, pool = [], Pool(ids())

  class Watched:
    def submit(self, items):
      begun.append([prompt.id for prompt, *_ in items])
      return pool.submit(items)

  def decoding(questions, repeats, ended):
    rollout = generated(questions, repeats)
    for q, g in ((1, 0), (0, 1)):
      ended(q, g, rollout.completion(q, g))
    assert begun == [[questions[1].id], [questions[0].id]]
    for q, g in np.ndindex(rollout.lengths_QG.shape):
      if (q, g) not in ((1, 0), (0, 1)):
        ended(q, g, rollout.completion(q, g))
    return rollout

  found = collect(cases.config(questions=4), stream(ids()[:4]), decoding,
                  cases.judge(Watched()), [], lambda: False)
  assert len(found.verdicts().prompts) == 4
  assert len(begun) == 8
