"""Accuracy of logic answers: texts, sets, grids, program outputs, game of 24.

All rules judge only the final answer (`final_answer`), give 1 or 0, and say
why. Two different final answers score 0.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from r1jax.rewards.answers import boxes, denial, statements
from r1jax.rewards.logic import grids
from r1jax.rewards.logic.literals import MAX_CHARS, arithmetic, parse, spelling
from r1jax.rewards.logic.plain import BULLET, ENDS, TEX, plain
from r1jax.rewards.programs import solutions
from r1jax.rewards.response import Response
from r1jax.rewards.score import Score

if TYPE_CHECKING:
  from r1jax.core.prompt import Prompt


def exact(prompt: Prompt, response: Response) -> Score:
  """1 if the final answer equals the text `prompt.reference` up to `plain`.

  Reasons: "correct", "wrong", "no answer", "two answers".
  """
  gold = _expected(prompt, str)
  answer, reason = final_answer(response)
  if answer is None:
    return Score(0.0, True, reason)
  texts = [plain(answer), plain(statements.beside(answer))]
  right = plain(gold) in texts
  return _verdict(right, plain(gold) if right else texts[0])


def unordered(prompt: Prompt, response: Response) -> Score:
  """1 if the answer lists the texts of `prompt.reference`, in any order.

  They are separated by commas, semicolons, line breaks, "and" or "和" (only
  those that no expected text contains), or are a list with bullets. Each must
  occur as often as in the reference. Reasons: as for `exact`, "too long" and
  "denied".
  """
  gold = _expected(prompt, list)
  answer, reason = final_answer(response)
  if answer is None:
    return Score(0.0, True, reason)
  if len(answer) > MAX_CHARS:
    return Score(0.0, True, "too long")
  bullets, before = _bullets(response.answer)
  pointed = boxes.boxes(response.answer)[0] or any(
      _stated(one, False).strip(ENDS)
      for one in statements.claimed(response.answer)[0] if not one.below)
  if bullets and not pointed and denial.denied(before, block=True):
    return Score(0.0, True, "denied")
  text = answer.strip(" []{}()$.。") if pointed or not bullets else (
      "\n".join(bullets))
  joints = [joint for joint in (",", "，", "、", ";", "；", "\n", " and ", "和")
            if not any(joint in item for item in gold)]
  if joints:
    text = re.sub("|".join(map(re.escape, joints)), "\n", text)
  items = sorted(filter(None, map(plain, text.split("\n"))))
  return _verdict(items == sorted(map(plain, gold)), "; ".join(items))


def grid(prompt: Prompt, response: Response) -> Score:
  """1 if every cell of a table is right: zebra puzzles, knights and knaves.

  `prompt.reference` is {row: {column: value}}. The answer (its last box, or all
  of it) gives the cells as JSON objects of that shape, as Markdown tables with
  rows or columns first, or as lines `row: column = value, column = value`. With
  a single column its name may be missing: {"Zoey": "knight"}, `Zoey: knight`,
  and, in the last paragraph, "Zoey is a knight". Cells that are not in the
  reference are ignored. A cell with two values scores 0, also if the second is
  given after a table. Retracted tables, and drafts before a "final answer", do
  not count (see `grids`).

  Reasons: "correct", "wrong", "incomplete", "contradiction", "no answer", "two
  answers", "too long". Parts: cells, the share of right ones.
  """
  want = {
      (plain(row), plain(column)): plain(str(value))
      for row, cells in _expected(prompt, dict).items()
      for column, value in cells.items()}
  text: str | None = response.answer
  contents, reason = boxes.claimed(text)
  if contents:
    text, reason = _single(contents)
  if not text or reason:
    return Score(0.0, True, reason or "no answer")
  if len(text) > MAX_CHARS:
    return Score(0.0, True, "too long")
  got: dict[tuple[str, str], set[str]] = {}
  for cell, value in grids.cells(text, want):
    got.setdefault(cell, set()).add(value)
  if not got:
    return Score(0.0, True, "no answer")
  share = sum(got.get(cell) == {want[cell]} for cell in want) / len(want)
  if any(len(values) > 1 for values in got.values()):
    reason = "contradiction"
  elif len(got) < len(want):
    reason = "incomplete"
  else:
    reason = "correct" if share == 1 else "wrong"
  answer = "; ".join(
      f"{row}, {column}: {'/'.join(sorted(values))}"
      for (row, column), values in sorted(got.items()))
  return Score(float(reason == "correct"), True, reason, {"cells": share},
               answer)


def literal(prompt: Prompt, response: Response) -> Score:
  """1 if the answer is the Python literal `prompt.reference["value"]`.

  Types count: `True`, `1` and `1.0` differ, and `(1,)` and `[1]`; the order of
  sets and dictionaries does not. Reasons: "correct", "wrong", "no answer", "two
  answers", and errors of `parse`.
  """
  gold = parse(_expected(prompt, dict)["value"])
  answer, reason = final_answer(response)
  if answer is None:
    return Score(0.0, True, reason)
  try:
    value = spelling(_read(answer))
  except ValueError as error:
    try:
      value = spelling(_read(statements.beside(answer)))
    except ValueError:
      return Score(0.0, True, str(error))
  return _verdict(value == spelling(gold), value)


def program_input(prompt: Prompt, response: Response) -> Score:
  """1 if the program gives the expected output for the answer's arguments.

  `prompt.reference` is {"program": source, "function": name, "output": literal
  text}. The answer is `f([1, 2], 3)` or `[1, 2], 3`: positional arguments as
  Python literals. The call runs in the sandbox. Reasons: "correct", "wrong",
  "no answer", "two answers", and errors of the parser or the sandbox.
  """
  reference = _expected(prompt, dict)
  gold = parse(reference["output"])
  answer, reason = final_answer(response)
  if answer is None:
    return Score(0.0, True, reason)
  function = reference["function"]
  text = answer.removesuffix(".").strip("`$ \n")
  called = re.fullmatch(rf"{re.escape(function)}\s?\((.*)\)", text, re.DOTALL)
  text = (called.group(1) if called else text).strip().removesuffix(",")
  try:
    arguments = list(_read(f"({text},)" if text else "()"))
  except ValueError as error:
    return Score(0.0, True, str(error))
  written = spelling(arguments)[1:-1]
  reason, value = solutions.call(reference["program"], function, arguments)
  if reason != "ok":
    return Score(0.0, True, reason, answer=written)
  return _verdict(solutions.same(value, gold), written)


def game24(prompt: Prompt, response: Response) -> Score:
  """1 if the answer makes `target` from all `numbers`, each used once.

  `prompt.reference` is {"numbers": [4, 7, 8, 8], "target": 24}. The answer is
  an expression for `literals.arithmetic`: four operations and brackets; "= 24"
  may follow. Reasons: "correct", "wrong value", "wrong numbers", "no answer",
  "two answers", and errors of the parser.
  """
  reference = _expected(prompt, dict)
  answer, reason = final_answer(response)
  if answer is None:
    return Score(0.0, True, reason)
  return makes(answer, reference["numbers"], reference["target"])


def makes(answer: str, numbers: list[int], target: int) -> Score:
  """1 if an expression uses exactly `numbers` and its value is `target`."""
  text = answer.strip("`$*_ .。\n")
  for mark in ("\\(", "\\)", "\\[", "\\]"):
    text = text.removeprefix(mark).removesuffix(mark)
  expression, equals, result = text.partition("=")
  written = "".join(expression.split())[:MAX_CHARS]
  if equals and result.strip() != str(target):
    return Score(0.0, True, "wrong value", answer=written)
  try:
    value, used = arithmetic(expression)
  except ValueError as error:
    return Score(0.0, True, str(error))
  if sorted(used) != sorted(numbers):
    return Score(0.0, True, "wrong numbers", answer=written)
  if value != target:
    return Score(0.0, True, "wrong value", answer=written)
  return Score(1.0, True, "correct", answer=written)


def final_answer(
    response: Response, *, whole: bool = False) -> tuple[str | None, str]:
  """(final answer or None, reason why there is none).

  The final answer is the first of these that exists: the content of
  `\\boxed{}`; the text after "the answer is", "answer:" or "答案是" up to the
  end of the line; a fenced block at the end of the answer; the content of
  `<answer>`; the last line that is not blank. Several boxes or statements that
  differ are "two answers"; those that the text calls wrong do not count
  ("denied").

  Args:
    response: the completion; only its answer is used.
    whole: for answers of several lines: use the whole answer instead of its
      last line, and all lines after a statement that ends its line.
  """
  text = response.answer
  candidates, reason = boxes.claimed(text)
  if candidates or reason:
    return _single(candidates) if candidates else (None, reason)
  holding, left, reason = statements.claimed(text)
  if holding:
    return _single([_stated(one, whole) for one in holding])
  if reason and not left.strip(ENDS):
    return None, reason
  before, inside = _unfenced(left)
  whole = whole or response.marked or inside != left
  if not whole:
    before, _, inside = left.rstrip().rpartition("\n")
  if inside != left and denial.denied(before, block=True):
    return None, "denied"
  return _single([inside])


def _expected(prompt: Prompt, kind: type) -> Any:
  if not isinstance(prompt.reference, kind) or not prompt.reference:
    raise ValueError(
        f"reference {prompt.reference!r} of prompt {prompt.id}: verifier "
        f"{prompt.verifier!r} needs a {kind.__name__} that is not empty")
  return prompt.reference


def _verdict(right: bool, answer: str) -> Score:
  reason = "correct" if right else "wrong"
  return Score(float(right), True, reason, answer=answer)


def _single(candidates: list[str]) -> tuple[str | None, str]:
  last = candidates[-1].strip()
  if any(plain(other) != plain(last) for other in candidates):
    return None, "two answers"
  return (last, "") if last else (None, "no answer")


def _stated(statement: statements.Statement, whole: bool) -> str:
  """The answer that follows "the answer is"."""
  rest = statement.rest
  inside = _unfenced(rest)[1]
  if whole and statement.below or inside != rest:
    return inside
  return rest.partition("\n")[0]


def _unfenced(text: str) -> tuple[str, str]:
  """(text before, content) of the fenced block at the end of `text`.

  ("", text) if there is no such block.
  """
  stripped = text.rstrip()
  if not stripped.endswith("```"):
    return "", text
  before, opened, inside = stripped[:-3].rpartition("```")
  if not opened or "\n" not in inside:
    return "", text
  return before, inside.partition("\n")[2]


def _read(text: str) -> Any:
  """Parses a literal in backticks, with a full stop, or escaped for TeX."""
  text = text.rstrip(" \t\n.。*`$").lstrip(" \t\n*`$")
  try:
    return parse(text)
  except ValueError:
    if "\\" not in text:
      raise
  return parse(re.sub(r"\\([{}_#&%$ ])", r"\1", TEX.sub(r"\1", text)))


def _bullets(text: str) -> tuple[list[str], str]:
  """(items of the list at the end of `text`, text before it)."""
  items: list[str] = []
  lines = text.rstrip().split("\n")
  while lines and (match := BULLET.match(lines[-1])):
    items.append(lines.pop()[match.end():])
  return items[::-1], "\n".join(lines)
