from __future__ import annotations

import ast
import csv
import json
import re
import time

import pytest

from r1jax.core.prompt import Prompt, ask
from r1jax.rewards import response
from r1jax.rewards.answers import choice
from tests.shared import folder

PHRASES = (
    "\\boxed{%s}", "\\boxed{\\text{(%s)}}", "Answer: %s", "**%s**", "故选：%s",
    "The correct answer is (%s).", "<answer> %s </answer>", "答案是%s。",
    "Some of it is wrong. Option %s is correct.", "Well then.\n(%s)")


def score(gold, completion, options=None):
  options = options or {"A": "nucleus", "B": "mitochondrion", "C": "ribosome"}
  prompt = Prompt(
      id=1, domain="stem", source="test", messages=ask("?"), verifier="choice",
      reference={"answer": gold, "options": options})
  return choice.verify(prompt, response.split("<think>", completion))


@pytest.mark.parametrize("completion,reason,answer", [
    ("x</think>\\boxed{B}", "correct", "B"),
    ("x</think>\\boxed{C}", "wrong", "C"),
    ("x</think>\\boxed{A or B}", "two answers", None),
    ("x</think>The answer is A or B.", "two answers", None),
    ("x</think>A\nB\nC", "two answers", None),
    ("x</think>B. nucleus", "two answers", None),
    ("x</think>The answer is B if it has no cells, otherwise A.",
     "two answers", None),
    ("x</think>I choose B.", "correct", "B"),
    ("x</think>Answer - B", "correct", "B"),
    ("x</think>I would not choose B.", "no answer", None),
    ("x</think>\\boxed{D}", "no such option", "D"),
    ("x</think>\\boxed{\\boxed{B}}", "nested boxes", None),
    ("x</think>A cell is a unit.", "no answer", None),
    ("\\boxed{B}</think>So.", "no answer", None),
    ("\\boxed{B}", "no answer", None),
    ("", "no answer", None),
])
def test_reasons(completion, reason, answer):
  got = score("B", completion)
  assert (got.reason, got.answer, got.valid) == (reason, answer, True)
  assert got.value == float(reason == "correct")


@pytest.mark.parametrize("text,reason", [
    ("\\boxed{B} <answer>C</answer>", "wrong"),
    ("<answer>C, so \\boxed{B}</answer>", "correct"),
    ("The answer is C. \\boxed{B}", "correct"),
    ("The answer is C. <answer>B</answer>", "correct"),
    ("The answer is B.\nC", "correct"),
])
def test_a_box_counts_before_a_mark_before_a_statement(text, reason):
  assert score("B", f"x</think>{text}").reason == reason


def test_texts_of_options_must_be_unique():
  options = {"A": "two", "B": "2 m/s", "C": "Two", "D": ""}
  assert score("B", "x</think>\\boxed{2 m/s}", options).reason == "correct"
  assert score("A", "x</think>\\boxed{two}", options).reason == "no answer"
  assert score("D", "x</think>\\boxed{}", options).value == 0.0


def check_letters(rows):
  """The right letter is rewarded in every phrasing, no other letter is."""
  for number, (gold, options) in enumerate(rows):
    for at in range(2):
      phrase = PHRASES[(number + at * 3) % len(PHRASES)]
      for letter in options:
        got = score(gold, f"x</think>{phrase % letter}", options)
        assert got.value == float(letter == gold), (phrase % letter, got)
        assert got.answer == letter
    text = options[gold]
    if text and sum(o.casefold() == text.casefold()
                    for o in options.values()) == 1:
      full = score(gold, f"x</think>The answer is {gold}. {text}", options)
      assert full.value == 1.0, (gold, text, full)


def test_mmlu_stem():
  lines = (folder("mmlu_stem") / "test.jsonl").read_text().splitlines()
  rows = [json.loads(line) for line in lines]
  assert len(rows) == 3018
  check_letters(("ABCD"[row["answer"]], dict(zip("ABCD", row["choices"])))
                for row in rows)


def redux_rows():
  for path in sorted(folder("mmlu_redux").glob("*.csv")):
    text = path.read_bytes().decode(
        "cp1252" if "moral_scenarios" in path.name else "utf-8")
    head = text.partition("\n")[0]
    mark = ";" if head.count(";") > head.count(",") else ","
    for row in csv.DictReader(text.splitlines(True), delimiter=mark):
      try:
        choices = [str(c) for c in ast.literal_eval(row["choices"])]
        yield "ABCD"[int(row["answer"])], dict(zip("ABCD", choices))
      except (ValueError, SyntaxError, KeyError, TypeError):
        continue


def test_mmlu_redux():
  rows = list(redux_rows())
  assert len(rows) > 5500
  check_letters(rows)


def test_bbh_letters():
  rows = []
  for path in sorted(folder("bbh").glob("*.json")):
    for example in json.loads(path.read_text())["examples"]:
      if match := re.fullmatch(r"\(([A-J])\)", example["target"]):
        found = re.findall(r"^\(([A-J])\) (.*)$", example["input"], re.M)
        if match.group(1) in dict(found):
          rows.append((match.group(1), dict(found)))
  assert len(rows) > 3000
  check_letters(rows)


def test_fast():
  text = ("The reasoning is long, and so on. " * 6 + "The answer is (B).")
  parts = [response.split("", t) for t in (text, f"{text} \\boxed{{B}}")]
  prompt = Prompt(
      id=1, domain="stem", source="test", messages=ask("?"), verifier="choice",
      reference={"answer": "B", "options": {"A": "x", "B": "y"}})
  start = time.thread_time()
  for _ in range(1000):
    for part in parts:
      assert choice.verify(prompt, part).value == 1.0
  # Several times slower than one idle core.
  assert 2000 / (time.thread_time() - start) > 2000


def test_long_and_hostile_texts_take_linear_time():
  pieces = ("A ", "(A)", "A\n", "A or ", "The answer is ", "answer is A, ",
            "\\boxed{", "\\boxed{A}", "选", "选A", "B is ", "*", "A.", " ",
            "(", "A, ", "C is correct. ", "\n", "(A) x\n", "option ")
  start = time.thread_time()
  for piece in pieces:
    for wrapper in ("%s", "<answer>%s</answer>", "\\boxed{%s}"):
      long = piece * (200_000 // len(piece))
      assert score("B", "x</think>" + wrapper % long).value == 0.0
  assert time.thread_time() - start < 20


@pytest.mark.parametrize("text,right", [
    ("The correct statement is B.", True), ("正确选项是B", True),
    ("正确的选项是 B。", True), ("So \\boxed{x^2+1}.\n\n**Answer: B**", True),
    ("\\boxed{F=ma}\nThe answer is (B).", True),
    ("B\nBecause the mitochondrion makes ATP.", True),
    ("\\boxed{B}\nAnswer: B", True), ("\\boxed{B}\nAnswer: C", False),
    ("The answer is B as well as C.", False), ("B as well as C", False),
    ("B unless C", False), ("\\boxed{B as well as C}", False),
    ("The answer is B along with C", False), ("B except when C", False),
    ("The answer is B, not C.", True), ("Correct statement: B", True),
    ("The correct answer is not B.", False),
])
def test_one_option_is_settled_on(text, right):
  assert (verified(text).value == 1.0) == right


def verified(text):
  prompt = Prompt(
      id=1, domain="stem", source="test", messages=ask("?"),
      reference={"answer": "B", "options": {
          "A": "nucleus", "B": "mitochondrion", "C": "ribosome",
          "D": "a cell wall"}}, verifier="choice")
  return choice.verify(prompt, response.split("", f"x</think>{text}"))
