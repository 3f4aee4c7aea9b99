import json

import pytest

from r1jax.data.sources.builders import readers_open as readers
from tests.data.sources.builders import cases


def test_alpaca_eval(tmp_path):
  rows = [{"instruction": "Do it.", "output": "Done.", "generator": "g",
           "dataset": "d"}, {"instruction": "Say it.", "output": "It."},
          {"instruction": "No output."}]
  path = cases.lines(
      tmp_path / "alpaca_eval_gpt4_baseline.json", json.dumps(rows))
  prompts, bad = cases.read(readers.alpaca_eval, path)
  assert [p.metadata for p in prompts] == [
      {"baseline": "Done.", "generator": "g", "dataset": "d"},
      {"baseline": "It."}]
  assert len(bad) == 1 and prompts[0].reference is None
  (tmp_path / readers.DIFFICULTY).write_text(
      "index,instruction_difficulty\n0,-1.5\n1,2\n")
  prompts, _ = cases.read(readers.alpaca_eval, path)
  assert [p.metadata["difficulty"] for p in prompts] == [-1.5, 2.0]


def test_arena_hard_and_its_baseline(tmp_path):
  path = cases.lines(
      tmp_path / "question.jsonl",
      {"uid": "u1", "prompt": "Do it.", "category": "c", "cluster": "k"},
      {"question_id": "u2", "turns": [{"content": "Say it."}]},
      {"uid": "u3"})
  prompts, bad = cases.read(readers.arena_hard, path)
  assert [(p.question, p.metadata) for p in prompts] == [
      ("Do it.", {"uid": "u1", "category": "c", "cluster": "k"}),
      ("Say it.", {"uid": "u2"})]
  assert len(bad) == 1
  first = {"question_id": "u1", "choices": [{"turns": [{"content": "A"}]}]}
  second = {"uid": "u2", "messages": [
      {"role": "user", "content": "Say it."},
      {"role": "assistant", "content": {"answer": "B"}}]}
  cases.lines(tmp_path / "model_answer/gpt.jsonl", first, second)
  prompts, _ = cases.read(readers.arena_hard, path)
  assert [p.metadata["baseline"] for p in prompts] == ["A", "B"]
  cases.lines(tmp_path / "model_answer/gpt.jsonl", first)
  assert "no answer to u2" in cases.read(readers.arena_hard, path)[1][0]
  cases.lines(tmp_path / "model_answer/gpt.jsonl", {"uid": "u1"})
  with pytest.raises(ValueError, match="gpt.jsonl:1: no answer of Arena-Hard"):
    list(readers.arena_hard([path], "test"))
  cases.lines(tmp_path / "model_answer/other.jsonl", first)
  with pytest.raises(ValueError, match="answers of gpt, other"):
    list(readers.arena_hard([path], "test"))


def test_mt_bench(tmp_path):
  row = {"question_id": 81, "category": "writing", "turns": ["One.", "Two."]}
  path = cases.lines(tmp_path / "question.jsonl", row, {**row, "turns": []})
  (prompt,), bad = cases.read(readers.mt_bench, path)
  assert prompt.question == "One." and prompt.metadata == {
      "uid": "81", "category": "writing", "turns": 2}
  assert len(bad) == 1
