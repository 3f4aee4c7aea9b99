"""Readers of functions to write or repair: HumanEval, MBPP, QuixBugs."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from etils import epath

from r1jax.core.prompt import Prompt, ask
from r1jax.data.sources.builders import rows, wording
from r1jax.data.sources.builders.rows import Items, Row

# Ids of MBPP by split (Austin et al., arXiv:2108.07732).
MBPP_SPLITS = {
    "prompt": range(1, 11), "test": range(11, 511),
    "validation": range(511, 601), "train": range(601, 975)}

# Absolute tolerances. QuixBugs' sqrt(x, epsilon) may be off by epsilon, which
# is at least this in all its cases.
_TOLERANCES = {"sqrt": 0.01}

_DEFINED = re.compile(r"^def\s+(\w+)\s*\(", re.MULTILINE)


def humaneval(files: Sequence[epath.Path], split: str) -> Items:
  """Functions to complete; `test` has a check(candidate) (arXiv:2107.03374)."""
  del split

  def parse(row: Row) -> Prompt:
    name, setup = _entry_point(row.fields)
    stub = rows.text(row.fields, "prompt")
    solution = rows.text(row.fields, "canonical_solution")
    return _prompt(
        row, "humaneval",
        wording.joined(
            wording.COMPLETE.format(name=name), wording.fenced(stub)),
        _asserts(name, setup, rows.text(row.fields, "test")),
        {"task_id": rows.text(row.fields, "task_id"),
         "solution": stub + solution})

  return rows.jsonl(files, parse)


def humanevalfix(files: Sequence[epath.Path], split: str) -> Items:
  """HumanEval's functions with a bug (OctoPack, arXiv:2308.07124).

  The question has the docstring and the buggy body, but no tests.
  """
  del split

  def parse(row: Row) -> Prompt:
    name, setup = _entry_point(row.fields)
    stub = rows.text(row.fields, "prompt")
    bodies = {key: stub + rows.text(row.fields, f"{key}_solution")
              for key in ("buggy", "canonical")}
    test = rows.text(row.fields, "test").rstrip()
    # The last line calls check, which the verifier does itself.
    test = test.removesuffix(f"check({name})")
    return _prompt(
        row, "humanevalfix",
        wording.joined(
            wording.REPAIR.format(name=name), wording.fenced(bodies["buggy"])),
        _asserts(name, setup, test),
        {"task_id": rows.text(row.fields, "task_id"),
         "bug_type": rows.text(row.fields, "bug_type"),
         "buggy": bodies["buggy"], "solution": bodies["canonical"]}, "bugfix")

  return rows.jsonl(files, parse)


def mbpp(files: Sequence[epath.Path], split: str) -> Items:
  """Small functions, all 974: {text, code, test_list, test_setup_code}."""
  return rows.jsonl(
      files, lambda row: _mbpp(row, split, "mbpp", "text", "test_setup_code"))


def mbpp_sanitized(files: Sequence[epath.Path], split: str) -> Items:
  """The 427 hand-checked functions: {prompt, code, test_list, test_imports}."""
  return rows.elements(
      files,
      lambda row: _mbpp(row, split, "mbpp_sanitized", "prompt", "test_imports"))


def quixbugs(files: Sequence[epath.Path], split: str) -> Items:
  """Buggy programs python_programs/NAME.py with cases json_testcases/NAME.json.

  A line of cases is [arguments, expected]. Lin et al., SPLASH 2017.
  """
  del split
  listed = (Row(i, file, 1, None) for i, file in enumerate(files))
  return rows.checked(files[0].parent, listed, _quixbug)


def _mbpp(
    row: Row, split: str, source: str, question_key: str, setup_key: str,
) -> Prompt | None:
  fields = row.fields
  number = rows.integer(fields, "task_id", 1, 974)
  question = rows.text(fields, question_key).strip()
  code = rows.text(fields, "code").replace("\r\n", "\n")
  tests = [test.replace("\r\n", "\n")
           for test in rows.texts(fields, "test_list")]
  setup = fields.get(setup_key, "")
  setup = "\n".join(setup) if isinstance(setup, list) else setup
  if not isinstance(setup, str):
    raise ValueError(f"{setup_key!r} is neither a text nor a list of texts")
  name = next(
      (name for name in _DEFINED.findall(code)
       if re.search(rf"\b{name}\s*\(", tests[0])), None)
  if name is None:
    raise ValueError("the first test calls no function of 'code'")
  if number not in MBPP_SPLITS[split]:
    return None
  # One test shows the form of the arguments; the others are not shown.
  asked = wording.joined(
      question, wording.FUNCTION.format(name=name), wording.fenced(tests[0]),
      wording.ONE_BLOCK)
  return _prompt(
      row, source, asked,
      _asserts(name, setup.replace("\r\n", "\n"), "\n".join(tests)),
      {"task_id": number, "solution": code})


def _quixbug(row: Row) -> Prompt:
  name = row.file.stem
  programs = {}
  for folder in ("python_programs", "correct_python_programs"):
    path = row.file.parent.parent / folder / f"{name}.py"
    if path.exists():
      programs[folder] = path.read_text()
  if "python_programs" not in programs:
    raise ValueError(f"there is no python_programs/{name}.py")
  buggy = programs["python_programs"]
  if name not in _DEFINED.findall(buggy):
    raise ValueError(f"python_programs/{name}.py defines no function {name}")
  cases = []
  for index, line in enumerate(row.file.read_text().split("\n")):
    if not line.strip():
      continue
    try:
      case = json.loads(line)
    except ValueError as error:
      raise ValueError(f"case in line {index + 1} is not JSON") from error
    if (not isinstance(case, list) or len(case) != 2
        or not isinstance(case[0], list)):
      raise ValueError(
          f"case in line {index + 1} is not [arguments, expected]")
    cases.append(case)
  if not cases:
    raise ValueError("no cases")
  reference = {"kind": "function", "entry_point": name, "cases": cases}
  if name in _TOLERANCES:
    reference["tolerance"] = _TOLERANCES[name]
  return _prompt(
      row, "quixbugs",
      wording.joined(wording.REPAIR.format(name=name), wording.fenced(buggy)),
      reference,
      {"task_id": name, "buggy": buggy,
       "solution": programs.get("correct_python_programs", "")}, "bugfix")


def _entry_point(fields: Mapping[str, Any]) -> tuple[str, str]:
  """(name of the function, source before it: imports and helpers)."""
  name, stub = rows.text(fields, "entry_point"), rows.text(fields, "prompt")
  match = re.search(rf"^def {re.escape(name)}\s*\(", stub, re.MULTILINE)
  if not match:
    raise ValueError(f"'prompt' defines no function {name!r}")
  return name, stub[:match.start()].strip("\n")


def _asserts(name: str, setup: str, test: str) -> dict[str, str]:
  return {"kind": "asserts", "entry_point": name, "setup": setup,
          "test": test.strip("\n") + "\n"}


def _prompt(
    row: Row, source: str, question: str, reference: Mapping[str, Any],
    metadata: Mapping[str, Any], verifier: str = "code") -> Prompt:
  return Prompt(
      id=row.number, domain="code", source=source, messages=ask(question),
      reference=reference, verifier=verifier, metadata=metadata)
