"""Accuracy of logic answers: texts, sets, grids, program outputs, game of 24.

All rules look at the final answer and at nothing else (`final_answer`), give 1
or 0, and name why. Two different final answers are none.
"""

from __future__ import annotations

import json
import re
import unicodedata
from typing import TYPE_CHECKING, Any

from r1jax.rewards import code
from r1jax.rewards.extraction import boxes
from r1jax.rewards.literal import MAX_CHARS, arithmetic, parse, spelling
from r1jax.rewards.response import Response
from r1jax.rewards.score import Score

if TYPE_CHECKING:
  from r1jax.core.types import Prompt

_STATED = re.compile(
    r"(?:\banswers?\b[^\n.:：]{0,40}?(?:\bis\b|:|：|\bare\b)"
    r"|答案[^\n。:：]{0,20}?(?:是|为|:|：))"
    r"(?:\*\*|__)?[\s:：]*(?:\*\*|__)?\s*", re.IGNORECASE)
_TEX = re.compile(r"\\(?:text(?:bf|tt|it|rm)?|math(?:rm|bf|tt))\s*"
                  r"\{([^{}]*)\}")
_NUMBER = re.compile(r"[-+]?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?", re.ASCII)
_ENDS = " \t\r\n.,;:!?、*_`\"'“”‘’$"
_BULLET = re.compile(r"\A\s*(?:[-*•]|\d{1,3}[.)])\s+")


def exact(prompt: Prompt, response: Response) -> Score:
  """1 if the final answer is `prompt.reference`, a text, as `plain` reads it.

  Reasons: "correct", "wrong", "no answer", "two answers".
  """
  gold = _expected(prompt, str)
  answer, reason = final_answer(response)
  if answer is None:
    return Score(0.0, True, reason)
  return _verdict(plain(answer) == plain(gold), plain(answer))


def unordered(prompt: Prompt, response: Response) -> Score:
  """1 if the answer lists the texts of `prompt.reference`, in any order.

  They stand between commas, semicolons, new lines, "and" or "和" (such of them
  as no expected text contains), or in a list with bullets; each as often as
  in the reference. Reasons as for `exact`.
  """
  gold = _expected(prompt, list)
  answer, reason = final_answer(response)
  if answer is None:
    return Score(0.0, True, reason)
  if len(answer) > MAX_CHARS:
    return Score(0.0, True, "too long")
  bullets = _bullets(response.answer)
  text = "\n".join(bullets) if bullets else answer.strip(" []{}()$.。")
  joints = [joint for joint in (",", "，", "、", ";", "；", "\n", " and ", "和")
            if not any(joint in item for item in gold)]
  if joints:
    text = re.sub("|".join(map(re.escape, joints)), "\n", text)
  items = sorted(filter(None, map(plain, text.split("\n"))))
  return _verdict(items == sorted(map(plain, gold)), "; ".join(items))


def grid(prompt: Prompt, response: Response) -> Score:
  """1 if every cell of a table is right: zebra puzzles, knights and knaves.

  `prompt.reference` is {row: {column: value}}. The answer (the last box or all
  of it) gives the cells as a JSON object of that shape, or else as Markdown
  tables with rows or columns first, or else as lines `row: column = value,
  column = value`. With one column its name may be missing: {"Zoey": "knight"},
  `Zoey: knight`, and, in the last paragraph, "Zoey is a knight". Cells outside
  the reference are not looked at. A cell with two values scores 0.

  Reasons: "correct", "wrong", "incomplete", "contradiction", "no answer", "two
  answers", "too long". Parts: cells, the share of right ones.
  """
  want = {
      (plain(row), plain(column)): plain(str(value))
      for row, cells in _expected(prompt, dict).items()
      for column, value in cells.items()}
  text, reason = response.answer, "no answer"
  if contents := boxes(text)[0]:
    text, reason = _single(contents)
  if not text:
    return Score(0.0, True, reason)
  if len(text) > MAX_CHARS:
    return Score(0.0, True, "too long")
  got: dict[tuple[str, str], set[str]] = {}
  for cell, value in _cells(text, want):
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

  Types are exact: `True`, `1` and `1.0` differ, and `(1,)` and `[1]`; the order
  of sets and dictionaries is free. Reasons: "correct", "wrong", "no answer",
  "two answers", and what `parse` says.
  """
  gold = parse(_expected(prompt, dict)["value"])
  answer, reason = final_answer(response)
  if answer is None:
    return Score(0.0, True, reason)
  try:
    value = spelling(_read(answer))
  except ValueError as error:
    return Score(0.0, True, str(error))
  return _verdict(value == spelling(gold), value)


def program_input(prompt: Prompt, response: Response) -> Score:
  """1 if the program gives the expected output for the answer's arguments.

  `prompt.reference` is {"program": source, "function": name, "output": literal
  text}. The answer is `f([1, 2], 3)` or `[1, 2], 3`: Python literals, by
  position. The call runs in the sandbox. Reasons: "correct", "wrong", "no
  answer", "two answers", and what the parser or the sandbox says.
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
  reason, value = code.call(reference["program"], function, arguments)
  if reason != "ok":
    return Score(0.0, True, reason, answer=written)
  return _verdict(code.same(value, gold), written)


def game24(prompt: Prompt, response: Response) -> Score:
  """1 if the answer makes `target` of all `numbers`, each used once.

  `prompt.reference` is {"numbers": [4, 7, 8, 8], "target": 24}. The answer is
  an expression as `arithmetic` reads it: four operations and brackets.
  "= 24" may follow. Reasons:
  "correct", "wrong value", "wrong numbers", "no answer", "two answers", and
  what the parser says.
  """
  reference = _expected(prompt, dict)
  answer, reason = final_answer(response)
  if answer is None:
    return Score(0.0, True, reason)
  return makes(answer, reference["numbers"], reference["target"])


def makes(answer: str, numbers: list[int], target: int) -> Score:
  """Whether an expression uses exactly `numbers` and is `target`."""
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
  """(the final answer or None, why there is none).

  It is what stands in `\\boxed{}`; else behind "the answer is", "answer:" or
  "答案是" up to the end of the line (or on the next lines, where the line ends
  there); else in a fenced block that the answer ends with; else the inside of
  `<answer>`; else the last line that is not blank. Boxes or statements that
  differ are "two answers"; a box in a box is no answer that a rule accepts.

  Args:
    response: the completion; only its answer is looked at.
    whole: where nothing points at the final answer, take all of the answer
      instead of its last line, and all that follows a statement that ends
      its line: for answers of several lines.
  """
  text = response.answer
  candidates = boxes(text)[0] or _stated(text, whole)
  if not candidates:
    inside = _unfenced(text)
    whole = whole or response.marked or inside != text
    candidates = [inside if whole else text.rstrip().rpartition("\n")[2]]
  return _single(candidates)


def plain(text: str) -> str:
  """One spelling for texts that say the same.

  Compatibility forms (full width), case, runs of white space, TeX's `\\text`,
  Markdown emphasis, quotes and punctuation at the ends do not count, nor the
  brackets of `(A)`, commas behind words, thousands' commas, a plus sign and
  zeros behind a decimal point; in a text without letters and digits white space
  does not count at all (`] )` is `])`).
  """
  if len(text) > MAX_CHARS:
    return text
  text = unicodedata.normalize("NFKC", _TEX.sub(r"\1", text)).casefold()
  text = re.sub(r"\\[$()\[\]]", "", text.replace("−", "-").replace("。", "."))
  text = " ".join(re.sub(r"[,;](?=\s)", " ", text).split())
  text = text.strip(_ENDS) or text
  if len(text) > 2 and text[0] == "(" and text[-1] == ")" and (
      text[1:-1].strip().isalnum()):
    text = text[1:-1].strip()
  if not any(map(str.isalnum, text)):
    return text.replace(" ", "")
  if _NUMBER.fullmatch(text):
    text = text.replace(",", "").removeprefix("+")
    if "." in text:
      text = text.rstrip("0").rstrip(".")
  return text


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


def _stated(text: str, whole: bool) -> list[str]:
  """What follows each "the answer is"."""
  matches = list(_STATED.finditer(text))
  ends = [m.start() for m in matches[1:]] + [len(text)]
  statements = []
  for match, end in zip(matches, ends):
    rest = _unfenced(text[match.end():end])
    below = "\n" in match.group()
    statements.append(rest if whole and below or rest != text[match.end():end]
                      else rest.partition("\n")[0])
  return statements


def _unfenced(text: str) -> str:
  """The inside of the fenced block that `text` ends with, else `text`."""
  stripped = text.rstrip()
  if not stripped.endswith("```"):
    return text
  before, opened, inside = stripped[:-3].rpartition("```")
  return inside.partition("\n")[2] if opened and "\n" in inside else text


def _read(text: str) -> Any:
  """A literal, perhaps in backticks, with a full stop or escaped for TeX."""
  text = text.strip().removesuffix(".").strip("`$").strip()
  try:
    return parse(text)
  except ValueError:
    if "\\" not in text:
      raise
  return parse(re.sub(r"\\([{}_#&%$ ])", r"\1", _TEX.sub(r"\1", text)))


def _bullets(text: str) -> list[str]:
  """The items of the list that `text` ends with."""
  items: list[str] = []
  for line in reversed(text.rstrip().split("\n")):
    match = _BULLET.match(line)
    if match is None:
      break
    items.append(line[match.end():])
  return items[::-1]


Cells = list[tuple[tuple[str, str], str]]


def _cells(text: str, want: dict[tuple[str, str], str]) -> Cells:
  """The cells of `want` that a text gives, with the values it gives them."""
  columns = {column for _, column in want}
  only = columns.pop() if len(columns) == 1 else None
  for form in (_json_cells, _table_cells, _line_cells):
    cells = []
    for row, column, value in form(text):
      row, column = plain(row), plain(column)
      if only is not None and (row, column) not in want:
        column = only if not column or form is _table_cells else column
      cell = (row, column) if (row, column) in want else (column, row)
      if cell in want:
        cells.append((cell, plain(value)))
    if form is _line_cells and only is not None:
      cells += _prose_cells(text, want)
    if cells:
      return cells
  return []


def _json_cells(text: str) -> list[tuple[str, str, str]]:
  """Cells of the JSON objects in a text; a pair may occur more than once."""
  decoder = json.JSONDecoder(object_pairs_hook=tuple)
  triples: list[tuple[str, str, str]] = []
  at = text.find("{")
  for _ in range(20):
    if at < 0:
      break
    try:
      value, at = decoder.raw_decode(text, at)
    except (ValueError, RecursionError):
      at += 1
      value = ()
    if len(value) == 1 and isinstance(value[0][1], tuple) and any(
        isinstance(cells, tuple) for _, cells in value[0][1]):
      value = value[0][1]  # {"solution": {row: ...}}
    for row, cells in value:
      if isinstance(cells, tuple):
        triples += [(row, column, str(cell)) for column, cell in cells]
      else:
        triples.append((row, "", str(cells)))
    at = text.find("{", at)
  return triples


def _table_cells(text: str) -> list[tuple[str, str, str]]:
  """Cells of the Markdown tables in a text."""
  triples = []
  header: list[str] = []
  for line in text.split("\n"):
    cells = [cell.strip() for cell in line.strip().strip("|").split("|")]
    if "|" not in line:
      header = []
    elif not header:
      header = cells
    elif any(cell.strip(":-") for cell in cells):
      triples += [(cells[0], column, cell)
                  for column, cell in zip(header[1:], cells[1:])]
  return triples


def _line_cells(text: str) -> list[tuple[str, str, str]]:
  """Cells of lines `row: column = value, column = value` or `row: value`."""
  triples = []
  for line in text.replace("：", ":").split("\n"):
    row, _, rest = _BULLET.sub("", line, count=1).partition(":")
    for pair in re.split("[,;，；]", rest):
      column, equals, value = pair.partition("=")
      if not equals:
        column, _, value = pair.rpartition(":")
      if value.strip(_ENDS):
        triples.append((row, column, value))
  return triples


def _prose_cells(text: str, want: dict[tuple[str, str], str]) -> Cells:
  """What the last paragraph says of each row: "Zoey is a knight"."""
  paragraph = re.split(r"\n\s*\n", text.strip())[-1]
  cells = []
  for cell in want:
    said = re.compile(
        rf"(?<!\w){re.escape(cell[0])}[*_]{{0,2}}\s{{0,3}}(?:\bis\b|=|是)"
        r"\s{0,3}[*_]{0,2}(?:an?\s|the\s|一个|个)?([^,.;\n，。；]{1,60})",
        re.IGNORECASE)
    for match in said.finditer(paragraph):
      value = re.split(r"\sand\s", match.group(1))[0]
      cells.append((cell, plain(value)))
  return cells
