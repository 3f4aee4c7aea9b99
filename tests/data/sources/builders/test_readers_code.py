import base64
import json
import pickle
import zlib

import pytest

from r1jax.data.sources.builders import readers_code as readers
from r1jax.data.sources.builders import readers_contests as contests
from tests.data.sources.builders import cases

STUB = ('import math\n\ndef helper(x):\n  return x\n\n\n'
        'def twice(n):\n    """Two times n."""\n')
EVAL = {
    "task_id": "T/0", "prompt": STUB, "entry_point": "twice",
    "canonical_solution": "    return 2 * n\n",
    "test": "\n\ndef check(candidate):\n  assert candidate(4) == 8\n"}


def test_humaneval(tmp_path):
  path = cases.lines(
      tmp_path / "a.jsonl", EVAL, cases.without(EVAL, "test"),
      {**EVAL, "entry_point": "thrice"}, {**EVAL, "prompt": 3},
      json.dumps(EVAL)[:40])
  (prompt,), bad = cases.read(readers.humaneval, path)
  assert prompt.reference == {
      "kind": "asserts", "entry_point": "twice",
      "setup": "import math\n\ndef helper(x):\n  return x",
      "test": "def check(candidate):\n  assert candidate(4) == 8\n"}
  assert STUB.strip() in prompt.question and "== 8" not in prompt.question
  assert prompt.metadata["solution"].endswith("    return 2 * n\n")
  assert bad[:3] == ["a.jsonl:2: no text under 'test'",
                     "a.jsonl:3: 'prompt' defines no function 'thrice'",
                     "a.jsonl:4: no text under 'prompt'"]
  assert bad[3].startswith("a.jsonl:5: not JSON")


def test_humanevalfix(tmp_path):
  row = {**EVAL, "buggy_solution": "    return 3 * n\n", "bug_type": "value",
         "test": EVAL["test"] + "\ncheck(twice)"}
  path = cases.lines(
      tmp_path / "a.jsonl", row, cases.without(row, "buggy_solution"))
  (prompt,), bad = cases.read(readers.humanevalfix, path)
  assert prompt.verifier == "bugfix"
  assert prompt.reference["test"] == (
      "def check(candidate):\n  assert candidate(4) == 8\n")
  assert "return 3 * n" in prompt.question
  assert "return 2 * n" not in prompt.question
  assert prompt.metadata["buggy"] == STUB + "    return 3 * n\n"
  assert bad == ["a.jsonl:2: no text under 'buggy_solution'"]


MBPP = {"text": "Add.", "code": "def g(x):\r\n  return 0\r\ndef add(a, b):"
        "\r\n  return a + b", "test_setup_code": "", "test_list": [
            "assert add(1, 2) == 3", "assert add(5, 6) == 11"]}


@pytest.mark.parametrize("sanitized", [False, True])
def test_mbpp_and_its_splits(sanitized, tmp_path):
  ids = (1, 10, 11, 510, 511, 600, 601, 974)
  rows = [{**MBPP, "task_id": i} for i in (*ids, 975)]
  rows += [{**MBPP, "task_id": 5, "test_list": []},
           {**MBPP, "task_id": 5, "code": "add = sum"},
           {**MBPP, "task_id": 5, "test_setup_code": 1}]
  reader, name = readers.mbpp, "mbpp.jsonl"
  if sanitized:
    reader, name = readers.mbpp_sanitized, "mbpp.json"
    rows = [{**cases.without(cases.without(row, "text"), "test_setup_code"),
             "prompt": row["text"], "test_imports":
             row["test_setup_code"] or ["import math"]} for row in rows]
    path = cases.lines(tmp_path / name, json.dumps(rows))
  else:
    path = cases.lines(tmp_path / name, *rows)
  found = {split: cases.read(reader, path, split)[0]
           for split in readers.MBPP_SPLITS}
  assert {split: [p.metadata["task_id"] for p in prompts]
          for split, prompts in found.items()} == {
              "prompt": [1, 10], "test": [11, 510], "validation": [511, 600],
              "train": [601, 974]}
  prompt = found["train"][0]
  assert prompt.reference == {
      "kind": "asserts", "entry_point": "add",
      "setup": "import math" if sanitized else "",
      "test": "assert add(1, 2) == 3\nassert add(5, 6) == 11\n"}
  assert "(1, 2) == 3" in prompt.question and "11" not in prompt.question
  key = "test_imports" if sanitized else "test_setup_code"
  assert cases.read(reader, path)[1] == [
      f"{name}:9: 'task_id' is 975, not a number in 1..974",
      f"{name}:10: no list of 1 or more texts under 'test_list'",
      f"{name}:11: the first test calls no function of 'code'",
      f"{name}:12: '{key}' is neither a text nor a list of texts"]


def test_quixbugs(tmp_path):
  def program(name, text, *lines):
    if text:
      cases.lines(tmp_path / f"python_programs/{name}.py", text)
    return cases.lines(tmp_path / f"json_testcases/{name}.json", *lines)

  files = [
      program("gcd", "def gcd(a, b):\n  return a", [[17, 0], 17], "", [[1], 1]),
      program("lis", "", [[1], 1]),
      program("kth", "def other(): pass", [[1], 1]),
      program("wrap", "def wrap(): pass", [[1], 1], "{"),
      program("sqrt", "def sqrt(): pass", [[1], 1], [1, 1]),
      program("hanoi", "def hanoi(): pass", "")]
  (prompt,), bad = cases.read(readers.quixbugs, files)
  assert prompt.reference == {
      "kind": "function", "entry_point": "gcd",
      "cases": [[[17, 0], 17], [[1], 1]]}
  assert prompt.verifier == "bugfix" and "return a" in prompt.question
  assert bad == [
      "lis.json:1: there is no python_programs/lis.py",
      "kth.json:1: python_programs/kth.py defines no function kth",
      "wrap.json:1: case in line 2 is not JSON",
      "sqrt.json:1: case in line 2 is not [arguments, expected]",
      "hanoi.json:1: no cases"]


def test_code_contests(tmp_path):
  tests = {"inputs": ["1\n", "2\n"], "outputs": ["2\n", "4\n"]}
  problem = ("Double it.\n\nTime Limit: {'seconds': 1, 'nanos': 500000000}\n"
             "Memory Limit: 256000000 Bytes")
  good = {"problem": problem, "tests": tests}
  path = cases.lines(
      tmp_path / "a.jsonl", good, {"problem": "p", "tests": repr(tests)},
      {**good, "tests": "open('x')"}, {**good, "tests": "(" * 10000},
      {**good, "tests": [1]}, {**good, "tests": {"inputs": ["1"]}},
      {**good, "tests": {**tests, "outputs": ["2"]}}, cases.without(
          good, "problem"))
  prompts, bad = cases.read(contests.code_contests, path)
  assert prompts[0].reference == {
      "kind": "stdin", **tests, "seconds": 1.5, "megabytes": 256,
      "compare": "tokens"}
  assert prompts[1].reference == {
      "kind": "stdin", **tests, "compare": "tokens"}
  assert [line.partition(": ")[2] for line in bad] == [
      "'tests' is no Python literal", "'tests' is no Python literal",
      "'tests' is not an object of inputs and outputs",
      "no list of 1 or more texts under 'outputs'",
      "2 inputs but 1 outputs", "no text under 'problem'"]


def case(kind, given="1\n", output="2\n"):
  return {"input": given, "output": output, "testtype": kind}


def lcb(public, private="", **more):
  return {"question_content": "Do it.", "question_title": "It",
          "public_test_cases": json.dumps(public),
          "private_test_cases": private, **more}


def test_livecodebench(tmp_path):
  starter = ("class Solution:\n    def pick(self, nums: List[int], k: int)"
             " -> List[int]:\n        ")
  function = {"starter_code": starter,
              "metadata": json.dumps({"func_name": "pick"})}
  calls = [case("functional", "[1, 2]\n1", "[2]")]
  packed = base64.b64encode(zlib.compress(b"\x80\x04K\x01.")).decode()
  path = cases.lines(
      tmp_path / "test.jsonl", lcb([case("stdin")], json.dumps([case(
          "stdin", "3", "6")])), lcb(calls, **function),
      lcb([case("stdin")], packed), lcb([case("stdin"), *calls], **function),
      lcb([]), lcb([{"input": "1"}]), lcb(calls),
      lcb(calls, metadata="{}", starter_code=starter),
      lcb(calls, metadata=function["metadata"], starter_code="class S: pass"),
      lcb([case("functional", "oops", "1")], **function),
      lcb({"input": "1"}))
  prompts, bad = cases.read(contests.livecodebench, path)
  assert prompts[0].reference == {
      "kind": "stdin", "inputs": ["1\n", "3"], "outputs": ["2\n", "6"],
      "compare": "decimals"}
  assert prompts[1].reference == {
      "kind": "function", "entry_point": "pick", "cases": [[[[1, 2], 1], [2]]]}
  assert "def pick(nums: List[int], k: int) -> List[int]:" in (
      prompts[1].question)
  assert prompts[1].metadata["func_name"] == "pick"
  assert [line.partition(": ")[2] for line in bad] == [
      "'private_test_cases' is neither JSON nor a compressed pickle of JSON"
      " text (a pickle of more than one text)",
      "tests of the types functional, stdin, where all must be stdin or all"
      " functional", "no tests",
      "a test of 'public_test_cases' lacks input, output or testtype",
      "'metadata' is not a JSON object",
      "'metadata' names no function under 'func_name'",
      "'starter_code' has no method pick(self, ...)",
      "input or output of a functional test is not JSON",
      "'public_test_cases' is not a list of tests"]


def test_livecodebench_reads_its_publishers_pickles_without_loading_them(
    tmp_path):
  def packed(data):
    return base64.b64encode(zlib.compress(data)).decode()

  def private(protocol):
    return pickle.dumps(json.dumps([case("stdin", "3", "6")]), protocol)

  class Evil:
    def __reduce__(self):
      return open, (str(tmp_path / "gone"), "w")

  path = cases.lines(
      tmp_path / "test.jsonl",
      *(lcb([case("stdin")], packed(private(n))) for n in (0, 2, 4, 5)),
      lcb([case("stdin")], packed(pickle.dumps(Evil()))),
      lcb([case("stdin")], packed(pickle.dumps(["[]", "[]"]))),
      lcb([case("stdin")], packed(b"\x80\x04")),
      lcb([case("stdin")], "%%%"))
  prompts, bad = cases.read(contests.livecodebench, path)
  assert [p.reference["inputs"] for p in prompts] == [["1\n", "3"]] * 4
  assert len(bad) == 4 and not (tmp_path / "gone").exists()


def test_codeforces(tmp_path):
  good = {
      "id": "1/A", "description": "Double it.", "input_format": "n",
      "output_format": "2n", "examples": [{"input": "1", "output": "2"}],
      "note": None, "rating": 800, "contest_id": "1", "time_limit": 2.0,
      "memory_limit": 256.0, "official_tests": [
          {"input": "1\n", "output": "2\n"}], "official_tests_complete": True,
      "input_mode": "stdio", "generated_checker": None,
      "interaction_format": None}
  path = cases.lines(
      tmp_path / "test.jsonl", good, {**good, "generated_checker": "code"},
      {**good, "interaction_format": "ask"}, {**good, "input_mode": "file"},
      {**good, "official_tests_complete": False},
      {**good, "official_tests": []}, {**good, "description": None,
                                       "input_format": "", "examples": [],
                                       "output_format": None})
  (prompt,), bad = cases.read(contests.codeforces, path)
  assert prompt.reference == {
      "kind": "stdin", "compare": "tokens", "inputs": ["1\n"],
      "outputs": ["2\n"], "seconds": 2.0, "megabytes": 256}
  assert prompt.question.startswith(
      "Double it.\n\nInput\n\nn\n\nOutput\n\n2n\n\nExample input\n\n1")
  assert prompt.metadata == {"rating": 800, "contest_id": "1"}
  assert len(bad) == 2
