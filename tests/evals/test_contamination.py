from __future__ import annotations

import json

import pytest

from r1jax.core.prompt import Prompt, ask
from r1jax.evals import contamination
from r1jax.report import rollouts
from r1jax.stages import seen
from tests.stages import folders

WORDS = ("a farmer has twelve hens and every hen lays three brown eggs before"
         " noon on every second day of may").split()


def problem(number, question):
  return Prompt(id=number, domain="math", source="sums", verifier="math",
                messages=ask(question), reference="1")


PROBLEMS = [
    problem(1, " ".join(WORDS)), problem(2, "What is 3 + 4?"),
    problem(3, "Nothing of this is anywhere else in what a model has read."),
    problem(4, "Once more: " + " ".join(WORDS[:12]) + "?")]


def test_every_hit_is_listed():
  texts = [
      ("a:1", problem(0, f"They say that {' '.join(WORDS[2:14])}, do they?")),
      ("a:2", problem(0, "what is  3 + 4")),
      ("a:3", problem(0, f"Or that {' '.join(WORDS[5:14])}?")),  # nine words
      ("b:1", problem(0, " ".join(WORDS)))]
  found = contamination.marks(PROBLEMS, iter(texts))
  assert [row["id"] for row in found] == [1, 2, 4]
  assert found[0] == {
      "id": 1, "source": "sums", "question": " ".join(WORDS), "count": 2,
      "hits": [{"where": "a:1", "shared": " ".join(WORDS[2:12])},
               {"where": "b:1", "shared": " ".join(WORDS)}]}
  assert found[1]["hits"] == [{"where": "a:2", "shared": "what is 3 + 4"}]
  # A text that two problems share is a hit of both.
  assert [hit["where"] for hit in found[2]["hits"]] == ["a:1", "b:1"]
  assert not contamination.marks(PROBLEMS, [])


def test_many_hits_are_counted_and_some_shown(monkeypatch):
  monkeypatch.setattr(contamination, "_CHUNK", 7)
  many = [(f"a:{i}", problem(0, f"{i} of {' '.join(WORDS)}"))
          for i in range(30)]
  first, *_ = contamination.marks(PROBLEMS[:1], iter(many))
  assert first["count"] == 30
  assert [hit["where"] for hit in first["hits"]] == [
      f"a:{i}" for i in range(contamination.SHOWN)]


def test_accuracy_with_and_without(tmp_path):
  rows = folders.evaluation(tmp_path, folders.prompts(6, 0, 0), reason=0.5)
  found = contamination.summary(rows, [1, 2, 99])

  def mean(ids):
    values = [row["parts"]["accuracy"] for row in rows if row["id"] in ids]
    return sum(values) / len(values)

  assert (found["problems"], found["marked"]) == (6, 2)
  assert found["pass_1_marked"]["mean"] == pytest.approx(mean({1, 2}))
  assert found["pass_1_clean"]["mean"] == pytest.approx(mean({3, 4, 5, 6}))
  assert found["pass_1_clean"]["count"] == 4
  assert contamination.summary(rows, [])["pass_1_marked"] is None


def test_files_that_a_model_was_trained_on(tmp_path):
  folders.evaluation(tmp_path, PROBLEMS[:2])
  file = tmp_path / "sft.jsonl"
  rows = [{"prompt": "What is 3 + 4?", "completion": "7"},
          {"messages": [{"role": "user", "content": "Hello"},
                        {"role": "assistant", "content": " ".join(WORDS)}]},
          {"text": "A page on " + " ".join(WORDS)}]
  file.write_text("".join(json.dumps(row) + "\n\n" for row in rows))
  found = seen.mark(PROBLEMS[:2], f"{file},arith@test", tmp_path)
  assert (found["problems"], found["marked"]) == (2, 2)
  told = json.loads((tmp_path / seen.FILE).read_text())["marked"]
  assert [hit["where"] for hit in told[0]["hits"]] == [f"{file}:3", f"{file}:5"]
  assert told[1]["hits"][0]["where"] == f"{file}:1"
  assert rollouts.read_file(tmp_path / "generations.jsonl.gz")
  file.write_text('{"prompt": 3}\n')
  with pytest.raises(ValueError, match="sft.jsonl:1: its prompt and compl"):
    list(seen.texts(str(file)))
  with pytest.raises(ValueError, match="none.jsonl does not exist"):
    list(seen.texts("none.jsonl"))
