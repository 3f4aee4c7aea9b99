"""Evaluation of a policy, and the report of a run."""

import collections
import gzip
import json
import re

import pytest

from r1jax.evals.runner import EvalResult
from r1jax.report import rollouts, tables, writer
from r1jax.rollout.engine import Engine
from r1jax.rollout.sampling import SamplingConfig
from r1jax.stages import evaluating
from r1jax.stages.evaluating import EvalConfig
from r1jax.stages.reports import reporting
from tests.stages import cases
from tests.stages.conftest import EVAL


@pytest.fixture(scope="module")
def evaluation(tmp_path_factory):
  """Five problems through six rows, stored in batches of two."""
  path = tmp_path_factory.mktemp("evaluation") / "generations.jsonl.gz"
  judge, policy = cases.judge(), cases.policy()
  engine = Engine(policy.model, SamplingConfig(max_new_tokens=12),
                  judge.tokenizer.eos_ids)
  result = evaluating.evaluate(
      EVAL, engine, judge, policy.params, policy.router_bias_LE,
      cases.prompts()[:5], path=path, progress=False)
  rows = [json.loads(x) for x in gzip.decompress(path.read_bytes()).split(b"\n")
          if x]
  return result, rows


def test_every_problem_is_scored_once_and_stored(evaluation):
  result, rows = evaluation
  times = collections.Counter((row["id"], row["sample"]) for row in rows)
  assert times == {(p.id, g): 1 for p in cases.prompts()[:5] for g in range(4)}
  assert (result.n_prompts, result.n_samples) == (5, 4)
  correct = [row["parts"]["accuracy"] for row in rows]
  assert result.pass1 == pytest.approx(sum(correct) / 20)
  assert 0 <= result.pass1_low < result.pass1 < result.pass1_high < 1
  assert result.mean_length == pytest.approx(
      sum(row["length"] for row in rows) / 20)


def test_samples_differ_by_problem_and_by_sample(evaluation):
  _, rows = evaluation
  assert len({row["completion"] for row in rows}) > 15


def test_numbers_have_names(evaluation):
  result, _ = evaluation
  found = evaluating.metrics(result)
  assert found["eval/pass1"] == result.pass1
  assert found["eval/k"] == 4 and "eval/format" in found
  assert {name for name in found if "level" in name} == {
      f"eval/level_{p.metadata['level']}" for p in cases.prompts()[:5]}


def test_bad_sizes():
  with pytest.raises(ValueError, match="samples=0 must be positive"):
    EvalConfig(samples=0)
  with pytest.raises(ValueError, match="max_rows=-1 must not be negative"):
    EvalConfig(max_rows=-1)


def test_the_report_of_a_run(smoke):
  result = EvalResult(
      pass1=0.5, pass1_error=0.1, pass1_low=0.3, pass1_high=0.7,
      pass_k={1: 0.5}, maj_k=0.6, format=0.9, mean_length=7.0, truncated=0.0,
      invalid=0, n_prompts=3, n_samples=4, by_level={}, by_domain={})
  path = reporting.write(
      smoke.workdir, {"R1-Zero <b>": {"greedy": result}})
  page = path.read_text()
  figures = sorted(p.name for p in (smoke.workdir / "figures").iterdir())
  assert figures == ["by_level.png", "decodings.png", "entropy_kl.png",
                     "learning_curves.png", "rewards.png"]
  assert all((smoke.workdir / "figures" / name).stat().st_size > 5000
             for name in figures)
  assert page.count("data:image/png;base64,") == 5
  assert not re.search(r'(src|href)="(?!data:)', page)  # self-contained
  assert "R1-Zero &lt;b&gt;" in page and "R1-Zero <b>" not in page
  for row in writer.read(smoke.workdir)[:1]:
    assert row["eval/k"] == 4
  # Each of the three held-out problems, before, amid and after the training.
  assert all(p.question in page for p in cases.prompts()[:3])
  assert [page.count(f"<h3>{step}</h3>") for step in (
      "Base", "Step 2", "Step 4")] == [3, 3, 3]


def test_a_report_of_no_run(tmp_path):
  with pytest.raises(ValueError, match="mistyped has no metrics"):
    reporting.write(tmp_path / "mistyped")
  assert not (tmp_path / "mistyped").exists()


def test_a_report_without_evaluations(smoke, tmp_path):
  for name in ("config.json", "metrics.jsonl"):
    (tmp_path / name).write_bytes((smoke.workdir / name).read_bytes())
  rows = [row for row in writer.read(smoke.workdir) if row["step"]]
  lines = [json.dumps({k: v for k, v in row.items() if "eval/" not in k})
           for row in rows]
  (tmp_path / "metrics.jsonl").write_text("".join(x + "\n" for x in lines))
  page = reporting.write(tmp_path).read_text()
  assert page.count("data:image/png;base64,") == 2


def test_a_result_is_computed_once(tmp_path):
  judge, policy = cases.judge(), cases.policy()
  engine = evaluating.sampler(EVAL, policy.model, judge.tokenizer)
  assert engine.cfg == SamplingConfig(
      max_new_tokens=12, temperature=1.0, top_p=1.0,
      vocab=judge.tokenizer.vocab_size)
  common = EVAL, engine, judge
  first = evaluating.once(
      *common, policy, cases.prompts()[:2], tmp_path, "base")
  assert (tmp_path / "base.jsonl.gz").exists()
  again = evaluating.once(*common, None, [], tmp_path, "base")
  assert again == first and first.n_prompts == 2


def test_evaluations_during_a_run_are_stored_by_step(tmp_path):
  judge, policy = cases.judge(), cases.policy()
  engine = evaluating.sampler(EVAL, policy.model, judge.tokenizer)
  found = evaluating.during(EVAL, engine, judge, cases.prompts()[:2], tmp_path)(
      policy.params, policy.router_bias_LE, 6)
  rows = rollouts.read(tmp_path, 6, rollouts.EVALUATIONS)
  assert len(rows) == 8
  assert found["eval/pass1"] == sum(
      row["parts"]["accuracy"] for row in rows) / 8


def test_the_evaluations_of_a_run_as_a_table(smoke):
  found = reporting.by_step(smoke.workdir)
  assert list(found) == ["step 0", "step 2", "step 4"]
  row = writer.read(smoke.workdir)[-1]
  assert found["step 4"]["pass1"] == row["eval/pass1"]
  assert found["step 4"]["interval"] == (
      row["eval/pass1_low"], row["eval/pass1_high"])
  assert f"{row['eval/length_mean']:.1f}" in tables.comparison(found)


def test_what_changed_from_the_first_evaluation_to_the_last(smoke, tmp_path):
  header, rows = reporting.change_cells(smoke.workdir, most=2)
  assert header == ["step 0 -> 4", "length", "accuracy", "format", "reflective"]
  *questions, mean = rows
  assert len(questions) == 2 and mean[0] == "mean of 3 questions"

  def gap(row):
    before, after = map(float, row[1].split(" -> "))
    return abs(after - before)

  assert gap(questions[0]) >= gap(questions[1])
  for end, step in ((0, 0), (1, 4)):
    stored = rollouts.read(smoke.workdir, step, rollouts.EVALUATIONS)
    assert mean[1].split(" -> ")[end] == (
        f"{sum(row['length'] for row in stored) / len(stored):.1f}")
  with pytest.raises(ValueError, match=r"evaluations of steps \[\]"):
    reporting.change_cells(tmp_path)


def test_words_of_the_training_samples_are_drawn(smoke):
  path = reporting.words_figure(smoke.workdir, ["the"])
  assert path.name == "words.png" and path.stat().length > 5000
  path.unlink()  # the report's figures are counted elsewhere
