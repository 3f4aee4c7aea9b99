"""Readers of open questions, whose answers a judge compares with a baseline's.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from etils import epath

from r1jax.core.prompt import Prompt, ask
from r1jax.data.sources.builders import rows
from r1jax.data.sources.builders.rows import Items, Row

DIFFICULTY = "instruction_difficulty.csv"  # of AlpacaEval, in the same folder
BASELINE = "model_answer/*.jsonl"  # of Arena-Hard, in the same folder


def alpaca_eval(files: Sequence[epath.Path], split: str) -> Items:
  """Array of {instruction, output, generator, dataset}: the baseline's file.

  AlpacaEval 2 (arXiv:2404.04475): alpaca_eval_gpt4_baseline.json has the
  baseline's answers. metadata: baseline, generator, dataset, and difficulty if
  the publisher's table `DIFFICULTY` is in the same folder.
  """
  del split
  difficulty = {}
  path = files[0].parent / DIFFICULTY
  if path.exists():
    table = csv.reader(path.read_text().splitlines())
    next(table, None)
    difficulty = {int(cells[0]): float(cells[1]) for cells in table}

  def parse(row: Row) -> Prompt:
    kept = {"baseline": rows.text(row.fields, "output")}
    for key in ("generator", "dataset"):
      if isinstance(row.fields.get(key), str):
        kept[key] = row.fields[key]
    if row.number in difficulty:
      kept["difficulty"] = difficulty[row.number]
    return _prompt(row, "alpaca_eval", rows.text(row.fields, "instruction"),
                   kept)

  return rows.elements(files, parse)


def arena_hard(files: Sequence[epath.Path], split: str) -> Items:
  """Rows {uid, prompt, category, cluster}, or {question_id, turns}.

  Arena-Hard (arXiv:2406.11939), versions 0.1 and 2.0. metadata "baseline" is
  the answer in the only file under model_answer/, if there is one.
  """
  del split
  answers = _baseline(files[0].parent)

  def parse(row: Row) -> Prompt:
    fields = row.fields
    key = "uid" if "uid" in fields else "question_id"
    name = rows.text(fields, key)
    if "prompt" in fields:
      question = rows.text(fields, "prompt")
    else:
      question = _first_turn(fields)
    kept = {"uid": name, **{part: fields[part] for part in (
        "category", "cluster") if isinstance(fields.get(part), str)}}
    if answers:
      if name not in answers:
        raise ValueError(f"no answer to {name} in {BASELINE}")
      kept["baseline"] = answers[name]
    return _prompt(row, "arena_hard", question, kept)

  return rows.jsonl(files, parse)


def mt_bench(files: Sequence[epath.Path], split: str) -> Items:
  """Rows {question_id, category, turns}; only the first turn is asked.

  Zheng et al., arXiv:2306.05685. The second turn would need the first answer.
  """
  del split

  def parse(row: Row) -> Prompt:
    turns = rows.texts(row.fields, "turns")
    if not turns[0].strip():
      raise ValueError("the first turn is empty")
    return _prompt(
        row, "mt_bench", turns[0], {
            "uid": str(rows.integer(row.fields, "question_id", 0, 10**9)),
            "category": rows.text(row.fields, "category"),
            "turns": len(turns)})

  return rows.jsonl(files, parse)


def _baseline(folder: epath.Path) -> dict[str, str]:
  """{question id: the baseline's answer}; {} without a file of answers.

  Raises:
    ValueError: there are several files, or the file has another format.
  """
  paths = sorted(folder.glob(BASELINE))
  if not paths:
    return {}
  if len(paths) > 1:
    raise ValueError(
        f"{folder} has the answers of {', '.join(p.stem for p in paths)}; keep"
        f" only the baseline's file under {BASELINE}")
  return dict(_answers(paths[0]))


def _answers(path: epath.Path) -> Iterator[tuple[str, str]]:
  for number, line in enumerate(path.read_text().split("\n"), start=1):
    if not line.strip():
      continue
    try:
      row = json.loads(line)
      if "messages" in row:  # version 2
        said = row["messages"][-1]["content"]
        said = said["answer"] if isinstance(said, dict) else said
      else:
        said = row["choices"][0]["turns"][0]["content"]
      yield str(row.get("uid", row.get("question_id"))), str(said)
    except (ValueError, LookupError, TypeError) as error:
      raise ValueError(f"{path}:{number}: no answer of Arena-Hard's form"
                       ) from error


def _first_turn(fields: Mapping[str, Any]) -> str:
  turns = fields.get("turns")
  if not isinstance(turns, list) or not turns or not isinstance(
      turns[0], dict):
    raise ValueError("neither a text under 'prompt' nor 'turns'")
  return rows.text(turns[0], "content")


def _prompt(row: Row, source: str, question: str,
            metadata: Mapping[str, Any]) -> Prompt:
  return Prompt(
      id=row.number, domain="general", source=source, messages=ask(question),
      reference=None, verifier="", metadata=metadata)
