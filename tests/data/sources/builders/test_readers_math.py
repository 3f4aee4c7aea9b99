import json

import pytest

from r1jax.data.sources.builders import readers_math as readers
from tests.data.sources.builders import cases


def golds(prompts):
  return [p.reference for p in prompts]


@pytest.mark.parametrize("end, gold", [
    ("#### 18", "18"), ("#### 1,234,567", "1234567"), ("#### -5", "-5"),
    ("####3.50", "3.50"), ("#### $7", "7"), ("#### .5 ", ".5"),
])
def test_gsm8k_golds(end, gold, tmp_path):
  path = cases.lines(
      tmp_path / "a.jsonl", {"question": "q", "answer": f"a\n{end}"})
  assert golds(cases.read(readers.gsm8k, path)[0]) == [gold]


def test_gsm8k_rows(tmp_path):
  good = {"question": "Why?", "answer": "So.\n#### 4"}
  path = cases.lines(
      tmp_path / "train.jsonl", *[good] * 33, cases.without(good, "answer"),
      {**good, "question": 3}, {**good, "answer": "4"},
      {**good, "answer": "#### four"}, "{")
  train, bad = cases.read(readers.gsm8k, path, "train")
  held, again = cases.read(readers.gsm8k, path, "validation")
  assert [p.id for p in train] == [*range(31), 32]
  assert [p.id for p in held] == [31] and bad == again == [
      "train.jsonl:34: no text under 'answer'",
      "train.jsonl:35: no text under 'question'",
      "train.jsonl:36: the answer does not end in '#### NUMBER'",
      "train.jsonl:37: the answer does not end in '#### NUMBER'",
      "train.jsonl:38: not JSON (column 2: Expecting property name enclosed in"
      " double quotes)",
  ]
  assert train[0].metadata == {"solution": good["answer"]}
  assert (train[0].verifier, train[0].question) == ("math", "Why?")


MATH = {"problem": "Find $x$.", "level": "Level 5", "type": "Algebra",
        "solution": r"First \boxed{1}, so $x=\boxed{\frac{1}{2}}$."}


def test_math_in_each_layout(tmp_path):
  path = cases.lines(
      tmp_path / "test.jsonl", MATH, {"problem": "p", "answer": "3"},
      {**MATH, "solution": "no box"}, {**MATH, "solution": r"\boxed{\frac{1}"},
      {**MATH, "solution": r"\boxed{ }"}, cases.without(MATH, "problem"),
      cases.without(MATH, "solution"), {"problem": "p", "answer": 3})
  prompts, bad = cases.read(readers.math, path)
  assert golds(prompts) == [r"\frac{1}{2}", "3"]
  assert prompts[0].metadata["level"] == "Level 5"
  assert [line.partition(": ")[2] for line in bad] == [
      r"the solution has no \boxed answer",
      r"the braces of the last \boxed do not close",
      r"the last \boxed of the solution is empty",
      "no text under 'problem'", "no text under 'solution'",
      "no text under 'answer'"]
  files = [cases.lines(tmp_path / f"test/algebra/{i}.json", MATH)
           for i in range(3)]
  prompts, bad = cases.read(readers.math, files)
  assert [p.id for p in prompts] == [0, 1, 2] and not bad


@pytest.mark.parametrize("text, gold", [
    (r"\boxed{a\}b}", r"a\}b"), (r"\fbox{7}", "7"), (r"$\boxed 5$", "5"),
    (r"\boxed{\text{(A)}} or", r"\text{(A)}")])
def test_last_box(text, gold):
  assert readers.last_box(text) == gold


@pytest.mark.parametrize("name, header", [
    ("aime.csv", ["ID", "Year", "Problem", "Answer"]),
    ("aime.jsonl", ["id", "year", "question", "answer"])])
def test_aime(name, header, tmp_path):
  values = [["i", "2020", "Find it.", "042"], ["i", "2020", "", "42"],
            ["i", "2020", "Find it.", 1000], ["i", "2020", "Find it.", "x"]]
  if name.endswith("csv"):
    path = cases.table(tmp_path / name, header, *values)
  else:
    path = cases.lines(tmp_path / name, *[dict(zip(header, v)) for v in values])
  (prompt,), bad = cases.read(readers.aime, path)
  assert (prompt.reference, prompt.metadata) == (
      "42", {"id": "i", "year": "2020"})
  key = "problem" if name.endswith("csv") else "question"
  first = 3 if name.endswith("csv") else 2
  assert bad == [
      f"{name}:{first}: no text under '{key}'",
      f"{name}:{first + 1}: 'answer' is 1000, not a number in 0..999",
      f"{name}:{first + 2}: 'answer' is 'x', not a number in 0..999"]


def test_imo_answerbench(tmp_path):
  header = ["Problem ID", "Problem", "Short Answer", "Category",
            "Subcategory", "Source"]
  path = cases.table(
      tmp_path / "a.csv", header, ["i", "p", "$(1,2)$ ", "Algebra", "", "s"],
      ["i", "p", "", "Algebra", "", "s"], ["i", "p"])
  (prompt,), bad = cases.read(readers.imo_answerbench, path)
  assert prompt.reference == "$(1,2)$"
  assert bad == ["a.csv:3: no text under 'Short Answer'",
                 "a.csv:4: 2 columns where 6 are expected"]


def test_cmath(tmp_path):
  good = {"grade": 1, "input": "几页?", "golden": "1,009", "num_digits": 2}
  path = cases.lines(
      tmp_path / "a.jsonl", good, {**good, "golden": "2/6"},
      {**good, "golden": "九"}, {**good, "golden": 9}, {**good, "grade": "x"},
      json.dumps(good)[:-9])
  prompts, bad = cases.read(readers.cmath, path)
  assert golds(prompts) == ["1009", "2/6"]
  assert prompts[0].language == "zh"
  assert prompts[0].metadata["extract"] == "last"
  assert bad[:3] == ["a.jsonl:3: 'golden' is '九', not a number",
                     "a.jsonl:4: no text under 'golden'",
                     "a.jsonl:5: 'grade' is 'x', not a number in 0..1000"]
  assert len(bad) == 4 and bad[3].startswith("a.jsonl:6: not JSON")


def test_mgsm(tmp_path):
  files = [
      cases.table(tmp_path / "mgsm_de.tsv", ['"Wie" viele?', "2,125"],
                  delimiter="\t"),
      cases.table(tmp_path / "mgsm_th.tsv", "กี่?\t3", "กี่?", "กี่?,3", "กี่?\tx",
                  "\t3")]
  files[0].write_text('"Wie viele?\t2,125\n')
  prompts, bad = cases.read(readers.mgsm, files)
  assert [(p.id, p.language, p.reference) for p in prompts] == [
      (0, "de", "2125"), (1, "th", "3")]
  assert prompts[0].question == '"Wie viele?'
  assert bad == ["mgsm_th.tsv:2: 1 columns where 2 are expected",
                 "mgsm_th.tsv:3: 1 columns where 2 are expected",
                 "mgsm_th.tsv:4: 'answer' is 'x', not a number",
                 "mgsm_th.tsv:5: no text under 'question'"]


def test_cnmo(tmp_path):
  path = cases.lines(
      tmp_path / "CNMO_cn.jsonl",
      {"question": "求 $x$", "answer": "$\\frac12$"},
      {"problem": "Find x", "answer": 3}, {"question": "?", "answer": ""})
  prompts, bad = cases.read(readers.cnmo, path)
  assert [(p.language, p.reference) for p in prompts] == [
      ("zh", "\\frac12"), ("en", "3")]
  assert len(bad) == 1
