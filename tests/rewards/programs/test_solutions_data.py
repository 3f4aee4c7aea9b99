"""Every reference solution passes and every known-wrong one fails.

The default run takes a part of each set, the same every time; all of it is
marked slow.
"""

from __future__ import annotations

import ast
import gzip
import json
import re
import types

import pytest

from r1jax.rewards import response
from r1jax.rewards.programs import solutions
from tests import shared
from tests.rewards import sandboxed

# Correct, and out of time (levenshtein) or memory (knapsack) on their last
# case.
SLOW_PROGRAMS = {"knapsack", "levenshtein"}


def whole_or_part(every):
  """Runs a test on every n-th row by default, on all rows if slow."""
  return pytest.mark.parametrize("every", [
      pytest.param(every, id="part"),
      pytest.param(1, id="all", marks=pytest.mark.slow)])


def passes(reference, program):
  text = f"<think> </think>\n```python\n{program}\n```\n"
  score = solutions.all_passed(
      types.SimpleNamespace(reference=reference), response.split("", text))
  assert score.valid
  return score.value == 1


def count(rows):
  """(how many of (name, reference, program) pass, names that do not)."""
  rows = list(rows)
  failed = [name for name, *case in rows if not passes(*case)]
  return len(rows) - len(failed), failed


def lines(path):
  opened = gzip.open if path.suffix == ".gz" else open
  with opened(path, "rt") as file:
    return [json.loads(line) for line in file]


def checked(row):
  """The reference of HumanEval and HumanEvalFix."""
  name = row["entry_point"]
  start = re.search(rf"^def {name}\(", row["prompt"], re.MULTILINE).start()
  return {"kind": "asserts", "entry_point": name,
          "setup": row["prompt"][:start], "test": row["test"]}


@whole_or_part(8)
def test_humaneval(every):
  rows = lines(shared.folder("humaneval") / "HumanEval.jsonl.gz")
  assert len(rows) == 164
  sandboxed.require()
  # Those whose tests use the prompt's helpers or the program's other names.
  helped = {f"HumanEval/{n}" for n in (32, 33, 38, 50)}
  part = [r for i, r in enumerate(rows)
          if i % every == 0 or r["task_id"] in helped]
  passed, failed = count(
      (r["task_id"], checked(r), r["prompt"] + r["canonical_solution"])
      for r in part)
  assert (passed, failed) == (len(part), [])


@whole_or_part(16)
def test_mbpp(every):
  rows = json.loads(
      (shared.folder("mbpp") / "sanitized-mbpp.json").read_text())
  assert len(rows) == 427
  sandboxed.require()
  # A builtin's name, matches of regular expressions, a class of the program.
  odd = {126, 601, 737, 787, 794}
  part = [r for i, r in enumerate(rows)
          if i % every == 0 or r["task_id"] in odd]

  def case(row):
    name = next(
        n for n in re.findall(r"^def (\w+)", row["code"], re.MULTILINE)
        if re.search(rf"\b{n}\s*\(", row["test_list"][0]))
    return row["task_id"], {
        "kind": "asserts", "entry_point": name,
        "setup": "\n".join(row["test_imports"]),
        "test": "\n".join(row["test_list"])}, row["code"]

  passed, failed = count(map(case, part))
  assert (passed, failed) == (len(part), [])
  # Each fails the tests of another.
  wrong = [(f"{a} for {b}", reference, program)
           for (a, _, program), (b, reference, _)
           in zip(map(case, part), map(case, part[1:]))]
  assert count(wrong)[0] == 0


@whole_or_part(16)
@pytest.mark.parametrize("solution,want", [("canonical", 1), ("buggy", 0)])
def test_humanevalfix(every, solution, want):
  rows = lines(shared.folder("humanevalfix") / "python.jsonl")
  assert len(rows) == 164
  sandboxed.require()
  part = rows[3::every]
  passed, failed = count(
      (r["task_id"], checked(r) | {"seconds": 6 if every == 1 else 1},
       r["prompt"] + r[f"{solution}_solution"]) for r in part)
  assert passed == len(part) * want, failed


@whole_or_part(3)
@pytest.mark.parametrize("folder,want", [
    ("correct_python_programs", True), ("python_programs", False)])
def test_quixbugs(every, folder, want):
  root = shared.folder("quixbugs")
  sandboxed.require()
  files = sorted((root / "json_testcases").glob("*.json"))
  assert len(files) == 31

  def case(path):
    reference = {"kind": "function", "entry_point": path.stem,
                 "cases": lines(path), "seconds": 6 if every == 1 else 1}
    if path.stem == "sqrt":  # the iteration's first value within an epsilon
      reference |= {"tolerance": 1e-4}
    return path.stem, reference, (root / folder / path.name).with_suffix(
        ".py").read_text()

  part = [f for f in files[::every]
          if every == 1 or f.stem not in SLOW_PROGRAMS]
  passed, failed = count(map(case, part))
  if want:
    assert set(failed) <= SLOW_PROGRAMS
  else:
    assert passed == 0


# Solutions of our own, by how the problem begins.
SOLUTIONS = {
    "Andi and Budi": """
import sys
n, m, *titles = sys.stdin.read().split()
def key(title):
  return [-ord(c) if i % 2 else ord(c) for i, c in enumerate(title)]
order = sorted(range(int(n)), key=lambda i: key(titles[i]))
print(*[i + 1 for i in order])
""",
    "Polycarp likes squares and cubes": """
liked = {i * i for i in range(1, 31623)} | {i ** 3 for i in range(1, 1001)}
liked = sorted(liked)
from bisect import bisect_right
for _ in range(int(input())):
  print(bisect_right(liked, int(input())))
""",
    "You are given an array of n positive integers a_1, a_2, …, a_n. Your": """
def main():
  n = int(input())
  a = list(map(int, input().split()))
  P = 998244353
  # f(i) = sum over j < i of (-1)^(i-j-1) f(j) min(a[j+1..i])
  f, total, stack = 1, 0, []
  for i, value in enumerate(a):
    weight = f if i % 2 == 0 else -f
    while stack and stack[-1][0] >= value:
      height, w = stack.pop()
      total -= height * w
      weight += w
    stack.append((value, weight % P))
    total = (total + value * stack[-1][1]) % P
    f = total if i % 2 == 0 else -total % P
  print(f % P)
main()
""",
}


@pytest.mark.parametrize("begins", SOLUTIONS)
def test_code_contests(begins):
  (path,) = shared.folder("code_contests_sample").glob("*.jsonl")
  sandboxed.require()
  (row,) = [r for r in lines(path) if r["problem"].strip().startswith(begins)]
  tests = row["tests"]
  tests = ast.literal_eval(tests) if isinstance(tests, str) else tests
  reference = {"kind": "stdin", "inputs": tests["inputs"],
               "outputs": tests["outputs"], "megabytes": 512}
  program = SOLUTIONS[begins]
  assert passes(reference, program)
  # The same with other numbers, and right only on the first test.
  assert not passes(reference, program.replace("1", "2"))
  first = repr(tests["outputs"][0])
  assert passes(reference, f"print({first})") == (len(tests["inputs"]) == 1)
  assert not passes(reference, f"print({first}, 1)")
