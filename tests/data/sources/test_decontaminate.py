import pytest

from r1jax.core.prompt import Prompt, ask
from r1jax.data.sources import decontaminate as decontaminate_lib
from r1jax.data.sources.decontaminate import Evaluations, Limits, decontaminate
from r1jax.data.text import ngrams

WORDS = ("a farmer has twelve hens and every hen lays three brown eggs before"
         " noon on every second day of may").split()
ZH = ("小明和小红一起去商店买苹果，小明买了三个苹果，"
      "小红买了五个苹果，一共多少个？")


def prompt(number, question, reference="", verifier="math", **metadata):
  return Prompt(id=number, domain="math", source="t", messages=ask(question),
                reference=reference, verifier=verifier, metadata=metadata)


def matches(training, *evaluation, limits=None):
  """The first match of a training prompt with the evaluation, or None."""
  index = Evaluations({"eval": list(evaluation)}, limits or Limits())
  found, = index.matches([training])
  return found[0] if found else None


def inside(words):
  return f"Unlike the others here: {' '.join(words)}, they said at last again."


def test_ten_shared_words_are_found_and_nine_are_not():
  evaluation = prompt(7, " ".join(WORDS))
  found = matches(prompt(0, inside(WORDS[3:13])), evaluation)
  assert found.id == 7 and found.evaluation == "eval"
  assert found.shared == " ".join(WORDS[3:13])
  assert matches(prompt(0, inside(WORDS[3:12])), evaluation) is None
  assert matches(
      prompt(0, inside(WORDS[3:12])), evaluation, limits=Limits(words=9))


def test_case_punctuation_and_accents_do_not_hide_it():
  evaluation = prompt(0, " ".join(WORDS))
  text = inside([f"**{w.upper()}**," for w in WORDS]).replace("HÉN", "HEN")
  assert matches(prompt(0, text), evaluation)
  changed = [w if i % 9 else f"{w}s" for i, w in enumerate(WORDS)]
  assert matches(prompt(0, inside(changed)), evaluation) is None


@pytest.mark.parametrize("where", [
    dict(reference=" ".join(WORDS)), dict(reference={"test": " ".join(WORDS)}),
    dict(reference={"options": {"A": "no", "B": " ".join(WORDS)}}),
    dict(solution=" ".join(WORDS)), dict(steps=["x", [" ".join(WORDS)]])])
def test_references_and_solutions_count_on_both_sides(where):
  bare = prompt(1, "Something else entirely?")
  holding = prompt(2, "And here is another question!", **where)
  asked = prompt(3, inside(WORDS))
  assert matches(holding, asked) and matches(asked, holding)
  assert matches(bare, asked) is None and matches(bare, holding) is None


def test_inputs_and_outputs_of_tests_are_data():
  data = {"kind": "stdin", "inputs": [" ".join(WORDS)], "outputs": ["1"]}
  assert matches(prompt(0, "Add.", data), prompt(0, inside(WORDS))) is None
  told = {"kind": "asserts", "test": f"# {' '.join(WORDS)}"}
  assert matches(prompt(0, "Add.", told), prompt(0, inside(WORDS)))


def test_chinese():
  evaluation = prompt(5, ZH)
  for start in (0, 4, 11):
    found = matches(
        prompt(0, f"题目如下：{ZH[start:start + 20]}请回答问题。"), evaluation)
    assert found.id == 5 and len(found.shared.split()) == 16
  assert matches(prompt(0, f"题目如下：{ZH[4:16]}请回答问题。"),
                 evaluation) is None


def test_short_questions_must_be_equal():
  evaluation = prompt(3, "What is 3 + 4?")
  assert matches(prompt(0, "what  is 3 + 4"), evaluation).id == 3
  for other in ("What is 3 - 4?", "What is 3 + 45?", "So what is 3 + 4?"):
    assert matches(prompt(0, other), evaluation) is None
  # Short references are equal by chance.
  assert matches(prompt(0, "Two times two?", "4", level="easy"),
                 prompt(0, "Eight halves?", "4", level="easy")) is None


@pytest.mark.parametrize("text", [
    "1 2 3 4 5 6 7 8 9 10 11 12 13 14 15",
    "for i in range(n): for j in range(n): for k in range(n): a[i][j]"])
def test_numbers_and_bare_loops_are_from_nowhere(text):
  assert matches(prompt(0, f"This: {text}"), prompt(0, f"Or: {text}")) is None


ORDER = ("Write a Python function that solves the task below, and put it into"
         " one fenced block.")


def test_instructions_of_an_evaluation_are_not_its_questions():
  def asked(count):
    return [prompt(i, f"{ORDER} Task {i} is unlike any.") for i in range(count)]

  training = prompt(0, f"{ORDER} Reverse a list.")
  assert matches(training, *asked(6)) is None
  # Five or fewer may be five questions on one text.
  assert matches(training, *asked(5))
  assert matches(training, *asked(6), limits=Limits(least=6))
  # Six of 700 are fewer than 1 %.
  rest = [prompt(100 + i, f"What is {i}?") for i in range(700)]
  assert matches(training, *asked(6), *rest)
  # One question six times is one question.
  assert matches(training, *[prompt(i, f"{ORDER} Sort it.") for i in range(6)])
  # A question is found whatever its instructions.
  assert matches(prompt(0, f"{ORDER} Task 3 is unlike any."), *asked(6)).id == 3


def test_the_end_of_a_question_and_an_instruction_are_not_a_question():
  evaluation = [prompt(i, f"Is {w} a prime? {ORDER}")
                for i, w in enumerate("abcdefghij")]
  training = prompt(0, f"Make c a prime? {ORDER}")
  shared = "a prime write a python function that solves the task"
  assert shared in " ".join(ngrams.tokens(training.question))
  assert matches(training, *evaluation) is None
  # With words of its own it is.
  rare = [*evaluation, prompt(11, f"Paint seven tall barns red. {ORDER}")]
  assert matches(prompt(0, f"They paint seven tall barns red. {ORDER}"),
                 *rare).id == 11


def test_report_by_source_and_evaluation():
  sets = {"first": [prompt(10, " ".join(WORDS))],
          "second": [prompt(20, "Other?"), prompt(21, inside(WORDS))],
          "third": [prompt(30, "Nothing.")]}
  parts = {"x": [prompt(i, inside(WORDS) if i % 2 else f"Clean {i}?")
                 for i in range(20)],
           "y": [prompt(0, "Also clean?")], "z": []}
  seen = []
  clean, dropped = decontaminate(parts, Evaluations(sets), seen.append)
  assert [p.id for p in clean["x"]] == list(range(0, 20, 2))
  assert clean["y"] == parts["y"] and clean["z"] == [] and sum(seen) == 21
  report = decontaminate_lib.summary(dropped)
  assert report["y"] == report["z"] == {"prompts": 0, "by_evaluation": {}}
  assert report["x"]["prompts"] == 10
  by_set = report["x"]["by_evaluation"]
  assert {k: v["dropped"] for k, v in by_set.items()} == {
      "first": 10, "second": 10}
  assert len(by_set["first"]["examples"]) == 5
  assert by_set["first"]["examples"][0] == {
      "id": 1, "evaluation_id": 10, "shared": " ".join(WORDS[:10])}


def test_no_evaluations_drop_nothing():
  parts = {"x": [prompt(0, inside(WORDS))]}
  for sets in ({}, {"empty": []}):
    assert decontaminate(parts, Evaluations(sets))[0] == parts


@pytest.mark.parametrize("bad", [
    dict(words=1), dict(boilerplate=0.0), dict(boilerplate=1.5), dict(least=0)])
def test_limits(bad):
  with pytest.raises(ValueError, match=f"{[*bad][0]}={[*bad.values()][0]}"):
    Limits(**bad)
