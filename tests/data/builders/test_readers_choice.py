from r1jax.data.builders import readers_choice as readers
from tests.data.builders import cases

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
