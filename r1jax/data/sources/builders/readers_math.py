"""Readers of mathematics: word problems, MATH, contests."""

from __future__ import annotations

import csv
import re
from collections.abc import Mapping, Sequence
from typing import Any

from etils import epath

from r1jax.core.prompt import Prompt, ask
from r1jax.data.sources.builders import rows
from r1jax.data.sources.builders.rows import Items, Row

# GSM8K has no validation split: every 32nd row of train.jsonl is used as one.
VALIDATION_EVERY = 32

_FINAL = re.compile(r"####\s*([-+]?\$?[\d,]*\.?\d+)\s*$")
_NUMBER = re.compile(r"[-+]?\d[\d,]*(?:\.\d+)?(?:/\d+)?%?")
_BRACE = re.compile(r"\\.|[{}]", re.DOTALL)


def gsm8k(files: Sequence[epath.Path], split: str) -> Items:
  """Rows {question, answer}; the reference is the number after `####`.

  Cobbe et al., arXiv:2110.14168.
  """

  def parse(row: Row) -> Prompt | None:
    question = rows.text(row.fields, "question")
    answer = rows.text(row.fields, "answer")
    match = _FINAL.search(answer)
    if not match:
      raise ValueError("the answer does not end in '#### NUMBER'")
    held = row.number % VALIDATION_EVERY == VALIDATION_EVERY - 1
    if split != "test" and held != (split == "validation"):
      return None
    gold = match.group(1).replace(",", "").replace("$", "")
    return _prompt(row, "gsm8k", question, gold, {"solution": answer})

  return rows.jsonl(files, parse)


def math(files: Sequence[epath.Path], split: str) -> Items:
  """Rows {problem, solution}; the reference is `answer`, else the last box.

  Hendrycks et al., arXiv:2103.03874: one file of rows, or one file per row.
  """
  del split

  def parse(row: Row) -> Prompt:
    problem = rows.text(row.fields, "problem")
    if "answer" in row.fields:
      gold = rows.text(row.fields, "answer").strip()
    else:
      gold = last_box(rows.text(row.fields, "solution"))
    kept = {key: row.fields[key] for key in (
        "level", "type", "subject", "solution", "unique_id")
            if isinstance(row.fields.get(key), str | int)}
    return _prompt(row, "math", problem, gold, kept)

  if all(len(file.parts) > 2 and file.parent.parent.name in ("train", "test")
         for file in files):
    return rows.objects(files, parse)
  return rows.elements(files, parse)


def aime(files: Sequence[epath.Path], split: str) -> Items:
  """Tables or JSON Lines with the columns Problem (or Question) and Answer.

  Column names may be in upper or lower case.
  """
  del split

  def parse(row: Row) -> Prompt:
    fields = {str(key).strip().casefold(): value
              for key, value in row.fields.items()}
    key = "problem" if "problem" in fields else "question"
    problem = rows.text(fields, key)
    # AIME answers are the whole numbers 0 to 999.
    gold = str(rows.integer(fields, "answer", 0, 999))
    kept = {name: fields[name] for name in ("id", "year", "url")
            if isinstance(fields.get(name), str | int)}
    return _prompt(row, "aime", problem, gold, kept)

  if files[0].suffix == ".csv":
    return rows.table(files, parse)
  return rows.elements(files, parse)


def cnmo(files: Sequence[epath.Path], split: str) -> Items:
  """Rows {question or problem, answer}; the answer is any expression.

  China's national olympiad (CNMO) in the files of LiveMathBench
  (arXiv:2412.13147). `language` is "zh" if the question has Chinese characters.
  """
  del split

  def parse(row: Row) -> Prompt:
    key = "problem" if "problem" in row.fields else "question"
    problem = rows.text(row.fields, key)
    chinese = any("\u4e00" <= character <= "\u9fff" for character in problem)
    answer = row.fields.get("answer")
    gold = str(answer) if type(answer) is int else rows.text(
        row.fields, "answer")
    return _prompt(row, "cnmo", problem, gold.strip().strip("$").strip(), {},
                   "zh" if chinese else "en")

  return rows.elements(files, parse)


def imo_answerbench(files: Sequence[epath.Path], split: str) -> Items:
  """Table of Problem ID, Problem, Short Answer, Category, Subcategory."""
  del split

  def parse(row: Row) -> Prompt:
    fields = row.fields
    return _prompt(
        row, "imo_answerbench", rows.text(fields, "Problem"),
        rows.text(fields, "Short Answer").strip(),
        {"id": rows.text(fields, "Problem ID"),
         "category": rows.text(fields, "Category"),
         "subcategory": fields.get("Subcategory") or ""})

  return rows.table(files, parse)


def cmath(files: Sequence[epath.Path], split: str) -> Items:
  """Chinese grade-school problems {input, golden} (arXiv:2306.16636)."""
  del split

  def parse(row: Row) -> Prompt:
    question = rows.text(row.fields, "input")
    kept = {key: rows.integer(row.fields, key, 0, 1000) for key in (
        "grade", "reasoning_step", "num_digits", "distractor")
            if key in row.fields}
    return _prompt(row, "cmath", question, _gold(row.fields, "golden"),
                   {**kept, "extract": "last"}, "zh")

  return rows.jsonl(files, parse)


def mgsm(files: Sequence[epath.Path], split: str) -> Items:
  """Tables mgsm_LANGUAGE.tsv without header: question, number.

  250 test problems of GSM8K in 11 languages (arXiv:2210.03057).
  """
  del split

  def parse(row: Row) -> Prompt:
    fields = dict(zip(("question", "answer"), row.fields))
    language = row.file.stem.rpartition("_")[2]
    return _prompt(row, "mgsm", rows.text(fields, "question"),
                   _gold(fields, "answer"), {"extract": "last"}, language)

  return rows.table(
      files, parse, header=False, columns=2, delimiters="\t",
      quoting=csv.QUOTE_NONE)


def last_box(solution: str) -> str:
  """The content of the last `\\boxed{}` of a solution.

  Raises:
    ValueError: there is none, it is empty, or its braces do not close.
  """
  start = max(solution.rfind(f"\\{name}") for name in ("boxed", "fbox"))
  if start < 0:
    raise ValueError("the solution has no \\boxed answer")
  opened = re.match(r"\\f?box(?:ed)?\s*", solution[start:])
  rest = solution[start + opened.end():]
  if not rest.startswith("{"):
    # A few solutions have `\boxed 5$`.
    inside = re.match(r"[^\s$.]*", rest).group()
    if not inside:
      raise ValueError("the last \\boxed of the solution is empty")
    return inside
  depth = 0
  for match in _BRACE.finditer(rest):
    depth += {"{": 1, "}": -1}.get(match.group(), 0)
    if not depth and match.group() == "}":
      inside = rest[1:match.start()].strip()
      if not inside:
        raise ValueError("the last \\boxed of the solution is empty")
      return inside
  raise ValueError("the braces of the last \\boxed do not close")


def _gold(fields: Mapping[str, Any], key: str) -> str:
  gold = rows.text(fields, key).strip()
  if not _NUMBER.fullmatch(gold):
    raise ValueError(f"{key!r} is {gold!r}, not a number")
  return gold.replace(",", "")


def _prompt(
    row: Row, source: str, question: str, gold: str,
    metadata: Mapping[str, Any], language: str = "en") -> Prompt:
  return Prompt(
      id=row.number, domain="math", source=source, messages=ask(question),
      reference=gold, verifier="math", language=language, metadata=metadata)
