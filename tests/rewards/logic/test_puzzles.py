"""Puzzles: every supported task pays for its answer and for nothing else."""

import functools
import json
import random
import time

import pytest

from r1jax.core.prompt import Prompt, ask
from r1jax.rewards import response
from r1jax.rewards.logic import puzzles

reasoning_gym = pytest.importorskip("reasoning_gym")

LONG = 200_000  # characters of a hostile answer
# Words that no puzzle has as its answer.
JUNK = ("", " ", "I do not know", "junk", "None", "nan", "inf", "[]", "{}",
        "()", "-", "True or False", "9" * 400, "1e999", "the answer",
        "[" * 5000, '{"a": ' * 2000, "__import__('os').getcwd()")


@functools.cache
def entries(task, count=3, seed=5):
  """Entries of a task as a data file holds them; kept, as some are slow."""
  data = reasoning_gym.create_dataset(task, size=count, seed=seed)
  return [json.loads(json.dumps(data[i], default=str)) for i in range(count)]


def judge(task, entry, answer):
  prompt = Prompt(id=0, domain="logic", source="test", messages=ask("?"),
                  reference={"task": task, "entry": entry}, verifier="puzzle")
  return puzzles.verify(prompt, response.split("<think>", f"</think>{answer}"))


def solution(task, entry):
  if task == "graph_color":
    return json.dumps(entry["metadata"]["possible_answer"])
  return entry["answer"]


@pytest.mark.parametrize("task", sorted(puzzles.TASKS))
def test_task(task):
  for entry in entries(task):
    right = solution(task, entry)
    if not right:
      continue
    head = "\n" if "\n" in right else ""
    bold = right if head else f"**{right}**"
    # Braces in strings that do not balance cannot stand in a box.
    odd = right.count("{") != right.count("}")
    boxed = right if odd else f"\\boxed{{{right}}}"
    for answer in (right, f"The answer is: {head}{right}", bold,
                   f"So:\n```\n{right}\n```", boxed,
                   f"Thus.\n<answer>{right}</answer>"):
      score = judge(task, entry, answer)
      assert (score.value, score.reason) == (1, "correct"), (answer, score)
    for wrong in (*JUNK, f"{right} or 7919", f"{right} and 7919",
                  f"\\boxed{{{right}}} or \\boxed{{7919}}"):
      score = judge(task, entry, wrong)
      assert score.value == 0 and score.valid, (wrong, score)
    if not entry["question"].strip().endswith(right):
      assert judge(task, entry, entry["question"]).value == 0


# Where the answer to another entry may solve this one as well.
@pytest.mark.parametrize("task", sorted(puzzles.TASKS - {
    "graph_color", "jugs", "n_queens", "shortest_path"}))
def test_the_answer_to_another_entry_does_not_pay(task):
  first, *others = entries(task)
  for other in others:
    right, wrong = solution(task, first), solution(task, other)
    if right.split() == wrong.split():
      continue
    assert judge(task, first, wrong).value == 0, (right, wrong)


def test_the_tasks_are_all_of_the_library():
  from reasoning_gym.factory import DATASETS

  assert len(DATASETS) == 106
  assert puzzles.TASKS | puzzles.LEFT_OUT.keys() == DATASETS.keys()
  assert not puzzles.TASKS & puzzles.LEFT_OUT.keys()


HOLES = [
    # (task, entry, an answer that the library's own scorer pays in full)
    ("game_of_life_halting", {"answer": "True"}, "I do not know"),
    ("coin_flip", {"answer": "0.109375"}, "0"),
    ("complex_arithmetic",
     {"answer": "1.0 + 2.0i", "metadata": {"result": [1.0, 2.0]}}, "nan"),
    ("puzzle24", {"answer": "4*8 - 6 - 2",
                  "metadata": {"numbers": [4, 8, 6, 2]}}, "8*3*1*1"),
    ("number_sorting", {"answer": "['1.0', '5.0']",
                        "metadata": {"direction": "ascending"}}, "[0.5, 5.5]"),
    ("word_sorting", {"answer": "a, b", "metadata": {
        "sorted_words": ["a", "b"]}}, "a, b, c"),
    ("letter_jumble", {"answer": "two words"}, "two words more"),
    ("figlet_font", {"answer": "ABCDEFGHIJKL"}, "abcdefghijxy"),
    ("polynomial_equations", {"answer": ""}, "junk"),
]


@pytest.mark.parametrize("task,entry,answer", HOLES)
def test_holes_of_the_library_are_closed(task, entry, answer):
  scorer = reasoning_gym.get_score_answer_fn(task)
  assert scorer(answer, {"metadata": {}, **entry}) >= 1
  assert judge(task, entry, answer).value == 0


NUMBERS = [
    # (task, right answer, near enough, not near enough)
    ("decimal_arithmetic", "4.86090396050", ["4.8609040", "4.86090396"],
     ["4.861", "4.8609041"]),
    ("power_function", "1.7574418e-22", ["1.76e-22", "1.757e-22"],
     ["1.75e-22", "1.76e-21", "-1.76e-22"]),
    ("number_format", "592641326.305", ["592,641,326.305", "592641326.3"],
     ["592641317.986", "592,641,326"]),
    ("pool_matrix", "3.0 5.22\n4.67 2.0", ["3 5.22\n4.67 2"],
     ["3.0 5.22 4.67 2.0", "3.0 5.23\n4.67 2.0", "3.0 5.22\n4.67"]),
    ("polynomial_equations", "-0.7757, 0.0",
     ["0, -0.7757", "-0.7756, 0"], ["-0.7757", "-0.78, 0.0", "0.7757, 0.0"]),
    ("coin_flip", "0.234375", ["15/64", "0.2344"], ["14/64", "0.23"]),
    ("advanced_geometry", "(7.765, 7.882)", ["(7.765, 7.882)", "7.76, 7.88"],
     ["(7.882, 7.765)", "(7.7, 7.8)"]),
    ("bitwise_arithmetic", "-0x1f", ["-0x1F", "-31"], ["0x1f", "-1f"]),
    ("prime_factorization", "3 × 3 × 37", ["37 × 3 × 3", "3*3*37"],
     ["9 × 37", "3 × 37", "333"]),
    ("gsm_symbolic", "1687.5", ["1,687.5", "1687.50"], ["1687", "-1687.5"]),
    ("chain_sum", "1234", ["1,234", "1234.0"], ["12345", "1234 or 5"]),
]


@pytest.mark.parametrize("task,gold,right,wrong", NUMBERS)
def test_numbers(task, gold, right, wrong):
  for answer in right:
    assert judge(task, {"answer": gold, "metadata": {}}, answer).value == 1
  for answer in wrong:
    assert judge(task, {"answer": gold, "metadata": {}}, answer).value == 0


def test_partial_scores_are_logged_and_not_paid():
  entry = {"answer": "00:10:00", "metadata": {"task_type": "time"}}
  score = judge("time_intervals", entry, "00:10:01")
  assert score.value == 0 and 0.9 < score.parts["scorer"] < 1


@pytest.mark.parametrize("task", ["nothing", *puzzles.LEFT_OUT])
def test_other_tasks_are_refused(task):
  reason = puzzles.LEFT_OUT.get(task, "unknown")
  with pytest.raises(ValueError, match=f"'{task}'.*{reason[:20]}.*word_ladder"):
    judge(task, {"answer": "x", "metadata": {}}, "x")


@pytest.mark.parametrize("piece", [
    "9", "(", "[", '{"a":', "A=1,", "fill A\n", "R", "word,", "1/", "e9", " or",
    "\n", "1 2\n", "Move disk 1 from Peg 1 to Peg 2\n", "Zoey is a knight,"])
def test_long_answers_take_no_time(piece):
  for task in ("jugs", "cryptarithm", "sokoban", "kakurasu", "countdown",
               "knights_knaves", "tower_of_hanoi", "word_ladder", "codeio",
               "coin_flip", "pool_matrix", "sudoku", "n_queens"):
    entry = entries(task)[0]
    judge(task, entry, "warm up")
    for length in (LONG, 9_000):
      began = time.perf_counter()
      assert judge(task, entry, piece * (length // len(piece))).value == 0
      assert time.perf_counter() - began < 3, task


def test_junk_raises_nothing():
  generator = random.Random(2)
  pieces = ["[", "]", "{", "}", '"', ":", ",", "1", "0", "A", "=", "->", "pour",
            "fill", " ", "\n", "Move disk", "is a", "knight", "e9", "/", "-",
            "\x00", "\ud83d", "×", "days", "R", "L", "true", "null", "."]
  kept = {task: entries(task)[0] for task in
          {*puzzles._SCORED, *puzzles._CHECKS}}
  for task, entry in sorted(kept.items()):
    for _ in range(60):
      text = "".join(generator.choices(pieces, k=generator.randrange(30)))
      score = judge(task, entry, text)
      assert score.value in (0, 1) and score.valid, (task, text)
