"""Reads the cells of a table from JSON, Markdown, lines or sentences.

Only the final answer counts. Ignored are tables that are denied or retracted,
everything before a "final answer" that gives cells itself, and drafts if
anything else is given. Lines after the last table count too, so that a text
cannot give one table and then contradict it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import NamedTuple

from r1jax.rewards.answers import denial
from r1jax.rewards.logic.plain import BULLET, ENDS, plain

Cell = tuple[str, str]  # (row, column), normalised by `plain`
Cells = list[tuple[Cell, str]]
Triples = list[tuple[str, str, str]]  # (row, column, value) as written

_FINAL = re.compile(
    r"(?:\A|\n)[\s#*_>]{0,8}(?:so |thus |therefore |hence |now |and )?"
    r"(?:here is )?(?:(?:the|my|our) )?(?:final|corrected|correct|right"
    r"|revised|real|actual|updated|new)\s(?:answer|solution|table|grid|version|result|assignment"
    r"|arrangement|one)\b[^\n:：]{0,40}[:：]|(?:\A|\n)[\s#*_>]{0,8}(?:所以|因此)?"
    r"(?:最终|正确的?|修正后的?|更正后的?)(?:答案|结果|表格?)[^\n:：]{0,20}[:：]",
    re.IGNORECASE)
_DRAFT = re.compile(
    r"(?:\bdraft|\b(?:first|initial|tentative|1st|wrong|old|failed)\s(?:attempt"
    r"|try|guess|version|table|idea|grid|answer)|\battempt 1|\bscratch"
    r"|草稿|初稿|初步|初次尝试)[^\n]{0,30}\Z", re.IGNORECASE)
_REPORTED = re.compile(
    r"\b(?:says?|said|claims?|claimed|states?|thinks?|believes?|tells?|told"
    r"|说|声称)\s*(?:\w{1,12}\s)?(?:that\s*)?[\"'“*_]{0,3}\Z", re.IGNORECASE)
_CORRECTS = re.compile(
    r"[\s*_>]{0,8}(?:(?:actually|correction|oops|sorry|rather|instead|wait"
    r"|hmm+)\b[\s,:!.—–-]{1,4}|no\s?[,:!.—–-]\s?|更正[：:，,]?|不对[，,：:]"
    r"|其实|应该是)", re.IGNORECASE)
_TABLE = re.compile(r"(?:^[^\n]*\|[^\n]*(?:\n|\Z))+", re.MULTILINE)
_LINES = 60  # number of last lines of a text that may correct a table
_OBJECTS = 20  # most JSON objects of a text that are read


class _Block(NamedTuple):
  start: int
  end: int
  triples: Triples


def cells(text: str, want: dict[Cell, str]) -> Cells:
  """The cells of `want` with the values that a text finally gives them.

  Args:
    text: of at most some ten thousand characters.
    want: the correct values; all texts normalised by `plain`.

  Returns:
    (cell, value) pairs; several for a cell with several values.
  """
  text = denial.kept(text)
  for match in list(_FINAL.finditer(text))[:-4:-1]:
    if given := _given(text[match.end():], want):
      return given
  return _given(text, want)


def _given(text: str, want: dict[Cell, str]) -> Cells:
  """As `cells`, without looking for a final part."""
  given: Cells = []
  drafts: Cells = []
  at = 0  # end of the last table
  blocks = sorted([*_objects(text), *_tables(text)])
  for block in blocks:
    wanted = _wanted(block.triples, want, nameless=True)
    before = text[max(0, block.start - denial.REACH):block.start]
    if not wanted or denial.denied(before, block=True):
      continue
    draft = _DRAFT.search(before.rstrip())
    (drafts if draft else given).extend(wanted)
    at = block.end
    if denial.taken_back(text, at):
      given, drafts = [], []
  rest = text[at:]
  for line in rest.split("\n")[:-_LINES - 1:-1]:
    if match := _CORRECTS.match(line):
      corrected = line[match.end():]
      if said := _wanted(_lines(corrected), want) + _sentences(corrected, want):
        return said
  rest = _kept(rest)
  said = _wanted(_lines(rest), want) + _sentences(rest, want)
  if not at:
    return said
  # Explanations after a table may look like cells: only known values count.
  known = set(want.values()) | {value for _, value in given + drafts}
  given += [(cell, value) for cell, value in said if value in known]
  return given or drafts


def _kept(text: str) -> str:
  """The text from the last line on that retracts the lines before it."""
  lines = text.split("\n")
  for number in range(len(lines) - 1, 0, -1):
    if lines[number].strip() and denial.taken_back(lines[number], 0):
      return "\n".join(lines[number:])
  return text


def _only(want: dict[Cell, str]) -> str | None:
  """The column, if there is only one."""
  columns = {column for _, column in want}
  return columns.pop() if len(columns) == 1 else None


def _wanted(triples: Triples, want: dict[Cell, str],
            nameless: bool = False) -> Cells:
  """The cells of `want` among `triples`, with rows and columns in any order.

  Args:
    triples: as written.
    want: the correct values.
    nameless: whether a single column may have any name.
  """
  only = _only(want)
  found = []
  for row, column, value in triples:
    row, column = plain(row), plain(column)
    if only is not None and (row, column) not in want:
      column = only if not column or nameless else column
    cell = (row, column) if (row, column) in want else (column, row)
    if cell in want:
      found.append((cell, plain(value)))
  return found


def _objects(text: str) -> Iterator[_Block]:
  """The JSON objects of a text; names may be repeated in an object."""
  decoder = json.JSONDecoder(object_pairs_hook=tuple)
  at = text.find("{")
  for _ in range(_OBJECTS):
    if at < 0:
      return
    start = at
    try:
      value, at = decoder.raw_decode(text, at)
    except (ValueError, RecursionError):
      at += 1
      value = ()
    if len(value) == 1 and isinstance(value[0][1], tuple) and any(
        isinstance(cells, tuple) for _, cells in value[0][1]):
      value = value[0][1]  # {"solution": {row: ...}}
    triples: Triples = []
    for row, cells in value:
      if isinstance(cells, tuple):
        triples += [(row, column, str(cell)) for column, cell in cells]
      else:
        triples.append((row, "", str(cells)))
    yield _Block(start, at, triples)
    at = text.find("{", at)


def _tables(text: str) -> Iterator[_Block]:
  """The Markdown tables of a text."""
  for match in _TABLE.finditer(text):
    header: list[str] = []
    triples: Triples = []
    for line in match.group().rstrip("\n").split("\n"):
      cells = [cell.strip() for cell in line.strip().strip("|").split("|")]
      if not header:
        header = cells
      elif any(cell.strip(":-") for cell in cells):
        triples += [(cells[0], column, cell)
                    for column, cell in zip(header[1:], cells[1:])]
    yield _Block(*match.span(), triples)


def _lines(text: str) -> Triples:
  """Cells from lines `row: column = value, column = value` or `row: value`."""
  triples = []
  for line in text.replace("：", ":").split("\n"):
    row, _, rest = BULLET.sub("", line, count=1).partition(":")
    for pair in re.split("[,;，；]", rest):
      column, equals, value = pair.partition("=")
      if not equals:
        column, _, value = pair.rpartition(":")
      if value.strip(ENDS):
        triples.append((row, column, value))
  return triples


def _sentences(text: str, want: dict[Cell, str]) -> Cells:
  """Cells from sentences of the last paragraph, such as "Zoey is a knight".

  Only for tables with one column. Sentences that are denied, supposed or
  reported ("Bob says") are ignored.
  """
  if _only(want) is None:
    return []
  paragraph = re.split(r"\n\s*\n", text.strip())[-1]
  found = []
  for cell in want:
    said = re.compile(
        rf"(?<!\w){re.escape(cell[0])}[*_]{{0,2}}\s{{0,3}}(?:\bis\b|=|是)"
        r"\s{0,3}[*_]{0,2}(?:an?\s|the\s|一个|个)?([^,.;\n，。；]{1,60})",
        re.IGNORECASE)
    for match in said.finditer(paragraph):
      before = paragraph[max(0, match.start() - denial.REACH):match.start()]
      if _REPORTED.search(before) or denial.denied(before) or (
          denial.taken_back(paragraph, match.end())):
        continue
      value = re.split(r"\sand\s", match.group(1))[0]
      found.append((cell, plain(value)))
  return found
