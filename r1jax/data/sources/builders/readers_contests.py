"""Readers of programming contests: CodeContests, LiveCodeBench, Codeforces."""

from __future__ import annotations

import ast
import base64
import json
import pickletools
import re
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

from etils import epath

from r1jax.core.prompt import Prompt, ask
from r1jax.data.sources.builders import rows, wording
from r1jax.data.sources.builders.rows import Items, Row

_TIME = re.compile(r"^Time Limit: \{'seconds': (\d+), 'nanos': (\d+)\}",
                   re.MULTILINE)
_MEMORY = re.compile(r"^Memory Limit: (\d+) Bytes", re.MULTILINE)
_LITERAL_CHARS = 50_000_000
# Opcodes in the pickle of a single text.
_TEXTS = {"SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8", "UNICODE"}
_PLAIN_PICKLE = {
    *_TEXTS, "PROTO", "FRAME", "MEMOIZE", "BINPUT", "LONG_BINPUT", "PUT",
    "STOP"}


def code_contests(files: Sequence[epath.Path], split: str) -> Items:
  """Rows {problem, tests: {inputs, outputs}}; tests may be a Python literal.

  CodeContests (Li et al., arXiv:2203.07814) in the format of rllm.
  """
  del split

  def parse(row: Row) -> Prompt:
    problem = rows.text(row.fields, "problem")
    tests = _tests(row.fields.get("tests"))
    # Most problems are from Codeforces, whose checkers compare words.
    reference = {"kind": "stdin", **tests, **_limits(problem),
                 "compare": "tokens"}
    return _prompt(
        row, "code_contests", wording.joined(problem, wording.PROGRAM),
        reference, {})

  return rows.jsonl(files, parse)


def livecodebench(files: Sequence[epath.Path], split: str) -> Items:
  """Rows of the publisher's files (arXiv:2403.07974), with tests as JSON text.

  Outputs are compared as by the publisher's runner: line by line, numbers
  exactly.

  Private tests are published as a compressed pickle of JSON text. Loading a
  pickle can run any code, so it is not loaded but parsed, and one that is not a
  single text is malformed. Private tests may also be JSON like the public ones.
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


def codeforces(files: Sequence[epath.Path], split: str) -> Items:
  """Rows of open-r1/codeforces: statement, rating, official_tests.

  Left out are problems that cannot be judged by comparing outputs: those with
  several right outputs, which need a checker (`generated_checker`), interactive
  ones, those that read files, and those with incomplete official tests.
  metadata: rating, contest_id, contest_start (seconds), title, index.
  """
  del split

  def parse(row: Row) -> Prompt | None:
    fields = row.fields
    statement = wording.joined(*(
        part for part in (
            _heading(fields, "description", ""),
            _heading(fields, "input_format", "Input"),
            _heading(fields, "output_format", "Output"),
            *_examples(fields), _heading(fields, "note", "Note")) if part))
    if not statement:
      raise ValueError("no text under 'description'")
    if (fields.get("generated_checker") or fields.get("interaction_format")
        or fields.get("input_mode", "stdio") != "stdio"
        or not fields.get("official_tests_complete", True)):
      return None
    tests = fields.get("official_tests")
    if not isinstance(tests, list) or not tests or not all(
        isinstance(test, dict) and isinstance(test.get("input"), str)
        and isinstance(test.get("output"), str) for test in tests):
      raise ValueError("'official_tests' is no list of inputs and outputs")
    reference = {"kind": "stdin", "compare": "tokens",
                 "inputs": [test["input"] for test in tests],
                 "outputs": [test["output"] for test in tests]}
    for key, name in (("time_limit", "seconds"),
                      ("memory_limit", "megabytes")):
      if isinstance(fields.get(key), int | float) and fields[key] > 0:
        reference[name] = float(fields[key]) if key == "time_limit" else int(
            fields[key])
    metadata = {key: fields[key] for key in (
        "rating", "contest_id", "contest_start", "title", "index")
            if isinstance(fields.get(key), str | int | float)}
    return _prompt(row, "codeforces",
                   wording.joined(statement, wording.PROGRAM), reference,
                   metadata)

  return rows.jsonl(files, parse)


def _heading(fields: Mapping[str, Any], key: str, title: str) -> str:
  text = fields.get(key)
  if not isinstance(text, str) or not text.strip():
    return ""
  return wording.joined(title, text)


def _examples(fields: Mapping[str, Any]) -> list[str]:
  return [wording.joined("Example input", case["input"], "Example output",
                         case["output"])
          for case in fields.get("examples") or ()
          if isinstance(case, dict) and isinstance(case.get("input"), str)
          and isinstance(case.get("output"), str)]


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
  """The limits at the end of the statement: seconds and megabytes per test."""
  limits = {}
  if match := _TIME.search(problem):
    limits["seconds"] = int(match[1]) + int(match[2]) / 1e9
  if match := _MEMORY.search(problem):
    limits["megabytes"] = int(match[1]) // 10**6
  return {key: value for key, value in limits.items() if value > 0}


def _cases(fields: Mapping[str, Any], key: str) -> list[dict[str, str]]:
  text = rows.text(fields, key)
  try:
    packed = text.lstrip()[:1] not in tuple("[{")
    cases = json.loads(_unpacked(text) if packed else text)
  except (ValueError, RecursionError) as error:
    raise ValueError(f"{key!r} is neither JSON nor a compressed pickle of JSON"
                     f" text ({error})") from error
  if not isinstance(cases, list):
    raise ValueError(f"{key!r} is not a list of tests")
  for case in cases:
    if not isinstance(case, dict) or not all(
        isinstance(case.get(part), str)
        for part in ("input", "output", "testtype")):
      raise ValueError(f"a test of {key!r} lacks input, output or testtype")
  return cases


def _unpacked(text: str) -> str:
  """The text in a base64-encoded zlib stream of a pickle, without loading it.

  Raises:
    ValueError: it is anything else, or larger than `_LITERAL_CHARS` bytes.
  """
  try:
    unpacking = zlib.decompressobj()
    data = unpacking.decompress(
        base64.b64decode(text, validate=True), _LITERAL_CHARS)
    if unpacking.unconsumed_tail:
      raise ValueError(f"more than {_LITERAL_CHARS} bytes")
    parts = list(pickletools.genops(data))
  except (zlib.error, ValueError) as error:
    raise ValueError(f"not a compressed pickle: {error}") from error
  other = {code.name for code, *_ in parts} - _PLAIN_PICKLE
  texts = [given for code, given, _ in parts if code.name in _TEXTS]
  if other or len(texts) != 1:
    raise ValueError("a pickle of more than one text")
  return texts[0]


def _call(case: Mapping[str, str]) -> list[Any]:
  """[arguments, expected]; the input has one JSON value per line."""
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
  """The signature of the starter code's method as that of a function."""
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
