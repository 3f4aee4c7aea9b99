"""Logic verifiers on whole data sets: every reference pays, a near miss not."""

import ast
import csv
import itertools
import json
import re
import time

import pytest

from r1jax.core.prompt import Prompt, ask
from r1jax.rewards import instructions, response
from r1jax.rewards.logic import literals, verdicts
from tests import shared
from tests.rewards import sandboxed


def verdict(rule, reference, answer):
  prompt = Prompt(id=0, domain="logic", source="test", messages=ask("?"),
                  reference=reference, verifier="any")
  return rule(prompt, response.split("<think>", f"</think>{answer}"))


def judge(rule, reference, answer):
  return verdict(rule, reference, answer).value


def cruxeval():
  lines = (shared.folder("cruxeval") / "cruxeval.jsonl").read_text()
  return [json.loads(line) for line in lines.splitlines()]


def mutated(value):
  """Another value of nearly the same look."""
  if isinstance(value, str):
    return value + "x"
  if isinstance(value, bool):
    return int(value)
  if isinstance(value, int | float):
    return value + 1
  if isinstance(value, list):
    return tuple(value)
  if isinstance(value, tuple):
    return list(value)
  if isinstance(value, dict):
    return {**value, "extra": 0}
  return 0


def test_cruxeval_outputs():
  rows = cruxeval()
  assert len(rows) == 800
  for row in rows:
    reference = {"value": row["output"]}
    value = ast.literal_eval(row["output"])
    forms = (row["output"], repr(value), f"The answer is `{row['output']}`.",
             f"```python\n{row['output']}\n```")
    for form in forms:
      assert judge(verdicts.literal, reference, form) == 1, form
    for wrong in (repr(mutated(value)), repr([value]), repr(row["output"]),
                  row["input"] if row["input"] != row["output"] else "x"):
      assert literals.spelling(value) != wrong
      assert judge(verdicts.literal, reference, wrong) == (
          wrong == row["input"] and _equal(wrong, value)), wrong


def _equal(text, value):
  try:
    other = ast.literal_eval(text)
  except (ValueError, SyntaxError):
    return False
  return literals.spelling(other) == literals.spelling(value)


@pytest.mark.parametrize("step,rows,expressions", [
    (20, 40, 2), pytest.param(1, 800, 12, marks=pytest.mark.slow)])
def test_cruxeval_inputs_run_in_the_sandbox(step, rows, expressions):
  """All are paid but those that are no literals: calls, sums and lambdas."""
  sandboxed.require()
  paid = unread = refused = 0
  for row in cruxeval()[::step]:
    reference = {
        "program": row["code"], "function": "f", "output": row["output"]}
    score = verdict(verdicts.program_input, reference, f"f({row['input']})")
    paid += score.value
    unread += score.reason == "not a literal"
    reference["output"] = repr(mutated(ast.literal_eval(row["output"])))
    refused += judge(verdicts.program_input, reference, row["input"]) == 0
  assert (paid, unread, refused) == (rows - expressions, expressions, rows)


def solution(numbers, target=24):
  """An expression, by search over all ways to join two of the numbers."""
  if len(numbers) == 1:
    (value, text), = numbers
    return text if abs(value - target) < 1e-9 else None
  for i, j in itertools.permutations(range(len(numbers)), 2):
    (a, x), (b, y) = numbers[i], numbers[j]
    rest = [n for k, n in enumerate(numbers) if k not in (i, j)]
    joined = [(a - b, f"({x} - {y})")]
    if i < j:
      joined += [(a + b, f"({x} + {y})"), (a * b, f"({x} * {y})")]
    if b:
      joined.append((a / b, f"({x} / {y})"))
    for one in joined:
      if found := solution([one, *rest], target):
        return found
  return None


def test_game24():
  path = shared.folder("game24") / "24.csv"
  with path.open() as file:
    puzzles = [[*map(int, row["Puzzles"].split())]
               for row in csv.DictReader(file)]
  assert len(puzzles) == 1362
  for numbers in puzzles:
    reference = {"numbers": numbers, "target": 24}
    found = solution([(n, str(n)) for n in numbers])
    other = "1" if numbers[0] != 1 else "2"
    assert judge(verdicts.game24, reference, found) == 1, found
    assert judge(verdicts.game24, reference, f"Answer: {found} = 24") == 1
    tex = found.replace("*", "\\times").replace("/", "\\div")
    assert judge(verdicts.game24, reference, f"\\boxed{{{tex}}}") == 1
    for wrong in (f"{found} + {numbers[0]}", f"{found} * 1", f"{found} = 25",
                  found.replace(str(numbers[0]), other, 1), "24"):
      assert judge(verdicts.game24, reference, wrong) == 0, wrong
    total = " + ".join(map(str, numbers))
    assert judge(verdicts.game24, reference, total) == (sum(numbers) == 24)


def test_bbh_targets():
  files = sorted(shared.folder("bbh").glob("*.json"))
  assert len(files) == 27
  rows = 0
  for file in files:
    examples = json.loads(file.read_text())["examples"]
    targets = [row["target"] for row in examples]
    distinct = sorted(set(targets))
    for target in targets:
      if re.fullmatch(r"\([A-Z]\)", target):
        continue  # letters of options: the choice verifier's
      other = distinct[distinct.index(target) - 1]
      for form in (target, f"So the answer is {target}.", f"**{target}**",
                   f"<answer>{target}</answer>"):
        assert judge(verdicts.exact, target, form) == 1, (file.stem, form)
      assert judge(verdicts.exact, target, other) == 0, (
          file.stem, target, other)
      assert judge(verdicts.exact, target, f"{target} {other}") == 0
      assert judge(verdicts.exact, target, "I do not know") == 0
      rows += 1
  assert rows == 2440


def test_logicbench_yes_and_no():
  files = sorted((shared.folder("logicbench_eval") / "BQA").rglob("*.json"))
  rows = 0
  for file in files:
    for sample in json.loads(file.read_text())["samples"]:
      for pair in sample["qa_pairs"]:
        right = pair["answer"]
        wrong = {"yes": "no", "no": "yes"}[right]
        assert judge(verdicts.exact, right, f"The answer is {right}.") == 1
        assert judge(verdicts.exact, right, f"\\boxed{{{wrong}}}") == 0
        assert judge(verdicts.exact, right, "yes and no") == 0
        rows += 1
  assert rows == 1520


def test_ifeval_rows_are_known_and_nothing_follows_them():
  path = shared.folder("ifeval") / "input_data.jsonl"
  rows = [json.loads(line) for line in path.read_text().splitlines()]
  names = [name for row in rows for name in row["instruction_id_list"]]
  assert (len(rows), len(names)) == (541, 834)
  ours = {"length_constraints:distinct_words"}
  assert {*names} == {*instructions.CHECKS} - ours
  for row in rows:
    reference = {"ids": row["instruction_id_list"], "kwargs": row["kwargs"]}
    assert judge(instructions.verify, reference, "") == 0


@pytest.mark.slow
def test_rates():
  """Verdicts per second of one process; the bounds are far below them."""
  rows = cruxeval()
  for name, rule, reference, answer in (
      ("exact", verdicts.exact, "(A)", "So, the answer is (A)."),
      ("literal", verdicts.literal, {"value": rows[0]["output"]},
       rows[0]["output"]),
      ("game24", verdicts.game24, {"numbers": [4, 7, 8, 8], "target": 24},
       "(7 - 8 / 8) * 4 = 24")):
    prompt = Prompt(id=0, domain="logic", source="test", messages=ask("?"),
                    reference=reference, verifier=name)
    began = time.perf_counter()
    for _ in range(5000):
      assert rule(prompt, response.split("", f"</think>{answer}")).value == 1
    rate = 5000 / (time.perf_counter() - began)
    print(f"{name}: {rate:.0f} a second")
    assert rate > 1000
