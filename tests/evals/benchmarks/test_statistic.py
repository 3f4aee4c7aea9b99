"""Figures of benchmarks from their rows."""

import numpy as np
import pytest
from scipy import stats

from r1jax.core.prompt import Prompt, ask
from r1jax.evals import estimators
from r1jax.evals.benchmarks import (
  benchmark,
  drop,
  ifeval,
  simpleqa,
  statistic,
  suites,
)
from r1jax.evals.benchmarks.benchmark import Benchmark
from r1jax.rewards import judge


def row(values, *, valid=None, level=None, answers=None, measures=None,
        reasons=None):
  return {"parts": {"accuracy": values}, "level": level,
          "valid": valid or [True] * len(values),
          "answers": answers or [None] * len(values),
          "measures": measures or [{}] * len(values),
          "reasons": [{"accuracy": r} for r in reasons or values]}


def test_pass1_clusters_by_problem_and_splits_by_level():
  rows = [row([1, 1, 0, 0], level="hard", answers=["1", "1", "2", "3"]),
          row([0, 0, 0, 0], level="easy", answers=["1", "2", "2", None]),
          row([1, 1, 1, 0], level="medium", answers=["1"] * 4,
              valid=[True, True, False, True])]
  pass1, cons, *levels = statistic.accuracy(rows)
  want = estimators.pass_at_1(
      np.array([[1, 1, 0, 0], [0] * 4, [1, 1, 0, 0]]))
  assert (pass1.value, pass1.low, pass1.high) == pytest.approx(
      (want.mean, want.low, want.high))
  assert cons.name == "cons@4" and cons.value == pytest.approx(1.5 / 3)
  assert [n.name.strip() for n in levels] == ["easy", "medium", "hard"]
  assert [n.value for n in levels] == [0, 0.5, 0.5]


def test_levels_are_in_their_order():
  rows = [row([1], level=level) for level in ("Level 10", "Level 2", "Level 1")]
  names = [n.name.strip() for n in statistic.accuracy(rows)[1:]]
  assert names == ["Level 1", "Level 2", "Level 10"]


def test_what_a_judge_did_not_say_is_counted_not_wrong():
  rows = [row([1, 0], valid=[True, False]), row([0, 1]),
          row([0, 0], valid=[False, False])]
  right, missing = statistic.judged(rows)
  assert right.value == pytest.approx((1 + 0.5) / 2) and right.count == 2
  assert right.note == "1 problems without any verdict"
  assert missing.value == pytest.approx((0.5 + 0 + 1) / 3)


def test_simpleqa():
  rows = [row([1], reasons=["correct"]), row([0], reasons=["incorrect"]),
          row([0], reasons=[judge.ATTEMPTED]), row([1], reasons=["correct"])]
  right, silent, given, f, missing = simpleqa.numbers(rows)
  assert (right.value, silent.value, missing.value) == (0.5, 0.25, 0)
  assert given.value == pytest.approx(2 / 3)
  assert f.value == pytest.approx(2 * (2 / 3) * 0.5 / (2 / 3 + 0.5))


def test_ifeval_by_prompt_and_by_instruction():
  def said(followed, loose, count):
    return {"accuracy/followed": followed, "accuracy/loose": loose,
            "accuracy/instructions": count}

  rows = [row([1], measures=[said(1, 1, 1)]),
          row([0], measures=[said(1 / 3, 1, 3)]),
          row([0], measures=[{"accuracy/followed": 0.0}])]
  strict, by, loose, loosely = ifeval.numbers(rows)
  assert (strict.value, loose.value) == pytest.approx((1 / 3, 2 / 3))
  assert by.value == pytest.approx((1 + 1 + 0) / 5)
  assert loosely.value == pytest.approx((1 + 3 + 0) / 5)
  assert by.low < by.value < by.high


def test_a_weighted_mean_by_linearisation():
  rng = np.random.default_rng(0)
  v, w = rng.random(50), rng.integers(1, 4, 50)
  got = statistic.weighted("x", v, w)
  mean = (v * w).sum() / w.sum()
  error = 0.0
  for vi, wi in zip(v, w):
    error += (wi * (vi - mean) / w.mean())**2
  error = (error / 49 / 50)**0.5
  assert got.value == pytest.approx(mean)
  assert got.high - mean == pytest.approx(stats.t.ppf(0.975, 49) * error)


def test_drop():
  rows = [row([0.5], measures=[{"accuracy/exact": 0.0}]),
          row([1.0], measures=[{"accuracy/exact": 1.0}])]
  f1, exact = drop.numbers(rows)
  assert (f1.value, exact.value) == (0.75, 0.5)


def prompt(i, **more):
  return Prompt(**dict(
      id=i, domain="math", source="s", messages=ask(f"What is {i}?"),
      reference=str(i), verifier="math") | more)


def test_questions_with_wording_shots_and_levels():
  one = Benchmark(
      name="x", title="X", source="s", wording="Box it: {question}", shots=2,
      level="kind", shown=lambda p: f"It is {p.reference}.",
      selected=lambda p: p.id != 3)
  prompts = [prompt(i, metadata={"kind": f"k{i}", "level": 9})
             for i in range(5)]
  examples = [prompt(100 + i) for i in range(6)]
  asked = benchmark.asked(one, prompts, examples)
  assert [p.id for p in asked] == [0, 1, 2, 4]
  assert [p.metadata["level"] for p in asked] == ["k0", "k1", "k2", "k4"]
  assert [p.metadata[benchmark.BARE] for p in asked] == [
      p.question for i, p in enumerate(prompts) if i != 3]
  *shots, question = asked[0].question.split("\n\nBox it: ")
  assert question == "What is 0?" and shots[0].count("It is 10") == 2
  assert asked == benchmark.asked(one, prompts[::-1], examples)[::-1]
  assert len({p.question.partition("Box")[0] for p in asked}) > 1
  own = benchmark.asked(one, prompts, examples, "{question} Now.")
  assert own[0].question.endswith("What is 0? Now.")
  with pytest.raises(ValueError, match="x needs 2 examples; there are 1"):
    benchmark.asked(one, prompts, examples[:1])
  with pytest.raises(ValueError, match="none of the 1 problems"):
    benchmark.asked(one, [prompt(3)], examples)


def test_suites():
  assert [b.name for b in suites.named("arith, quick,arith")][:2] == [
      "arith", "world-sums"]
  papers = suites.named("paper")
  assert len(papers) == 18 and all(b.publisher for b in papers)
  with pytest.raises(ValueError, match="'mmul' is neither a suite"):
    suites.named("mmul")
  with pytest.raises(ValueError, match="names nothing"):
    suites.named(",")
