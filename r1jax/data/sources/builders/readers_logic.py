"""Readers of logic: BBH, LogicBench, game of 24, CRUXEval, CLUEWSC."""

from __future__ import annotations

import ast
import dataclasses
import re
from collections.abc import Mapping, Sequence
from typing import Any

from etils import epath

from r1jax.core.prompt import Prompt, ask
from r1jax.data.sources.builders import rows, wording
from r1jax.data.sources.builders.rows import Items, Row

_OPTION = re.compile(r"^\(([A-Z])\) (.*)$", re.MULTILINE)
_LETTER = re.compile(r"\(([A-Z])\)")
# Instruction on the answer's form, for tasks without lettered options.
_ANSWERS = {
    "boolean_expressions": wording.TRUTH,
    "causal_judgement": wording.YES_NO,
    "dyck_languages": wording.BRACKETS,
    "formal_fallacies": wording.VALIDITY,
    "multistep_arithmetic_two": wording.NUMBER,
    "navigate": wording.YES_NO,
    "object_counting": wording.NUMBER,
    "sports_understanding": wording.YES_NO,
    "web_of_lies": wording.YES_NO,
    "word_sorting": wording.WORDS,
}


def bbh(files: Sequence[epath.Path], split: str) -> Items:
  """Files TASK.json of {canary, examples: [{input, target}]}.

  Suzgun et al., arXiv:2210.09261. The canary is kept in the metadata. Three
  published rows are malformed: their options are split at a comma, so that the
  target is not among them.
  """
  del split

  def parse(row: Row) -> Prompt:
    question = rows.text(row.fields, "input").strip()
    target = rows.text(row.fields, "target").strip()
    kept = {"task": row.file.stem}
    if canary := row.fields["_file"].get("canary"):
      kept["canary"] = canary
    body, _, listed = question.partition("\nOptions:\n")
    by_letter = dict(_OPTION.findall(listed))
    if not by_letter:
      asked = wording.joined(question, _ANSWERS.get(row.file.stem, ""))
      return _prompt(row, "bbh", asked, target, "exact", kept)
    letter = _LETTER.fullmatch(target)
    if not letter or letter[1] not in by_letter:
      raise ValueError(f"the target {target!r} is none of the options")
    asked = wording.choice(body, by_letter)
    if len(by_letter) > wording.MAX_OPTIONS:
      return _prompt(row, "bbh", asked, letter[1], "exact", kept)
    return _prompt(
        row, "bbh", asked, {"answer": letter[1], "options": by_letter},
        "choice", kept)

  return rows.elements(files, parse, key="examples")


def logicbench(files: Sequence[epath.Path], split: str) -> Items:
  """Files KIND/LOGIC/RULE/data_instances.json of samples (arXiv:2404.15522).

  KIND is BQA (several yes-no questions per sample) or MCQA (multiple choice).
  """
  del split
  return rows.elements(files, _logicbench, key="samples", expand=_questions)


def game24(files: Sequence[epath.Path], split: str) -> Items:
  """Table with the column Puzzles: `1 1 4 6` (arXiv:2305.10601)."""
  del split

  def parse(row: Row) -> Prompt:
    puzzle = rows.text(row.fields, "Puzzles").split()
    if len(puzzle) != 4 or not all(part.isdecimal() for part in puzzle):
      raise ValueError(f"'Puzzles' is {row.fields['Puzzles']!r}, not 4 numbers")
    numbers = [int(part) for part in puzzle]
    rank = rows.integer(row.fields, "Rank", 1, 10**6)
    question = wording.GAME24.format(
        numbers=", ".join(map(str, numbers)), target=24)
    return _prompt(row, "game24", question, {"numbers": numbers, "target": 24},
                   "game24", {"rank": rank})

  return rows.table(files, parse)


def cruxeval(files: Sequence[epath.Path], split: str) -> Items:
  """Predict a program's output: {code, input, output} (arXiv:2401.03065)."""
  del split

  def parse(row: Row) -> Prompt:
    code, given, output = _program(row)
    asked = wording.joined(
        wording.OUTPUT.format(call=f"f({given})"), wording.fenced(code))
    return _prompt(row, "cruxeval", asked, {"value": output}, "literal",
                   {"id": rows.text(row.fields, "id")})

  return rows.jsonl(files, parse)


def cruxeval_input(files: Sequence[epath.Path], split: str) -> Items:
  """Find an input for which the program of `cruxeval` returns the output."""
  del split

  def parse(row: Row) -> Prompt:
    code, given, output = _program(row)
    asked = wording.joined(
        wording.INPUT.format(name="f"), wording.fenced(code),
        wording.RETURNED.format(value=output))
    return _prompt(
        row, "cruxeval_input", asked,
        {"program": code, "function": "f", "output": output}, "program_input",
        {"id": rows.text(row.fields, "id"), "input": given})

  return rows.jsonl(files, parse)


def cluewsc(files: Sequence[epath.Path], split: str) -> Items:
  """Rows {text, target: {span1_text, span2_text}, label: "true" or "false"}.

  CLUE's Chinese Winograd schemas (arXiv:2004.05986): whether the pronoun (span
  2) refers to span 1.
  """
  del split

  def parse(row: Row) -> Prompt:
    target, label = row.fields.get("target"), row.fields.get("label")
    if not isinstance(target, dict):
      raise ValueError("'target' is not an object")
    if label not in ("true", "false"):
      raise ValueError(f"the label is {label!r}, neither true nor false")
    asked = wording.REFERS.format(
        pronoun=rows.text(target, "span2_text").strip(),
        name=rows.text(target, "span1_text").strip())
    by_letter = wording.options(["是", "否"])
    prompt = _prompt(
        row, "cluewsc", wording.choice(
            f"{rows.text(row.fields, 'text')}\n{asked}", by_letter,
            wording.CHOICE_ZH),
        {"answer": "BA"[label == "true"], "options": by_letter}, "choice", {})
    return dataclasses.replace(prompt, language="zh")

  return rows.elements(files, parse)


def _program(row: Row) -> tuple[str, str, str]:
  code, output = rows.text(row.fields, "code"), rows.text(row.fields, "output")
  given = row.fields.get("input")
  if not isinstance(given, str):  # may be empty: no arguments
    raise ValueError("no text under 'input'")
  if not re.search(r"^def f\(", code, re.MULTILINE):
    raise ValueError("'code' defines no function f")
  try:
    ast.literal_eval(output)
  except (ValueError, SyntaxError, MemoryError, RecursionError) as error:
    raise ValueError("'output' is no Python literal") from error
  return code, given, output


def _questions(sample: Any) -> list[Any]:
  """The sample with each of its questions and answers."""
  pairs = sample.get("qa_pairs") if isinstance(sample, dict) else None
  if not isinstance(pairs, list) or not all(
      isinstance(pair, dict) for pair in pairs):
    return [sample]
  return [{**sample, **pair} for pair in pairs]


def _logicbench(row: Row) -> Prompt:
  fields = row.fields
  context = rows.text(fields, "context")
  question = rows.text(fields, "question")
  answer = rows.text(fields, "answer").strip()
  kept = dict(zip(("kind", "logic", "rule"), row.file.parts[-4:-1]))
  if kept["kind"] == "BQA":
    if answer.lower() not in ("yes", "no"):
      raise ValueError(f"the answer is {answer!r}, neither yes nor no")
    asked = wording.joined(context, question, wording.YES_NO)
    return _prompt(row, "logicbench", asked, answer.lower(), "exact", kept)
  choices = fields.get("choices")
  if not isinstance(choices, dict) or len(choices) < 2:
    raise ValueError("'choices' is not an object of two or more")
  if answer not in choices:
    raise ValueError(f"the answer {answer!r} is none of the choices")
  rows.text(choices, answer)
  # Leave out empty choices.
  there = [key for key in choices if choices[key] != ""]
  by_letter = wording.options([rows.text(choices, key) for key in there])
  letter = wording.LETTERS[there.index(answer)]
  return _prompt(
      row, "logicbench", wording.choice(f"{context}\n\n{question}", by_letter),
      {"answer": letter, "options": by_letter}, "choice", kept)


def _prompt(
    row: Row, source: str, question: str, reference: Any, verifier: str,
    metadata: Mapping[str, Any]) -> Prompt:
  return Prompt(
      id=row.number, domain="logic", source=source, messages=ask(question),
      reference=reference, verifier=verifier, metadata=metadata)
