"""Writes SFT data: the rows, and a report on what was kept and dropped."""

from __future__ import annotations

import codecs
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from etils import epath

from r1jax.core import io
from r1jax.core.config import DataError, check
from r1jax.core.prompt import Prompt
from r1jax.data.sources import json_rows, sft_rows
from r1jax.data.sources.selection import Report
from r1jax.data.streams import sft
from r1jax.data.text.tokenizer import Tokenizer

DATA, REPORT = "sft.jsonl", "report.json"
_SHOWN = 10  # malformed rows that a message names


class Row(NamedTuple):
  """A dialogue to write.

  Attributes:
    domain: its domain, for the report's table.
    line: its JSON, without a newline.
    rounds: number of user messages.
    tokens: tokens of questions and answers.
  """

  domain: str
  line: bytes
  rounds: int
  tokens: int


def row(prompt: Prompt, answer: str, tokens: int, **more: Any) -> Row:
  """A question and its answer in the format that `train_sft` reads.

  Args:
    prompt: the question.
    answer: the assistant's text.
    tokens: of question and answer.
    **more: further fields of the JSON object.
  """
  rounds = sum(message["role"] == "user" for message in prompt.messages)
  return Row(prompt.domain, json.dumps({
      "messages": [*map(dict, prompt.messages),
                   {"role": "assistant", "content": answer}],
      "source": prompt.source, "domain": prompt.domain,
      "language": prompt.language, "id": prompt.id, **more,
  }, ensure_ascii=False).encode("utf-8", "replace"), rounds, tokens)


def joined(path: str | os.PathLike, tokenizer: Tokenizer,
           malformed: list[str]) -> Iterator[Row]:
  """The rows of a JSONL file of dialogues, unchanged.

  The domain is the row's "domain", by default general; tokens are those of all
  messages. Malformed rows are left out, and named in `malformed`.

  Raises:
    DataError: the file cannot be read, or more than 1 % of it is malformed.
  """
  total, before = 0, len(malformed)
  for where, line in json_rows.lines(path):
    total += 1
    try:
      messages = sft_rows.parse(line).messages
      sft.check_turns(messages)
      domain = json_rows.parse(line).get("domain", "general")
      check(isinstance(domain, str), "its domain is not a string")
    except ValueError as error:
      malformed.append(f"{where}: {error}")
      continue
    yield Row(domain, line.removeprefix(codecs.BOM_UTF8).strip(),
              sum(m["role"] == "user" for m in messages),
              sum(len(tokenizer.encode(m["content"])) for m in messages))
  bad = malformed[before:]
  check(len(bad) <= sft.MALFORMED * total, f"{len(bad)} of {total} rows are"
        f" malformed, more than {sft.MALFORMED:.0%}; fix or remove them:\n  "
        + "\n  ".join(bad[:_SHOWN]), DataError)


def write(workdir: str | os.PathLike, rows: Iterable[Row], report: Report, *,
          others: Sequence[str] = (), tokenizer: Tokenizer | None = None,
          before: Report | None = None, settings: dict[str, Any]) -> str:
  """Streams rows into `sft.jsonl` and writes `report.json`.

  Args:
    workdir: the stage's folder.
    rows: the stage's own rows, written first.
    report: has counted all rows once `rows` is exhausted.
    others: JSONL files whose rows are appended.
    tokenizer: counts the tokens of those.
    before: the report on the samples, where rows are rewrites of some of them.
    settings: of the selection, for the report.

  Returns:
    A summary of what was read and written.

  Raises:
    ValueError: none of the stage's own rows is left.
    DataError: as `joined`.
    OSError: the disk is full or read-only; `sft.jsonl` is then unchanged.
  """
  workdir, malformed = epath.Path(workdir), []
  with io.written(workdir / DATA) as file:
    for one in rows:
      _put(file, one, report)
    check(report.total.rows > 0, "no answer is left to train on; the answers:"
          f"\n{report.counts()}")
    for path in others:
      for one in joined(path, tokenizer, malformed):
        _put(file, one, report)
  lines = [report.counts(), "", report.table(), ""]
  if before:
    lines = [before.counts("samples"), "", report.counts("rewritten"),
             *lines[1:]]
  if malformed:
    lines += [f"{len(malformed)} malformed rows were left out:"]
    lines += [f"  {line}" for line in malformed[:_SHOWN]]
  text = "\n".join([*lines, f"wrote {report.total.rows} rows to"
                    f" {workdir / DATA}"])
  earlier = {"samples": before.to_json()["answers"]} if before else {}
  io.write_json(workdir / REPORT, earlier | dict(report.to_json()) | {
      "malformed": malformed, "settings": settings, "text": text})
  return text


def _put(file, one: Row, report: Report) -> None:
  file.write(one.line + b"\n")
  report.wrote(one.domain, one.rounds, one.tokens)
