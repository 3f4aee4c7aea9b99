import json

from r1jax.data.sources.builders import readers_general as general
from r1jax.data.sources.builders import readers_logic as readers
from tests.data.sources.builders import cases

CHOICE = "\n\nAnswer with the letter of the right option."


def bbh(tmp_path, task, *examples):
  path = cases.lines(tmp_path / f"{task}.json", json.dumps(
      {"canary": "tweet", "examples": examples}))
  return cases.read(readers.bbh, path)


def test_bbh(tmp_path):
  asked = "Which?\nOptions:\n(A) this one\n(B) that"
  (prompt,), bad = bbh(
      tmp_path, "snarks", {"input": asked, "target": "(B)"},
      {"input": asked, "target": "(C)"}, {"input": asked, "target": "that"},
      {"input": asked}, 3)
  assert prompt.verifier == "choice" and prompt.reference == {
      "answer": "B", "options": {"A": "this one", "B": "that"}}
  assert prompt.question == "Which?\n\nA) this one\nB) that" + CHOICE
  assert prompt.metadata == {"task": "snarks", "canary": "tweet"}
  assert bad == ["snarks.json:2: the target '(C)' is none of the options",
                 "snarks.json:3: the target 'that' is none of the options",
                 "snarks.json:4: no text under 'target'",
                 "snarks.json:5: not an object but int"]
  (prompt,), _ = bbh(
      tmp_path, "navigate", {"input": "Back?\nOptions:\n- Yes\n- No",
                             "target": "No"})
  assert (prompt.verifier, prompt.reference) == ("exact", "No")
  assert prompt.question.endswith("- No\n\nAnswer yes or no.")


def test_bbh_with_more_options_than_the_rule_for_choices_knows(tmp_path):
  letters = "ABCDEFGHIJKL"
  asked = "n?\nOptions:\n" + "\n".join(f"({x}) {x * 2}" for x in letters)
  (prompt,), _ = bbh(tmp_path, "many", {"input": asked, "target": "(L)"})
  assert (prompt.verifier, prompt.reference) == ("exact", "L")


def test_logicbench(tmp_path):
  pair = {"question": "So?", "answer": "Yes"}
  sample = {"id": 1, "context": "It is.", "qa_pairs": [
      pair, {"question": "Not?", "answer": "no"}]}
  path = cases.lines(
      tmp_path / "BQA/l/r/data_instances.json", json.dumps({"samples": [
          sample, {**sample, "qa_pairs": [pair, {**pair, "answer": "maybe"}]},
          cases.without(sample, "qa_pairs"), {**sample, "context": ""}]}))
  prompts, bad = cases.read(readers.logicbench, path)
  assert [(p.id, p.reference) for p in prompts] == [
      (0, "yes"), (1, "no"), (2, "yes")]
  assert prompts[1].question == "It is.\n\nNot?\n\nAnswer yes or no."
  assert prompts[1].metadata == {"kind": "BQA", "logic": "l", "rule": "r"}
  name = "data_instances.json"
  assert bad == [
      f"{name}:2: the answer is 'maybe', neither yes nor no",
      f"{name}:3: no text under 'question'",
      f"{name}:4: no text under 'context'",
      f"{name}:4: no text under 'context'"]


def test_logicbench_choices(tmp_path):
  good = {"context": "It is.", "question": "What?", "answer": "choice_3",
          "choices": {"choice_1": "w", "choice_2": "", "choice_3": "y"}}
  path = cases.lines(
      tmp_path / "MCQA/l/r/data_instances.json", json.dumps({"samples": [
          good, {**good, "answer": "choice_4"}, {**good, "answer": "choice_2"},
          {**good, "choices": ["w"]}]}))
  (prompt,), bad = cases.read(readers.logicbench, path)
  assert prompt.reference == {"answer": "B", "options": {"A": "w", "B": "y"}}
  assert [line.partition(": ")[2] for line in bad] == [
      "the answer 'choice_4' is none of the choices",
      "no text under 'choice_2'", "'choices' is not an object of two or more"]


def test_game24(tmp_path):
  path = cases.table(
      tmp_path / "24.csv", ["Rank", "Puzzles"], ["1", "1 1 4 6"],
      ["2", "1 1 4"], ["3", "1 1 4 x"], ["x", "1 1 4 6"], ["4", "1,1,4,6"])
  (prompt,), bad = cases.read(readers.game24, path)
  assert prompt.reference == {"numbers": [1, 1, 4, 6], "target": 24}
  assert "1, 1, 4, 6" in prompt.question
  assert bad == ["24.csv:3: 'Puzzles' is '1 1 4', not 4 numbers",
                 "24.csv:4: 'Puzzles' is '1 1 4 x', not 4 numbers",
                 "24.csv:5: 'Rank' is 'x', not a number in 1..1000000",
                 "24.csv:6: 'Puzzles' is '1,1,4,6', not 4 numbers"]


def test_cruxeval(tmp_path):
  good = {"code": "def f(x):\n  return [x]", "input": "'a'",
          "output": "['a']", "id": "s0"}
  path = cases.lines(
      tmp_path / "a.jsonl", good, {**good, "code": "def g(x): pass"},
      {**good, "output": "f(1)"}, {**good, "output": "("},
      {**good, "input": None})
  (prompt,), bad = cases.read(readers.cruxeval, path)
  (back,), again = cases.read(readers.cruxeval_input, path)
  assert (prompt.verifier, prompt.reference) == ("literal", {"value": "['a']"})
  assert "`f('a')`" in prompt.question and "['a']" not in prompt.question
  assert back.verifier == "program_input" and back.reference == {
      "program": good["code"], "function": "f", "output": "['a']"}
  assert "f('a')" not in back.question and "['a']" in back.question
  assert bad == again == [
      "a.jsonl:2: 'code' defines no function f",
      "a.jsonl:3: 'output' is no Python literal",
      "a.jsonl:4: 'output' is no Python literal",
      "a.jsonl:5: no text under 'input'"]


def test_ifeval(tmp_path):
  good = {"key": 1, "prompt": "Write.", "instruction_id_list": ["a:b", "c:d"],
          "kwargs": [{}, {"n": 3, "m": None}]}
  path = cases.lines(
      tmp_path / "a.jsonl", good, {**good, "kwargs": [{}]},
      {**good, "kwargs": [{}, 3]}, {**good, "instruction_id_list": []},
      {**good, "key": "x"}, {**good, "prompt": ""})
  (prompt,), bad = cases.read(general.ifeval, path)
  assert prompt.reference == {"ids": ["a:b", "c:d"], "kwargs": [{}, {"n": 3}]}
  assert bad == [
      "a.jsonl:2: 'kwargs' is not a list of 2 objects",
      "a.jsonl:3: 'kwargs' is not a list of 2 objects",
      "a.jsonl:4: no list of 1 or more texts under 'instruction_id_list'",
      "a.jsonl:5: 'key' is 'x', not a number in 0..1000000000",
      "a.jsonl:6: no text under 'prompt'"]


def test_pandalm(tmp_path):
  good = {"instruction": "Improve.", "input": "Bad.", "response1": "Good.",
          "response2": "", "annotator1": 1, "annotator2": 0, "annotator3": 2}
  path = cases.lines(tmp_path / "a.json", json.dumps([
      good, {**good, "instruction": " ", "response1": True},
      {**good, "annotator3": 3}, {**good, "response2": None},
      {**good, "instruction": "", "input": ""}, cases.without(good, "input")]))
  prompts, bad = cases.read(general.pandalm, path)
  assert [p.question for p in prompts] == ["Improve.\n\nBad.", "Bad."]
  assert [p.metadata["responses"] for p in prompts] == [
      ["Good.", ""], ["True", ""]]
  assert prompts[0].metadata["votes"] == [1, 0, 2]
  assert (prompts[0].verifier, prompts[0].reference) == ("", None)
  assert bad == ["a.json:3: 'annotator3' is 3, not a number in 0..2",
                 "a.json:4: no text under 'response2'",
                 "a.json:5: no text under 'instruction' and 'input'",
                 "a.json:6: no text under 'instruction' and 'input'"]


def test_own_prompts(tmp_path):
  mine = {"source": "mine", "question": "1+1?", "reference": "2",
          "verifier": "math"}
  path = cases.lines(
      tmp_path / "a.jsonl", {**mine, "domain": "math"},
      {**mine, "domain": "stem", "id": 70}, {**mine, "domain": "math", "id": 0},
      {**mine, "domain": "art"})
  prompts, bad = cases.read(general.prompts, path)
  assert [(p.id, p.domain) for p in prompts] == [(0, "math"), (70, "stem")]
  assert bad == [
      f"a.jsonl:3: id=0 is taken by {path}:1",
      "a.jsonl:4: domain='art' is not one of math, code, stem, logic, general"]
  only, _ = cases.read(
      lambda files, split: general.prompts(files, split, "stem"), path)
  assert [p.id for p in only] == [70]


def test_cluewsc(tmp_path):
  good = {"target": {"span1_text": "床", "span2_text": "它", "span1_index": 5},
          "label": "false", "text": "他坐在床上。它很软。", "idx": 1}
  path = cases.lines(
      tmp_path / "dev.json", good, {**good, "label": "true"},
      {**good, "label": "no"}, {**good, "target": {"span1_text": "床"}})
  prompts, bad = cases.read(readers.cluewsc, path)
  assert [p.reference["answer"] for p in prompts] == ["B", "A"]
  assert "上文中的“它”指的是“床”吗？\n\nA) 是" in prompts[0].question
  assert prompts[0].language == "zh" and len(bad) == 2
