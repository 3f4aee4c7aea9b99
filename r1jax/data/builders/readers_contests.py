"""Readers of programming contests: CodeContests, LiveCodeBench."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from etils import epath

from r1jax.core.prompt import Prompt, ask
from r1jax.data.builders import rows, wording
from r1jax.data.builders.rows import Items, Row

_TIME = re.compile(r"^Time Limit: \{'seconds': (\d+), 'nanos': (\d+)\}",
                   re.MULTILINE)
_MEMORY = re.compile(r"^Memory Limit: (\d+) Bytes", re.MULTILINE)
_LITERAL_CHARS = 50_000_000


def code_contests(files: Sequence[epath.Path], split: str) -> Items:
  """Rows {problem, tests: {inputs, outputs}}, tests maybe a Python literal.

  CodeContests (Li et al., arXiv:2203.07814) in the packing of rllm.
  """
  del split

  def parse(row: Row) -> Prompt:
    problem = rows.text(row.fields, "problem")
    tests = _tests(row.fields.get("tests"))
    # Most of its problems are from Codeforces, whose checkers read words.
    reference = {"kind": "stdin", **tests, **_limits(problem),
                 "compare": "tokens"}
    return _prompt(
        row, "code_contests", wording.joined(problem, wording.PROGRAM),
        reference, {})

  return rows.jsonl(files, parse)


def livecodebench(files: Sequence[epath.Path], split: str) -> Items:
  """Rows of the upstream files (arXiv:2403.07974), their tests as JSON text.

  Outputs are compared as its own runner does: line by line, numbers exactly.

  Private tests are shipped as compressed pickles, which are not read: loading
  one can run any code. Save them as JSON, in the form of the public ones.
  """
  del split

  def parse(row: Row) -> Prompt:
    fields = row.fields
    content = rows.text(fields, "question_content")
    cases = _cases(fields, "public_test_cases")
    if fields.get("private_test_cases"):
      cases += _cases(fields, "private_test_cases")
    if not cases:
      raise ValueError("no tests")
    kinds = {case["testtype"] for case in cases}
    metadata = {key: fields[key] for key in (
        "question_title", "question_id", "platform", "contest_id",
        "contest_date", "difficulty") if isinstance(fields.get(key), str)}
    if kinds == {"stdin"}:
      reference = {"kind": "stdin",
                   "inputs": [case["input"] for case in cases],
                   "outputs": [case["output"] for case in cases],
                   "compare": "decimals"}
      question = wording.joined(content, wording.PROGRAM)
    elif kinds == {"functional"}:
      name = _function_name(fields)
      reference = {"kind": "function", "entry_point": name,
                   "cases": [_call(case) for case in cases]}
      question = wording.joined(
          content, wording.SIGNATURE.format(name=name),
          wording.fenced(_signature(fields, name)), wording.ONE_BLOCK)
      metadata["func_name"] = name
    else:
      raise ValueError(
          f"tests of the types {', '.join(sorted(kinds))}, where all must be"
          " stdin or all functional")
    return _prompt(row, "livecodebench", question, reference, metadata)

  return rows.jsonl(files, parse)


def _tests(tests: Any) -> dict[str, list[str]]:
  if isinstance(tests, str):
    if len(tests) > _LITERAL_CHARS:
      raise ValueError(f"'tests' has {len(tests)} characters, more than"
                       f" {_LITERAL_CHARS}")
    try:
      tests = ast.literal_eval(tests)
    except (ValueError, SyntaxError, MemoryError, RecursionError) as error:
      raise ValueError("'tests' is no Python literal") from error
  if not isinstance(tests, dict):
    raise ValueError("'tests' is not an object of inputs and outputs")
  inputs = rows.texts(tests, "inputs")
  outputs = rows.texts(tests, "outputs")
  if len(inputs) != len(outputs):
    raise ValueError(f"{len(inputs)} inputs but {len(outputs)} outputs")
  return {"inputs": inputs, "outputs": outputs}


def _limits(problem: str) -> dict[str, float | int]:
  """The limits that the statement ends with: seconds and megabytes a test."""
  limits = {}
  if match := _TIME.search(problem):
    limits["seconds"] = int(match[1]) + int(match[2]) / 1e9
  if match := _MEMORY.search(problem):
    limits["megabytes"] = int(match[1]) // 10**6
  return {key: value for key, value in limits.items() if value > 0}


def _cases(fields: Mapping[str, Any], key: str) -> list[dict[str, str]]:
  try:
    cases = json.loads(rows.text(fields, key))
  except (json.JSONDecodeError, RecursionError) as error:
    raise ValueError(
        f"{key!r} is not JSON; compressed pickles are not read: save the tests"
        " as JSON") from error
  if not isinstance(cases, list):
    raise ValueError(f"{key!r} is not a list of tests")
  for case in cases:
    if not isinstance(case, dict) or not all(
        isinstance(case.get(part), str)
        for part in ("input", "output", "testtype")):
      raise ValueError(f"a test of {key!r} lacks input, output or testtype")
  return cases


def _call(case: Mapping[str, str]) -> list[Any]:
  """[arguments, expected]: the input has one JSON value a line."""
  try:
    arguments = [json.loads(line) for line in case["input"].split("\n")
                 if line.strip()]
    return [arguments, json.loads(case["output"])]
  except (json.JSONDecodeError, RecursionError) as error:
    raise ValueError("input or output of a functional test is not JSON"
                     ) from error


def _function_name(fields: Mapping[str, Any]) -> str:
  try:
    name = json.loads(rows.text(fields, "metadata")).get("func_name")
  except (ValueError, AttributeError) as error:
    raise ValueError("'metadata' is not a JSON object") from error
  if not isinstance(name, str) or not name.isidentifier():
    raise ValueError("'metadata' names no function under 'func_name'")
  return name


def _signature(fields: Mapping[str, Any], name: str) -> str:
  """The starter code's method as a function."""
  match = re.search(
      rf"def {name}\(\s*self\s*,?\s*([^:]*(?::[^:]*)*?)\)\s*(->[^:\n]*)?:",
      rows.text(fields, "starter_code"))
  if not match:
    raise ValueError(f"'starter_code' has no method {name}(self, ...)")
  returns = f" {match[2].strip()}" if match[2] else ""
  return f"def {name}({match[1].strip()}){returns}:"


def _prompt(
    row: Row, source: str, question: str, reference: Mapping[str, Any],
    metadata: Mapping[str, Any]) -> Prompt:
  return Prompt(
      id=row.number, domain="code", source=source, messages=ask(question),
      reference=reference, verifier="code", metadata=metadata)
