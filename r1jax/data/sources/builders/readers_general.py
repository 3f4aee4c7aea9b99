"""Readers of general prompts: IFEval, preferences, and prompts of any domain.

`prompts` reads the user's own prompts: JSON Lines in the format of `record`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from etils import epath

from r1jax.core.prompt import Prompt, ask
from r1jax.data.sources.builders import record, rows, wording
from r1jax.data.sources.builders.rows import Items, Row


def ifeval(files: Sequence[epath.Path], split: str) -> Items:
  """Rows {key, prompt, instruction_id_list, kwargs} (arXiv:2311.07911)."""
  del split

  def parse(row: Row) -> Prompt:
    ids = rows.texts(row.fields, "instruction_id_list")
    kwargs = row.fields.get("kwargs")
    if (not isinstance(kwargs, list) or len(kwargs) != len(ids)
        or not all(isinstance(each, dict) for each in kwargs)):
      raise ValueError(f"'kwargs' is not a list of {len(ids)} objects")
    # Some publishers set arguments that an instruction does not use to null.
    kwargs = [{key: value for key, value in each.items() if value is not None}
              for each in kwargs]
    return _prompt(
        row, "ifeval", rows.text(row.fields, "prompt"),
        {"ids": ids, "kwargs": kwargs}, "instructions",
        {"key": rows.integer(row.fields, "key", 0, 10**9)})

  return rows.jsonl(files, parse)


def pandalm(files: Sequence[epath.Path], split: str) -> Items:
  """Pairs of responses with the votes of three people (arXiv:2306.05087).

  A vote is 1 or 2 (the better response) or 0 (a tie). No rule judges answers.
  """
  del split

  def parse(row: Row) -> Prompt:
    # One of the two fields may be empty.
    said = [row.fields.get(key) for key in ("instruction", "input")]
    if not all(isinstance(part, str) for part in said) or not any(
        part.strip() for part in said):
      raise ValueError("no text under 'instruction' and 'input'")
    responses = [_response(row.fields, f"response{i}") for i in (1, 2)]
    votes = [rows.integer(row.fields, f"annotator{i}", 0, 2) for i in (1, 2, 3)]
    return _prompt(
        row, "pandalm",
        wording.joined(*said), None, "",
        {"responses": responses, "votes": votes})

  return rows.elements(files, parse)


def prompts(
    files: Sequence[epath.Path], split: str, domain: str = "") -> Items:
  """The user's own prompts in JSON Lines, of one domain or of all ("")."""
  del split
  seen: dict[int, str] = {}

  def parse(row: Row) -> Prompt | None:
    prompt = record.from_json(row.fields, row.number)
    here = f"{row.file}:{row.line}"
    if (first := seen.setdefault(prompt.id, here)) != here:
      raise ValueError(f"id={prompt.id} is taken by {first}")
    return prompt if domain in ("", prompt.domain) else None

  return rows.jsonl(files, parse)


def _response(fields: Mapping[str, Any], key: str) -> str:
  """A response, possibly empty; "True" is a JSON true in the published file."""
  value = fields.get(key)
  if isinstance(value, bool):
    return str(value)
  if not isinstance(value, str):
    raise ValueError(f"no text under {key!r}")
  return value


def _prompt(
    row: Row, source: str, question: str, reference: Any, verifier: str,
    metadata: Mapping[str, Any]) -> Prompt:
  return Prompt(
      id=row.number, domain="general", source=source, messages=ask(question),
      reference=reference, verifier=verifier, metadata=metadata)
