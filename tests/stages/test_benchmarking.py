"""Benchmarks sampled and judged, stored as they are done, resumed."""

import dataclasses
import gzip
import json

import numpy as np
import pytest

from r1jax.core.prompt import Prompt, ask
from r1jax.core.types import Rollout
from r1jax.evals.benchmarks import arena_hard, simpleqa, statistic
from r1jax.evals.benchmarks.benchmark import (
  ATTEMPTS,
  GRADES,
  PAIRS,
  Benchmark,
)
from r1jax.rewards.combine import RewardConfig
from r1jax.stages import benchmarking, evaluating, respondents
from r1jax.stages.benchmarking import Referee
from r1jax.stages.evaluating import EvalConfig, Group
from r1jax.stages.judging import Judge
from r1jax.stages.loop.signals import Preemption
from r1jax.stages.respondents import Respondent
from tests import chat_server
from tests.rewards.test_judge import by
from tests.stages import cases

CFG = EvalConfig(samples=2, max_new_tokens=8)
REWARDS = RewardConfig(workers=1)


@pytest.fixture(autouse=True)
def two_problems_a_file(monkeypatch):
  monkeypatch.setattr(evaluating, "_BATCH", 4)


SUMS = Benchmark(name="sums", title="Sums", source="arith", level="level")


def sums(count=5):
  return [Prompt(id=i, domain="math", source="sums", messages=ask(f"{i} + 1?"),
                 reference=str(i + 1), verifier="math",
                 metadata={"level": i % 2}) for i in range(count)]


def facts(count=5, **metadata):
  return [Prompt(id=i, domain="general", source="facts",
                 messages=ask(f"Who is {i}?"), reference=f"person {i}",
                 verifier="", metadata=metadata) for i in range(count)]


class Answers:
  """Sample 0 is right, sample 1 is wrong; thoughts before both."""

  def __init__(self, *texts):
    self.texts, self.asked = texts, []

  def __call__(self, cfg, judge):
    def sample(batches):
      for at, prompts in enumerate(batches):
        for q, prompt in enumerate(prompts):
          self.asked.append(prompt.id)
          yield [self.group(at, q, prompt, cfg.samples, judge)]
    return sample

  def group(self, at, q, prompt, samples, judge):
    shape = 1, samples
    return Group(at, q, Rollout(
        prompt_tokens=(judge.tokens(prompt),),
        prompt_ids_Q=np.array([prompt.id], np.int32),
        tokens_QGT=np.zeros((*shape, 1), np.int32),
        lengths_QG=np.full(shape, 3, np.int32),
        truncated_QG=np.zeros(shape, bool),
        logprobs_QGT=np.zeros((*shape, 1), np.float32)),
        [self.text(prompt, g) for g in range(samples)])

  def text(self, prompt, g):
    said = (self.texts or (f"\\boxed{{{prompt.reference}}}", "7000"))[g]
    return f"<think>so</think> {said}"


def respondent(answers, **more):
  return Respondent(**dict(
      settings={"init": "toy"}, tokenizer=cases.tokenizer(), template="plain",
      context=256, sample=answers) | more)


def sampled(folder, answers, one=SUMS, prompts=None, **more):
  return benchmarking.sampled(
      one, prompts or sums(), CFG, respondent(answers, **more), REWARDS, folder)


def test_a_rule_judges_and_a_kill_loses_nothing(tmp_path, monkeypatch):
  whole, fitting = sampled(tmp_path / "whole", Answers())
  assert len(whole) == len(fitting) == 5
  pass1, cons, *levels = statistic.accuracy(whole)
  assert pass1.value == 0.5 and len(levels) == 2
  answers = Answers()

  def requested(self):
    return any((tmp_path / "cut/samples").glob("batch*"))

  with monkeypatch.context() as patch:
    patch.setattr(Preemption, "requested", requested)
    assert sampled(tmp_path / "cut", answers)[0] is None
  answers.asked.clear()
  assert sampled(tmp_path / "cut", answers)[0] == whole
  assert answers.asked == [2, 3, 4]  # one file of two was written
  assert sampled(tmp_path / "cut", answers)[0] == whole
  assert answers.asked == [2, 3, 4]


def test_a_process_without_problems_judges_along(tmp_path, monkeypatch):
  """What judges may do so for all processes together."""
  judged, real = [], Judge._scored

  def scored(self, rollout, prompts, *rest):
    judged.append([p.id for p in prompts])
    return real(self, rollout, prompts, *rest)

  monkeypatch.setattr(Judge, "_scored", scored)
  # The second of two processes, which has none of the last batch's one.
  cases.as_second_of_two(monkeypatch)
  with pytest.raises(ValueError):  # the first's rows are not there
    sampled(tmp_path, Answers())
  assert judged == [[1], [3], [4]]


def test_another_model_other_questions_and_none_that_fits(tmp_path):
  sampled(tmp_path / "a", Answers())
  with pytest.raises(ValueError, match="init: 'toy' -> 'other'(.|\n)*--out"):
    sampled(tmp_path / "a", Answers(), settings={"init": "other"})
  moved = [dataclasses.replace(p, messages=ask(p.question + "?"))
           for p in sums()]
  with pytest.raises(ValueError, match="the benchmark's files or --wordings"):
    sampled(tmp_path / "a", Answers(), prompts=moved)
  with pytest.raises(ValueError, match="none of 5 sums prompts fits"):
    sampled(tmp_path / "b", Answers(), context=9)


def graded(folder, scorer, generate, count=5, settings=None, **more):
  one = Benchmark(name="facts", title="Facts", source="simpleqa", scorer=scorer,
                  numbers=simpleqa.numbers, publisher="p")
  rows, prompts = sampled(folder, Answers("Ada", "nobody"), one, facts(count))
  assert all("accuracy" not in row["parts"] for row in rows)
  return one, benchmarking.judged(
      one, rows, prompts, Referee("j", generate, settings or {"name": "j"}),
      folder, **more)


def says(*words):
  """A judge that says these in turn; None says nothing."""
  left = list(words)

  def generate(conversations):
    texts = []
    for (message,) in conversations:
      assert "so" not in message["content"].split("<answer")[1]
      word = left.pop(0)
      texts.append(word and json.dumps({"analysis": "", "correctness": word}))
    return texts
  return generate


def test_a_judge_grades_once_and_its_failures_are_counted(tmp_path):
  said = says("correct", "incorrect", "not attempted", None, *["correct"] * 5,
              "junk")
  one, rows = graded(tmp_path, ATTEMPTS, said)
  right, silent, _, _, missing = one.numbers(rows)
  assert right.value == pytest.approx((0.5 + 0 + 1 + 1 + 1) / 5)
  assert missing.value == pytest.approx(0.2)
  assert silent.value == pytest.approx((0 + 1 + 0 + 0 + 0) / 5)
  # All is there: nobody is asked again, and another judge is refused.
  assert graded(tmp_path, ATTEMPTS, says())[1] == rows
  with pytest.raises(ValueError, match="judge.name: 'j' -> 'k'"):
    graded(tmp_path, ATTEMPTS, says(), settings={"name": "k"})
  benchmarking.write(tmp_path, one, rows, benchmarking.told(one, rows, CFG, 3))
  result = json.loads((tmp_path / "result.json").read_text())
  assert (result["left_out"], result["invalid"]) == (3, 2)
  assert result["numbers"][0]["value"] == right.value
  # Neither is what has no verdict wrong in the rest.
  assert result["statistics"]["pass_1"]["mean"] == pytest.approx(right.value)
  assert result["statistics"]["not_counted"] == 2
  stored = gzip.decompress((tmp_path / "generations.jsonl.gz").read_bytes())
  assert len(stored.splitlines()) == 10
  assert "Facts" in benchmarking.table([result])


def compared(folder, generate, answers=("good", " "), other="", **metadata):
  one = Benchmark(name="duel", title="Duel", source="arena_hard", scorer=PAIRS,
                  numbers=arena_hard.numbers, publisher="p")
  rows, prompts = sampled(
      folder / "duel", Answers(*answers), one, facts(3, **metadata))
  done = benchmarking.judged(
      one, rows, prompts, Referee("j", generate, {"name": "j"}),
      folder / "duel", other)
  benchmarking.write(
      folder / "duel", one, done, benchmarking.told(one, done, CFG, 0))
  return one, done


def better(a, b):
  return "[[A>>B]]" if a.startswith("good") else "[[B>>A]]"


def test_pairs_are_compared_in_both_orders_with_a_baseline(tmp_path):
  shown = []

  def generate(conversations):
    shown.extend(c[0]["content"] for c in conversations)
    return by(better)(conversations)

  one, rows = compared(
      tmp_path / "a", generate, uid="u", baseline="a bad one")
  assert len(shown) == 6  # three answers in two orders; blanks are not shown
  assert sum(text.index("\ngood\n") < text.index("\na bad one\n")
             for text in shown) == 3
  for row in rows:
    assert row["parts"]["accuracy"] == [1, 0]
    assert row["pairs"][0]["votes"] == [2, 2]
    assert row["pairs"][1]["votes"] == [-2, -2]
    assert row["metadata"] == {"uid": "u"}
  # That model's answers as the baseline of another.
  _, rows = compared(tmp_path / "b", by(better), ("bad", "good too"),
                     tmp_path / "a")
  assert [row["parts"]["accuracy"] for row in rows] == [[0, 0.5]] * 3
  with pytest.raises(ValueError, match="3 of 3 problems have no baseline"):
    compared(tmp_path / "c", by(better))
  with pytest.raises(ValueError, match="has no duel/answers.jsonl"):
    compared(tmp_path / "c", by(better), other=tmp_path / "none")


def test_a_silent_order_is_no_verdict(tmp_path):
  _, rows = compared(
      tmp_path, by(lambda a, b: "[[A>B]]" if a.startswith("good") else "?"),
      ("good", "good too"), baseline="bad")
  assert all(row["valid"] == [False, False] for row in rows)


def test_files_that_are_missing_are_named_with_their_publisher(tmp_path):
  one = Benchmark(name="gsm8k", title="G", source="gsm8k", publisher="http://p")
  with pytest.raises(ValueError, match="needs --benchmarks_dir=DIR with the"
                     " folder gsm8k. The publisher .*http://p"):
    benchmarking.questions(one)
  with pytest.raises(ValueError, match="gsm8k is neither in .*http://p"):
    benchmarking.questions(one, tmp_path)


def test_a_wording_of_ones_own(tmp_path, monkeypatch):
  monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
  one = Benchmark(name="mine", title="M", source="prompts", publisher="p",
                  split="test")
  (tmp_path / "prompts").mkdir()
  (tmp_path / "prompts/test.jsonl").write_text(json.dumps({
      "question": "2 + 2?", "domain": "math", "source": "s", "reference": "4",
      "verifier": "math"}) + "\n")
  (tmp_path / "mine.txt").write_text("{question} Box it.")
  (prompt,) = benchmarking.questions(one, tmp_path, tmp_path)
  assert prompt.question == "2 + 2? Box it."
  (prompt,) = benchmarking.questions(one, tmp_path)
  assert prompt.question == "2 + 2?"


def test_sizes():
  one = Benchmark(name="x", title="X", source="s", samples=64)
  got = benchmarking.sized(one, EvalConfig(), 65536, {})
  assert (got.samples, got.max_new_tokens) == (64, 32768)
  got = benchmarking.sized(one, EvalConfig(), 4096, {})
  assert got.max_new_tokens == 2048
  got = benchmarking.sized(
      one, EvalConfig(samples=2, max_new_tokens=9, max_rows=3), 4096,
      {"samples", "max_new_tokens"})
  assert (got.samples, got.max_new_tokens, got.max_rows) == (2, 9, 3)


def test_an_endpoint_answers(tmp_path):
  """One question is refused: no verdict, not a wrong answer."""
  with chat_server.serving() as start:
    def say(number, body):
      if body["messages"][-1]["content"] == "3 + 1?":
        return 400
      return f"<think>x</think> \\boxed{{{added(body)}}}"

    server = start(say)
    who = respondents.behind(server.config(), "key")
    rows, _ = benchmarking.sampled(
        SUMS, sums(), CFG, who, REWARDS, tmp_path)
    assert server.keys == {"Bearer key"}
    assert server.seen[0]["temperature"] == 0.6
    assert server.seen[0]["top_p"] == 0.95
    assert server.seen[0]["max_tokens"] == 8
  assert [row["valid"] for row in rows] == [
      [True] * 2, [True] * 2, [True] * 2, [False] * 2, [True] * 2]
  assert statistic.accuracy(rows)[0].value == pytest.approx(4 / 5)
  told = benchmarking.table([benchmarking.told(SUMS, rows, CFG, 0)])
  assert told.splitlines()[2].split()[-2:] == ["-", "2"]  # tokens, no verdict
  with pytest.raises(ValueError, match="--served.model=NAME"):
    respondents.behind(dataclasses.replace(server.config(), model=""), "")


def added(body):
  return int(chat_server.question(body).partition(" ")[0]) + 1


def test_grades_may_come_from_a_function(tmp_path):
  file = tmp_path / "mine.py"
  file.write_text("def right(prompt, answer):\n"
                  "  return None if prompt.id == 1 else answer == 'Ada'\n")
  one = Benchmark(name="facts", title="F", source="frames", scorer=GRADES,
                  numbers=statistic.judged, publisher="p")
  rows, prompts = sampled(
      tmp_path / "out", Answers("Ada", "nobody"), one, facts(2))
  rows = benchmarking.judged(
      one, rows, prompts, Referee(f"{file}:right", None, {"name": "f"}),
      tmp_path / "out")
  assert [row["parts"]["accuracy"] for row in rows] == [[1, 0], [0, 0]]
  assert statistic.judged(rows)[0].value == 0.5
