"""Samples with verdicts, stored batch by batch, and SFT data made of them."""

import dataclasses
import gzip
import json

import jax
import pytest

from r1jax.data.sources.filters import FilterConfig
from r1jax.data.sources.selection import Report, SelectConfig
from r1jax.rewards.score import Score
from r1jax.stages import dialogues, evaluating, traces
from r1jax.stages.evaluating import EvalConfig
from r1jax.stages.loop.signals import Preemption
from tests.stages import cases

CFG = EvalConfig(samples=4, max_rows=6, temperature=1.0, top_p=1.0,
                 max_new_tokens=12)
# A random model has neither thoughts nor a form.
SELECT = SelectConfig(form=False, keep=2, filters=FilterConfig(
    thinking=False, language_share=0))


@pytest.fixture(scope="module", autouse=True)
def two_questions_a_file():
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(evaluating, "_BATCH", 8)
    yield


@pytest.fixture(scope="module")
def engine():
  return evaluating.sampler(CFG, cases.policy().model, cases.tokenizer())


def collect(engine, workdir, count=5, **more):
  return traces.collect(CFG, engine, cases.judge(), cases.policy(),
                        cases.prompts()[:count], workdir, **more)


def contents(workdir):
  return {p.name: p.read_bytes() for p in (workdir / "samples").iterdir()}


@pytest.fixture(scope="module")
def whole(engine, tmp_path_factory):
  workdir = tmp_path_factory.mktemp("whole")
  assert collect(engine, workdir)
  return workdir


def test_a_process_without_questions_judges_along(
    engine, whole, tmp_path, monkeypatch):
  """What judges may do so for all processes together."""
  judged = []

  def scored(self, rollout, prompts, *rest):
    judged.append([p.id for p in prompts])
    return real(self, rollout, prompts, *rest)

  real = type(cases.judge())._scored
  monkeypatch.setattr(type(cases.judge()), "_scored", scored)
  # The second of two processes, which has none of the last batch's one.
  cases.as_second_of_two(monkeypatch)
  assert collect(engine, tmp_path)
  ids = [p.id for p in cases.prompts()[:5]]
  assert judged == [[ids[1]], [ids[3]], [ids[4]]]
  monkeypatch.undo()
  rows = [json.loads(line) for name in sorted(contents(tmp_path))
          for line in gzip.decompress(contents(tmp_path)[name]).splitlines()]
  assert [row["id"] for row in rows] == [ids[1], ids[3]]


def test_every_question_has_its_samples(whole):
  found = list(traces.read(CFG, cases.prompts()[:5], whole))
  assert [p.id for p, _ in found] == [p.id for p in cases.prompts()[:5]]
  assert all(len(samples) == 4 for _, samples in found)
  assert len({s.text for _, samples in found for s in samples}) > 15
  for prompt, samples in found:
    own = len(cases.judge().tokens(prompt))
    assert all(own < s.tokens <= own + 12 for s in samples)
    assert {s.accuracy for s in samples} <= {0.0, 1.0}
    assert not any(s.truncated and s.tokens < own + 12 for s in samples)


def test_a_signal_stops_between_batches_and_the_rest_is_bit_equal(
    engine, whole, tmp_path, monkeypatch, capsys):
  def requested(self):
    return any((tmp_path / "samples").glob("batch*"))

  with monkeypatch.context() as patch:
    patch.setattr(Preemption, "requested", requested)
    assert not collect(engine, tmp_path)
  assert len(contents(tmp_path)) == 1
  (tmp_path / "samples/.batch_000001.jsonl.gz.1.part").write_bytes(b"half")
  assert collect(engine, tmp_path)
  assert "has 2 of 5 questions already" in capsys.readouterr().err
  (tmp_path / "samples/.batch_000001.jsonl.gz.1.part").unlink()
  assert contents(tmp_path) == contents(whole)

  def refuse(*_):
    raise AssertionError("sampled again")

  with monkeypatch.context() as patch:
    patch.setattr(type(engine), "groups", refuse)
    assert collect(engine, tmp_path)


def test_a_damaged_file_is_named(engine, whole, tmp_path):
  (tmp_path / "samples").mkdir()
  for name, data in contents(whole).items():
    (tmp_path / "samples" / name).write_bytes(data)
  path = tmp_path / "samples/batch_000001.jsonl.gz"
  path.write_bytes(path.read_bytes()[:-9])
  with pytest.raises(ValueError, match="batch_000001.jsonl.gz is missing or"):
    list(traces.read(CFG, cases.prompts()[:5], tmp_path))
  with pytest.raises(ValueError, match="the data has changed"):
    list(traces.read(CFG, cases.prompts()[1:6], whole))


def test_the_parameters_are_part_of_the_settings(tmp_path):
  policy, tokenizer = cases.policy(), cases.tokenizer()
  traces.prepare(tmp_path, {"a": 1}, policy, tokenizer)
  traces.prepare(tmp_path, {"a": 1}, policy, tokenizer)
  params = jax.tree.map(lambda x: x, policy.params)
  params["embed"] = params["embed"].at[0, 0].set(9.0)
  with pytest.raises(ValueError, match="the model in --init has changed"):
    traces.prepare(
        tmp_path, {"a": 1}, policy._replace(params=params), tokenizer)
  with pytest.raises(ValueError, match="a: 1 -> 2"):
    traces.prepare(tmp_path, {"a": 2}, policy, tokenizer)


class NoRule:
  """Judges format alone, as the pool does where a prompt has no verifier."""

  def __init__(self):
    self.pool = cases.Pool()

  def submit(self, items):
    future = self.pool.submit(items)
    for scores in future.result():
      del scores["accuracy"]
    return future


def test_where_no_rule_judges_a_judge_may(engine, tmp_path):
  judge = cases.judge(NoRule())
  prompts = [dataclasses.replace(p, verifier="") for p in cases.prompts()[:2]]
  asked = []

  def judged(questions, answers):
    asked.extend(zip(questions, answers, strict=True))
    return [Score(float(i % 3 == 0), i % 3 < 2, "said")
            for i in range(len(answers))]

  def sampled(workdir, judged):
    assert traces.collect(CFG, engine, judge, cases.policy(), prompts, workdir,
                          judged=judged)
    return [s for _, samples in traces.read(CFG, prompts, workdir)
            for s in samples]

  alone = sampled(tmp_path / "alone", None)
  assert all(s.accuracy is None and s.valid for s in alone)
  found = sampled(tmp_path / "judged", judged)
  assert [s.accuracy for s in found] == [1, 0, 0, 1, 0, 0, 1, 0]
  assert [s.valid for s in found] == [i % 3 < 2 for i in range(8)]
  assert [p.id for p, _ in asked] == [p.id for p in prompts for _ in range(4)]
  assert [answer for _, answer in asked] == [s.text for s in found]


def write(whole, workdir, select=SELECT, **more):
  report = Report()
  kept = traces.selected(CFG, select, cases.prompts()[:5], whole, report)
  text = dialogues.write(workdir, (
      dialogues.row(p, s.text, s.tokens, sample=n) for p, n, s in kept),
      report, settings={}, tokenizer=cases.tokenizer(), **more)
  return text, report


def test_rows_are_written_with_those_that_join(whole, tmp_path):
  other = tmp_path / "other.jsonl"
  lines = [json.dumps({"prompt": "Hello", "completion": f"Hi {i}"})
           for i in range(150)]
  lines += ['{"messages": [1]}', "", json.dumps({
      "domain": "code", "messages": [
          {"role": role, "content": "so"} for role in (
              "user", "assistant", "user", "assistant")]})]
  other.write_text("\n".join(lines) + "\n")
  text, report = write(whole, tmp_path, others=[str(other)])
  rows = [json.loads(x) for x in (tmp_path / "sft.jsonl").read_text(
      ).splitlines()]
  found = list(traces.read(CFG, cases.prompts()[:5], whole))
  right = {p.id: [s.text for s in samples if s.right] for p, samples in found}
  own = [row for row in rows if "id" in row]
  assert len(own) == sum(min(2, len(x)) for x in right.values()) > 0
  for row in own:
    assert row["messages"][-1]["content"] in right[row["id"]]
    assert row["messages"][-1]["role"] == "assistant"
  assert [json.dumps(row) for row in rows[len(own):-1]] == lines[:150]
  assert report.groups["general"].rows == 150
  assert report.groups["code"] == ("code", 1, 2, 4 * len(
      cases.tokenizer().encode("so")))
  assert report.groups["math"].rows == len(own)
  assert "1 malformed rows were left out" in text
  assert "other.jsonl:151" in text
  stored = json.loads((tmp_path / "report.json").read_text())
  assert stored["text"] == text
  assert sum(stored["answers"]["math"].values()) == 20


def test_nothing_left_is_an_error_with_the_counts(whole, tmp_path):
  (tmp_path / "sft.jsonl").write_text("before")
  with pytest.raises(ValueError, match=r"no answer is left.*\n.*wrong +\d"
                     .replace(".*\\n.*", "(.|\\n)*")):
    write(whole, tmp_path, SelectConfig())
  assert (tmp_path / "sft.jsonl").read_text() == "before"
  assert [p.name for p in tmp_path.iterdir()] == ["sft.jsonl"]
  with pytest.raises(ValueError, match="/nowhere cannot be read"):
    write(whole, tmp_path, others=["/nowhere"])
  bad = tmp_path / "bad.jsonl"
  bad.write_text('{"prompt": "a", "completion": "b"}\n[]\n')
  with pytest.raises(ValueError, match="1 of 2 rows are malformed"):
    write(whole, tmp_path, others=[str(bad)])
