from __future__ import annotations

import dataclasses
import gzip
import json

import numpy as np
import pytest

from r1jax.core.prompt import Prompt, ask
from r1jax.core.types import Rollout
from r1jax.evals import runner
from r1jax.evals.runner import once
from r1jax.rewards import combine, format, response
from r1jax.rewards.maths import answer
from tests import answers

G = 3


def prompts(n):
  return [Prompt(id=100 + i, domain=("math", "logic")[i % 5 > 2],
                 source="test", messages=ask(f"{i}?"), reference=str(i),
                 verifier="math", metadata={"level": i % 2})
          for i in range(n)]


class Model:
  """Sample g of problem i answers i if g <= i % 4, else 7000 (or nothing)."""

  def __init__(self):
    self.batches = []

  def __call__(self, batch):
    self.batches.append([p.id for p in batch])
    texts = [[self.text(p, g) for g in range(G)] for p in batch]
    shape = len(batch), G
    lengths = np.array([[len(t) for t in row] for row in texts], np.int32)
    rollout = Rollout(
        prompt_tokens=tuple(np.zeros(1, np.int32) for _ in batch),
        prompt_ids_Q=np.array([p.id for p in batch], np.int32),
        tokens_QGT=np.zeros((*shape, 2), np.int32), lengths_QG=lengths,
        truncated_QG=np.array([[t == "" for t in row] for row in texts]),
        logprobs_QGT=np.zeros((*shape, 2), np.float32))
    return rollout, texts

  def text(self, prompt, g):
    i = prompt.id - 100
    if g > i % 4:
      return "" if i % 4 == 1 else "<think></think><answer>7000</answer>"
    return f"<think> </think> <answer> {i}.0 </answer>"


def judge(rollout, batch, texts):
  scores = []
  for prompt, tail, text in combine.items(batch, [""] * len(batch), texts):
    found = response.split(tail, text)
    scores.append({"accuracy": answer.verify(prompt, found),
                   "format": format.think_answer(prompt, found)})
  return combine.scored(combine.Combine(), rollout, batch, texts, scores)


def run(n=10, model=None, score=judge, **kwargs):
  kwargs = dict(batch_size=4, progress=False) | kwargs
  return runner.evaluate(
      prompts(n), answers.of(model or Model(), score), **kwargs)


def test_result():
  got = run()
  # Of 3 samples, right by i % 4: 1, 2, 3, 3.
  right = np.array([min(i % 4 + 1, 3) for i in range(10)])
  np.testing.assert_allclose(got.pass1, right.mean() / 3)
  assert got.pass1_low < got.pass1 < got.pass1_high
  np.testing.assert_allclose(got.pass_k[1], got.pass1)
  np.testing.assert_allclose(
      got.pass_k[2], np.mean([{1: 2 / 3, 2: 1, 3: 1}[r] for r in right]))
  assert set(got.pass_k) == {1, 2, 3} and got.pass_k[3] == 1
  # i % 4 == 0: one right against two alike and wrong.
  np.testing.assert_allclose(got.maj_k, 0.7)
  np.testing.assert_allclose(got.format, 1 - 3 / 30)
  np.testing.assert_allclose(got.truncated, 3 / 30)
  assert (got.n_prompts, got.n_samples, got.invalid) == (10, 3, 0)
  np.testing.assert_allclose(got.by_level["0"], right[::2].mean() / 3)
  np.testing.assert_allclose(got.by_level["1"], right[1::2].mean() / 3)
  hard = np.arange(10) % 5 > 2
  np.testing.assert_allclose(got.by_domain["logic"], right[hard].mean() / 3)
  np.testing.assert_allclose(got.by_domain["math"], right[~hard].mean() / 3)


@pytest.mark.parametrize("batch_size", [1, 3, 4, 5, 10, 16])
def test_batches_do_not_matter(batch_size):
  model = Model()
  assert run(model=model, batch_size=batch_size) == run()
  assert {len(batch) for batch in model.batches[:-1]} <= {batch_size}
  assert [i for batch in model.batches for i in batch] == list(range(100, 110))


def test_an_interruption_is_seen_between_batches_and_within_them():
  """What is sampled beyond is not asked for."""
  asked = []

  def slowly(batches):
    for at, rows in enumerate(answers.of(Model(), judge)(batches)):
      yield from [None, None, rows]
      asked.append(at)

  def stop_at(count):
    looks = iter(range(count))
    asked.clear()
    return runner.evaluate(
        prompts(10), slowly, batch_size=4, progress=False,
        interrupted=lambda: next(looks, None) is None)

  assert stop_at(9) == run() and asked == [0, 1]
  assert stop_at(4) is None and asked == [0]  # amid the second
  assert stop_at(0) is None and asked == []


def test_generations_are_stored(tmp_path):
  path = tmp_path / "new" / "generations.jsonl.gz"
  run(path=path)
  lines = [json.loads(line)
           for line in gzip.decompress(path.read_bytes()).splitlines()]
  assert [(r["id"], r["sample"]) for r in lines] == [
      (100 + i, g) for i in range(10) for g in range(G)]
  assert lines[1] == {
      "number": 0, "id": 100, "sample": 1, "question": "0?", "reference": "0",
      "source": "test", "domain": "math", "language": "en", "level": 0,
      "topic": None,
      "completion": "<think></think><answer>7000</answer>", "answer": "7000",
      "reasons": {"accuracy": "wrong", "format": "correct"}, "measures": {},
      "parts": {"accuracy": 0.0, "format": 1.0}, "valid": True, "length": 36,
      "truncated": False}
  first = path.read_bytes()
  run(path=path)
  assert path.read_bytes() == first
  assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_measurements_behind_verdicts_are_stored(tmp_path):
  def measured(rollout, batch, texts):
    return dataclasses.replace(judge(rollout, batch, texts), measures=tuple(
        tuple({"accuracy/done": float(g)} for g in range(G)) for _ in batch))

  path = tmp_path / "generations.jsonl.gz"
  run(n=2, score=measured, path=path)
  lines = [json.loads(line)
           for line in gzip.decompress(path.read_bytes()).splitlines()]
  assert [r["measures"] for r in lines] == [
      {"accuracy/done": g} for g in range(G)] * 2


def test_every_process_has_the_numbers_of_all(monkeypatch, tmp_path):
  """Each stores the rows of its own."""
  whole, ours = run(5).pass1, {}

  def part(own):
    def work(batches):
      for rows in answers.of(Model(), judge)(batches):
        yield rows[2 * own:2 * own + 2]

    monkeypatch.setattr(runner.processes, "gather", lambda rows: [
        rows, ours.get("rows", [])])
    return runner.evaluate(prompts(5), work, batch_size=4, progress=False,
                           path=tmp_path / f"{own}.jsonl.gz")

  with pytest.raises(RuntimeError, match="exactly once"):  # the other's missing
    monkeypatch.setattr(runner, "once", lambda rows, prompts: (
        ours.update(rows=rows), once(rows, prompts))[1])
    part(0)
  assert [row["id"] for row in ours["rows"]] == [100, 101, 104]
  assert part(1).pass1 == whole


def test_a_sample_without_verdict_counts_as_wrong():
  def shaken(rollout, batch, texts):
    scored = judge(rollout, batch, texts)
    scored.valid_QG[0, 0] = False
    return scored

  got = run(n=4, score=shaken)
  assert got.invalid == 1
  np.testing.assert_allclose(got.pass1, (0 + 2 + 3 + 3) / 12)


def test_format_may_be_left_out():
  def plain(rollout, batch, texts):
    scored = judge(rollout, batch, texts)
    return dataclasses.replace(
        scored, parts={"accuracy": scored.parts["accuracy"]})

  assert run(score=plain).format is None


def other_prompts(rollout, batch, texts):
  scored = judge(rollout, batch, texts)
  return dataclasses.replace(scored, prompts=scored.prompts[::-1])


def not_judged(rollout, batch, texts):
  scored = judge(rollout, batch, texts)
  scored.parts["accuracy"][1] = np.nan
  return scored


def no_accuracy(rollout, batch, texts):
  return dataclasses.replace(judge(rollout, batch, texts), parts={})


def test_bad_input():
  with pytest.raises(RuntimeError, match="other prompts"):
    run(score=other_prompts)
  with pytest.raises(ValueError, match="accuracy"):
    run(score=no_accuracy)
  with pytest.raises(ValueError, match="prompt 101 of 'test'"):
    run(score=not_judged)
  with pytest.raises(ValueError, match="no prompts"):
    run(n=0)
  with pytest.raises(ValueError, match="batch_size=0"):
    run(batch_size=0)
  with pytest.raises(ValueError, match="twice: .100"):
    runner.evaluate(prompts(2) + prompts(1), answers.of(Model(), judge),
                    batch_size=2)
