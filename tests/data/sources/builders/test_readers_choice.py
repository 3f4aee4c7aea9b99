import json

import pytest
from etils import epath

from r1jax.data.sources.builders import readers_choice as readers
from tests.data.sources.builders import cases

OPTIONS = {"A": "w", "B": "x", "C": "y", "D": "z"}


def test_mmlu(tmp_path):
  path = cases.table(
      tmp_path / "physics_test.csv", ["Why?", "w", "x", "y", "z", "C"],
      ["Why?", "w", "x", "y", "z", "E"], ["Why?", "w", "x", "y", "C"],
      ["", "w", "x", "y", "z", "C"], ["Why?", "w", "", "y", "z", "C"])
  (prompt,), bad = cases.read(readers.mmlu, path)
  assert prompt.reference == {"answer": "C", "options": OPTIONS}
  assert (prompt.verifier, prompt.metadata) == (
      "choice", {"subject": "physics"})
  assert prompt.question == (
      "Why?\n\nA) w\nB) x\nC) y\nD) z\n\n"
      "Answer with the letter of the right option.")
  assert [line.partition(": ")[2] for line in bad] == [
      "the answer is 'E', not one of A, B, C, D",
      "5 columns where 6 are expected", "no text under 'question'",
      "option B is empty"]


def test_mmlu_stem(tmp_path):
  good = {"question": "Why?", "type": "physics", "choices": list("wxyz"),
          "answer": 3}
  path = cases.lines(
      tmp_path / "a.jsonl", good, {**good, "answer": 4},
      {**good, "answer": "D"},
      {**good, "choices": "wxyz"}, {**good, "choices": ["w"] * 11},
      cases.without(good, "type"))
  (prompt,), bad = cases.read(readers.mmlu_stem, path)
  assert prompt.reference == {"answer": "D", "options": OPTIONS}
  assert bad == [
      "a.jsonl:2: 'answer' is 4, not a number in 0..3",
      "a.jsonl:3: 'answer' is 'D', not a number in 0..3",
      "a.jsonl:4: no list of 2 or more texts under 'choices'",
      "a.jsonl:5: 11 options, more than 10",
      "a.jsonl:6: no text under 'type'"]


def test_mmlu_redux(tmp_path):
  comma = cases.table(
      tmp_path / "mmlu_virology.csv",
      ["question", "choices", "answer", "error_type", "source"],
      ["Why; so?", str(list("wxyz")), "1", "OK", ""],
      ["Why?", str(list("wxyz")), "1", "wrong_groundtruth", ""],
      ["Why?", "[w, x]", "1", "ok", ""], ["Why?", "open(1)", "1", "ok", ""],
      ["Why?", "'ab'", "1", "ok", ""], ["Why?", "['w', 'x']", "2", "ok", ""],
      ["Why?", "['w', 'x']", "1", "", ""])
  other = cases.table(
      tmp_path / "mmlu_law.csv", ["error_type", "question", "choices",
      "answer"], ["ok", "Why, why?", "['w', 'x']", "0"], delimiter=";")
  prompts, bad = cases.read(readers.mmlu_redux, [comma, other])
  assert [(p.id, p.reference["answer"], p.metadata["subject"])
          for p in prompts] == [(0, "B", "virology")]
  # The second file is read once the first is sound.
  (prompt,), _ = cases.read(readers.mmlu_redux, other)
  assert prompt.question.startswith("Why, why?")
  assert [line.partition(": ")[2] for line in bad] == [
      "'choices' is no Python literal", "'choices' is no Python literal",
      "no list of 2 or more texts under 'choices'",
      "'answer' is 2, not a number in 0..1",
      "no text under 'error_type'"]


def test_gpqa(tmp_path):
  header = ["Question", "Correct Answer", "Incorrect Answer 1",
            "Incorrect Answer 2", "Incorrect Answer 3", "High-level domain"]
  path = cases.table(
      tmp_path / "gpqa_main.csv", header,
      *[[f"Why {i}?", "right", "x", "y", "z", "Physics"] for i in range(40)],
      ["Why?", "right", "x", "right ", "z", ""],
      ["Why?", "", "x", "y", "z", ""])
  prompts, bad = cases.read(readers.gpqa, path)
  for prompt in prompts:
    options = prompt.reference["options"]
    assert options[prompt.reference["answer"]] == "right"
    assert sorted(options.values()) == ["right", "x", "y", "z"]
  # Every place is used, and the order is the same the next time.
  assert {p.reference["answer"] for p in prompts} == set("ABCD")
  assert cases.read(readers.gpqa, path)[0] == prompts
  assert [line.partition(": ")[2] for line in bad] == [
      "the right answer is among the wrong ones",
      "no text under 'Correct Answer'"]


def test_mmlu_pro(tmp_path):
  good = {"question": "Why?", "options": [*"wxyz", "N/A", "v"], "answer": "F",
          "category": "law"}
  path = cases.lines(
      tmp_path / "test.jsonl", good, {**good, "answer": "G"},
      {**good, "answer": "E"}, {**good, "options": "wx"})
  (prompt,), bad = cases.read(readers.mmlu_pro, path)
  assert prompt.reference == {
      "answer": "E", "options": {**OPTIONS, "E": "v"}}
  assert [line.partition(": ")[2] for line in bad] == [
      "the answer is 'G', none of 6 options", "the answer's option is 'N/A'",
      "no list of 2 or more texts under 'options'"]


def test_parquet_is_read_as_json_lines_are(tmp_path):
  pyarrow = pytest.importorskip("pyarrow")
  from pyarrow import parquet

  row = {"question": "Why?", "options": [*"wxyz"], "answer": "B",
         "category": "law"}
  path = tmp_path / "test-00000-of-00001.parquet"
  parquet.write_table(pyarrow.Table.from_pylist([row] * 3), path)
  prompts, bad = cases.read(readers.mmlu_pro, epath.Path(path))
  assert [p.id for p in prompts] == [0, 1, 2] and not bad
  assert prompts[2].reference == {"answer": "B", "options": OPTIONS}
  path.write_bytes(path.read_bytes()[:-9])
  with pytest.raises(ValueError, match="parquet cannot be read"):
    list(readers.mmlu_pro([epath.Path(path)], "test"))


def test_ceval(tmp_path):
  path = cases.table(
      tmp_path / "val/law_val.csv",
      ["id", "question", "A", "B", "C", "D", "answer"],
      ["0", "为何?", "w", "x", "y", "z", "C"], ["1", "为何?", *"wxyz", ""])
  (prompt,), bad = cases.read(readers.ceval, path)
  assert (prompt.language, prompt.metadata) == ("zh", {"subject": "law"})
  assert prompt.question.endswith("D) z\n\n请用正确选项的字母作答。")
  assert len(bad) == 1


def test_safetybench(tmp_path):
  row = {"id": 7, "options": ["是。", "否。"], "category": "c", "question": "?"}
  path = cases.lines(
      tmp_path / "test_zh_subset.json", json.dumps([row, {**row, "id": 8}]))
  cases.lines(tmp_path / "test_answers_zh_subset.json", json.dumps(
      {"7": {"category": "c", "answer": 1}}))
  (prompt,), bad = cases.read(readers.safetybench, path)
  assert prompt.reference["answer"] == "B" and "question 8" in bad[0]
