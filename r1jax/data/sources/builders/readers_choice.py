"""Readers of multiple choice: MMLU and variants, GPQA, C-Eval, SafetyBench."""

from __future__ import annotations

import ast
import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

from etils import epath

from r1jax.core.prompt import Prompt, ask
from r1jax.data.sources.builders import rows, wording
from r1jax.data.sources.builders.rows import Items, Row

_WRONG = tuple(f"Incorrect Answer {i}" for i in (1, 2, 3))


def mmlu(files: Sequence[epath.Path], split: str) -> Items:
  """The publisher's SPLIT/SUBJECT_SPLIT.csv without header (arXiv:2009.03300).

  Columns: question, the four options, the letter of the right one.
  """
  del split

  def parse(row: Row) -> Prompt:
    question, *texts, answer = row.fields
    if answer not in tuple("ABCD"):
      raise ValueError(f"the answer is {answer!r}, not one of A, B, C, D")
    subject = row.file.stem.rpartition("_")[0]
    return _prompt(row, "mmlu", question, texts, wording.LETTERS.index(answer),
                   {"subject": subject})

  return rows.table(files, parse, header=False, columns=6)


def mmlu_stem(files: Sequence[epath.Path], split: str) -> Items:
  """JSON Lines {question, type, choices, answer: 0 to 3}."""
  del split

  def parse(row: Row) -> Prompt:
    texts = rows.texts(row.fields, "choices", 2)
    return _prompt(
        row, "mmlu_stem", rows.text(row.fields, "question"), texts,
        rows.integer(row.fields, "answer", 0, len(texts) - 1),
        {"subject": rows.text(row.fields, "type")})

  return rows.jsonl(files, parse)


def mmlu_redux(files: Sequence[epath.Path], split: str) -> Items:
  """MMLU questions that were checked by people (arXiv:2406.04127).

  Rows whose `error_type` is not "ok" are left out, but do not count as
  malformed. The delimiter and the order of columns vary between files, and one
  file is encoded in cp1252.
  """
  del split

  def parse(row: Row) -> Prompt | None:
    question = rows.text(row.fields, "question")
    listed = rows.text(row.fields, "choices")
    try:
      choices = ast.literal_eval(listed)
    except (ValueError, SyntaxError, MemoryError, RecursionError) as error:
      raise ValueError("'choices' is no Python literal") from error
    texts = rows.texts({"choices": choices}, "choices", 2)
    kind = rows.text(row.fields, "error_type").lower().replace("_", " ").strip()
    answer = rows.integer(row.fields, "answer", 0, len(texts) - 1)
    if kind != "ok":
      return None
    return _prompt(row, "mmlu_redux", question, texts, answer,
                   {"subject": row.file.stem.removeprefix("mmlu_")})

  return rows.table(
      files, parse, delimiters=",;", encodings=("utf-8-sig", "cp1252"))


def gpqa(files: Sequence[epath.Path], split: str) -> Items:
  """Table with Question, Correct Answer, Incorrect Answer 1 to 3.

  Rein et al., arXiv:2311.12022. The options are ordered pseudo-randomly, by a
  hash of question and option.
  """
  del split

  def parse(row: Row) -> Prompt:
    question = rows.text(row.fields, "Question").strip()
    right, *wrong = (rows.text(row.fields, key).strip()
                     for key in ("Correct Answer", *_WRONG))
    if right in wrong:
      raise ValueError("the right answer is among the wrong ones")
    texts = sorted(
        (right, *wrong), key=lambda text: hashlib.sha256(
            f"{question}\0{text}".encode()).digest())
    subject = row.fields.get("High-level domain")
    return _prompt(row, "gpqa", question, texts, texts.index(right),
                   {"subject": subject} if subject else {})

  return rows.table(files, parse)


def mmlu_pro(files: Sequence[epath.Path], split: str) -> Items:
  """Rows {question, options (up to 10), answer: letter, category}.

  Wang et al., arXiv:2406.01574; Parquet, or the same rows as JSON Lines.
  Options that are "N/A" are left out.
  """
  del split

  def parse(row: Row) -> Prompt:
    texts = rows.texts(row.fields, "options", 2)
    letter = row.fields.get("answer")
    if letter not in tuple(wording.LETTERS[:len(texts)]):
      raise ValueError(
          f"the answer is {letter!r}, none of {len(texts)} options")
    right = texts[wording.LETTERS.index(letter)]
    kept = [text for text in texts if text.strip() != "N/A"]
    if right not in kept:
      raise ValueError("the answer's option is 'N/A'")
    return _prompt(row, "mmlu_pro", rows.text(row.fields, "question"), kept,
                   kept.index(right),
                   {"subject": rows.text(row.fields, "category")})

  return rows.jsonl(files, parse)


def ceval(files: Sequence[epath.Path], split: str) -> Items:
  """The publisher's SPLIT/SUBJECT_SPLIT.csv: id, question, A to D, answer.

  Huang et al., arXiv:2305.08322. The answers of the test split are not public.
  """
  del split

  def parse(row: Row) -> Prompt:
    answer = row.fields.get("answer")
    if answer not in tuple("ABCD"):
      raise ValueError(f"the answer is {answer!r}, not one of A, B, C, D")
    return _prompt(
        row, "ceval", rows.text(row.fields, "question"),
        [rows.text(row.fields, letter) for letter in "ABCD"],
        wording.LETTERS.index(answer),
        {"subject": row.file.stem.rpartition("_")[0]}, "zh")

  return rows.table(files, parse)


def safetybench(files: Sequence[epath.Path], split: str) -> Items:
  """Array of {id, category, question, options}, with answers in another file.

  SafetyBench (Zhang et al., arXiv:2309.07045): test_answers_zh*.json in the
  same folder has {id: {category, answer: index of the option}}.
  """
  del split
  answers: dict[str, Any] = {}
  for path in sorted(files[0].parent.glob("test_answers_zh*.json")):
    answers |= json.loads(path.read_text())

  def parse(row: Row) -> Prompt:
    number = row.fields.get("id")
    known = answers.get(str(number))
    if not isinstance(known, dict):
      raise ValueError(f"no answer to question {number!r} in"
                       " test_answers_zh*.json")
    texts = rows.texts(row.fields, "options", 2)
    return _prompt(
        row, "safetybench", rows.text(row.fields, "question"), texts,
        rows.integer(known, "answer", 0, len(texts) - 1),
        {"subject": rows.text(row.fields, "category")}, "zh")

  return rows.elements(files, parse)


def _prompt(
    row: Row, source: str, question: str, texts: Sequence[str], answer: int,
    metadata: Mapping[str, Any], language: str = "en") -> Prompt:
  if not question.strip():
    raise ValueError("no text under 'question'")
  if len(texts) > wording.MAX_OPTIONS:
    raise ValueError(f"{len(texts)} options, more than {wording.MAX_OPTIONS}")
  by_letter = wording.options([text.strip() for text in texts])
  if empty := [letter for letter, text in by_letter.items() if not text]:
    raise ValueError(f"option {empty[0]} is empty")
  return Prompt(
      id=row.number, domain="stem", source=source,
      messages=ask(wording.choice(
          question, by_letter,
          wording.CHOICE_ZH if language == "zh" else wording.CHOICE)),
      reference={"answer": wording.LETTERS[answer], "options": by_letter},
      verifier="choice", language=language, metadata=metadata)
